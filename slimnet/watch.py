"""How long work says what it is doing, and what else its user should know."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

Watch: TypeAlias = Callable[[str, float], None]
"""Told what is being done and how much of it is (0..1)."""


def unwatched(text: str, part: float) -> None:
    """Nobody looks."""


def remark(text: str) -> None:
    """Say what stops nothing and should be known: on stderr, or wherever logging sends it."""
    logging.getLogger("slimnet").warning("%s", text)
