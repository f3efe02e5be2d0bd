"""As many cores as threads: nothing that is timed moves from core to core meanwhile."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Cores = tuple[int, ...]


@contextmanager
def pinned(count: int) -> Iterator[Cores]:
    """This thread, and those that it starts meanwhile, on ``count`` cores: which these are.

    None, and nothing is pinned, where the system does not let it or has no more cores than that.
    Afterwards all of them may run where this thread could before.
    """
    if sys.platform != "linux" or count >= len(before := os.sched_getaffinity(0)):
        yield ()
        return
    running = _threads()
    cores = _pin(_chosen(before, count))
    try:
        yield cores
    finally:
        for thread in (0, *(_threads() - running)) if cores else ():
            with suppress(OSError):  # it has ended, or the cores were taken from the process
                os.sched_setaffinity(thread, before)


def _pin(cores: Cores) -> Cores:
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setaffinity(0, cores)
            return cores
    return ()


def _threads() -> set[int]:
    folder = Path("/proc/self/task")
    return {int(entry.name) for entry in folder.iterdir()} if folder.is_dir() else set()


def _chosen(allowed: Collection[int], count: int) -> Cores:
    """The core that the system has put this thread on, then others, halves of one core last."""
    here = _current()
    first: list[int] = []
    halves: list[int] = []
    taken: set[str] = set()
    for core in sorted(allowed, key=lambda core: (core != here, core)):
        whole = _siblings(core)
        (halves if whole in taken else first).append(core)
        taken.add(whole)
    return tuple([*first, *halves][:count])


def _current() -> int:
    """The core that this thread runs on; -1 where the system does not say."""
    with suppress(OSError, IndexError, ValueError):
        return int(Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()[36])
    return -1


def _siblings(core: int) -> str:
    """What stands for the core whose hardware threads have these numbers."""
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    with suppress(OSError):
        return path.read_text().strip()
    return str(core)
