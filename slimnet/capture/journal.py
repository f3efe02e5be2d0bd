"""What code does with sizes during one pass that the sizes themselves cannot remember.

Two numbers that the code found equal must be equal after a cut too. Code that hashed a size may
have got its answer from a cache (:mod:`.caches`), and code that made a plain integer of one lost
its source (:mod:`.conversions`): for each of the two, the model is recorded again. Each thread has
its own journal, while it records.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from slimnet.capture.sites import Site


@dataclass(frozen=True)
class Equality:
    """Two numbers that the code found equal, as a source that is 1, and where."""

    source: Any
    site: Site


def _nowhere() -> Site:
    return Site("", 0, "", "")


class Journal:
    """The notes of one pass."""

    def __init__(self) -> None:
        self.site: Callable[[], Site] = _nowhere  # finds the user's line
        self.equalities: dict[Any, Equality] = {}
        self.hashing: set[CodeType] = set()  # whose code hashed a size
        self._converting: dict[int, dict[str, Any]] = {}

    @property
    def converting(self) -> list[dict[str, Any]]:
        """The global names of those whose code made a plain integer of a size."""
        return list(self._converting.values())

    def equal(self, source: Any) -> None:
        """Note a comparison that found its sides equal."""
        if source not in self.equalities:
            self.equalities[source] = Equality(source, self.site())

    def hashed(self) -> None:
        """Note that a size was hashed: by a dict, a set, or a function that keeps its results."""
        for frame in _asking():
            self.hashing.add(frame.f_code)

    def converted(self) -> None:
        """Note that ``int`` or ``len`` made a plain integer of a size."""
        for frame in _asking():
            if not _name(frame).startswith("torch."):
                self._converting[id(frame.f_globals)] = frame.f_globals


def _asking() -> Iterator[FrameType]:
    """The frame that asked a size for something: the innermost that is not of the recording."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and (_name(frame).startswith(_OURS) or _is_len(frame)):
        frame = frame.f_back
    if frame is not None:
        yield frame


_OURS = ("slimnet.capture.", "slimnet.program.")


def _name(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_len(frame: FrameType) -> bool:
    """Between ``len(tensor)`` and the recording stand torch's own methods."""
    return _name(frame) in ("torch._tensor", "torch.overrides")


class _Current(threading.local):
    journal: Journal | None = None


_current = _Current()


def journal() -> Journal | None:
    """The journal of the pass that this thread is recording."""
    return _current.journal


@contextmanager
def keeping(notes: Journal) -> Iterator[None]:
    """While the block runs, this thread's sizes write into these notes."""
    before = _current.journal
    _current.journal = notes
    try:
        yield
    finally:
        _current.journal = before
