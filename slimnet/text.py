"""Texts as a person may read them."""

from __future__ import annotations


def legible(text: str) -> str:
    """A text as a terminal may get it: what moves the cursor, colours or hides is spelled out."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def count(number: int, noun: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
