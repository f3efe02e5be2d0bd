"""Texts as a person may read them."""

from __future__ import annotations


def legible(text: str) -> str:
    """A text as a terminal may get it: what moves the cursor, colours or hides is spelled out."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def first_line(error: BaseException | None) -> str:
    """The first line of an error's text, which may have none."""
    return str(error).strip().split("\n")[0]


def first_line_with_kind(error: BaseException) -> str:
    """The same behind the kind of the error: ``KeyError: 'shape'``."""
    return f"{type(error).__name__}: {error}".strip().split("\n")[0]


def decimal(number: float, digits: int) -> str:
    """A number with so many decimals, and a true minus."""
    return f"{number:.{digits}f}".replace("-", "−")


def count(number: int, noun: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
