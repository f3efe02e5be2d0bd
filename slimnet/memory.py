"""How much memory something needs at most, on the CPU: the highest mark of this process."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_SELF = Path("/proc/self")


def peak_bytes(run: Callable[[], object]) -> int | None:
    """By how much the mark rose while this ran; None where the system does not say.

    To be called in a process of its own: what was freed before is used again, and not seen.
    """
    gc.collect()
    lower_mark()
    before = highest_mark()
    run()
    after = highest_mark()
    return None if before is None or after is None else max(0, after - before)


def lower_mark() -> None:
    """To what is in use now, where the system does that."""
    with suppress(OSError):
        (_SELF / "clear_refs").write_text("5")


def highest_mark() -> int | None:
    """The most bytes that this process has had in memory.

    On Linux not ``ru_maxrss``: a process begins with that of the one that started it.
    """
    with suppress(OSError, StopIteration, ValueError):
        lines = (_SELF / "status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
