"""The progress of long work, and what else its user should know."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, float], None]
"""Told what is being done and how much of it is (0..1)."""


def not_shown(text: str, part: float) -> None:
    """The default: progress is not reported to anybody."""


def remark(text: str) -> None:
    """Say what stops nothing and should be known: on stderr, or wherever logging sends it."""
    logging.getLogger("slimnet").warning("%s", text)
