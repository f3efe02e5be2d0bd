"""What became of sizes during one pass, where they could not carry it themselves.

``int(n * 0.5)`` is a plain integer, whatever ``n`` was: the journal remembers what it was made of,
and recalls it where an integer of that value arrives in the same call of the user's function. That
is no proof that it is the same one; the cut network is. It also writes down what the code found
equal, for it must be equal after a cut too. Each thread has its own journal, while it records.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import dropwhile, islice
from types import CodeType, FrameType
from typing import Any

from slimnet.capture.sites import Site


@dataclass(frozen=True)
class Equality:
    """Two numbers that the code found equal, as a source that is 1, and where."""

    source: Any
    site: Site


@dataclass(frozen=True)
class _Forgotten:
    """A plain integer, what it was made of, and the frames of who asked for it."""

    value: int
    source: Any
    frames: frozenset[tuple[int, CodeType]]
    itself: bool  # whether this very object is what the code got


class Journal:
    """The notes of one pass."""

    def __init__(self) -> None:
        self.site: Callable[[], Site] = _nowhere  # finds the user's line
        self.equalities: dict[Any, Equality] = {}
        self.hashing: set[CodeType] = set()  # whose code hashed a size
        self._forgotten: dict[int, list[_Forgotten]] = defaultdict(list)

    def equal(self, source: Any) -> None:
        """This comparison gave: equal."""
        if source not in self.equalities:
            self.equalities[source] = Equality(source, self.site())

    def hashed(self) -> None:
        """A size was looked up: in a dict, in a set, by a function that remembers its results."""
        self.hashing.update(frame.f_code for frame in islice(_frames(sys._getframe(1)), 1))

    def forgotten(self, value: int, source: Any, *, itself: bool = True) -> int:
        """A plain integer was made of a source; ``len`` makes yet another one of it."""
        users = dropwhile(lambda frame: not _is_users(frame), _frames(sys._getframe(1)))
        asking = islice(users, 2)  # the function itself, and who called it
        frames = frozenset(map(_key, filter(_is_users, asking)))
        self._forgotten[value].append(_Forgotten(value, source, frames, itself))
        return value

    def recalled(self, value: int) -> Any:
        """What a plain integer was made of, the latest first; None for one that nothing made.

        Python keeps only one integer of each value up to 256: those must have been made in a
        function that is still running, or that one which is has called.
        """
        made = self._forgotten.get(value)
        if made is None:
            return None
        running = set(map(_key, _frames(sys._getframe(1))))
        for entry in reversed(made):
            known = entry.itself and value > _SHARED
            if entry.value is value if known else entry.frames & running:
                return entry.source
        return None


def _nowhere() -> Site:
    return Site("", 0, "", "")


_SHARED = 256  # CPython has one object for each of the integers up to it


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Who is running, the innermost first, without the sizes themselves."""
    while frame is not None:
        if not _name(frame).startswith("slimnet.capture."):
            yield frame
        frame = frame.f_back


def _is_users(frame: FrameType) -> bool:
    return not _name(frame).startswith("torch.")


def _name(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _key(frame: FrameType) -> tuple[int, CodeType]:
    """What tells a call from others while it runs, and keeps none of its values alive."""
    return id(frame), frame.f_code


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
