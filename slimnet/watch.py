"""How long work says what it is doing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Watch: TypeAlias = Callable[[str, float], None]
"""Told what is being done and how much of it is (0..1)."""


def unwatched(text: str, part: float) -> None:
    """Nobody looks."""
