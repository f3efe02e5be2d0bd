"""What else the machine did while something was timed, as sentences for who reads the times."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_STAT, _CPUS = Path("/proc/stat"), Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Moment:
    """What had been computed up to now, in seconds of one core."""

    wall: float
    own: float  # by this process
    all: float | None  # by everybody, since the machine started; None where nobody says
    load: float  # programs that ran or waited, the mean of a minute; 0 where nobody says

    @classmethod
    def now(cls) -> Moment:
        """This one."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        return cls(time.perf_counter(), time.process_time(), _computed(), load)


def _computed() -> float | None:
    """User, nice, system, interrupts, and what the host took away: all but waiting."""
    with suppress(OSError, ValueError, IndexError):
        ticks = [int(word) for word in _STAT.read_text().split("\n", 1)[0].split()[1:]]
        used = sum(ticks[n] for n in (0, 1, 2, 5, 6, 7))
        return used / os.sysconf("SC_CLK_TCK") if used else None
    return None


def others_between(before: Moment, after: Moment) -> float:
    """Cores that others kept busy, on average; the load before where the system does not say."""
    seconds = after.wall - before.wall
    if before.all is None or after.all is None or seconds <= 0:
        return before.load
    return max(0.0, (after.all - before.all - (after.own - before.own)) / seconds)


def load_remarks(others: float, cores: int, threads: int) -> Iterator[str]:
    """Whether others needed the cores that these threads ran on."""
    if others > cores - threads + _SOME:
        needed = "1 was" if threads == 1 else f"{threads} were"
        advice = "" if threads == 1 else "; on one thread the CPU time decides, which bears that"
        yield (
            f"the machine was busy: others kept {others:.1f} of its {cores} cores occupied while "
            f"{needed} needed here{advice}"
        )


_SOME = 0.25  # of a core: what any system does by the way


def wait_remarks(wall_ms: float, cpu_ms: float) -> Iterator[str]:
    """Whether the one thread had to wait for its core; medians of one run."""
    if cpu_ms > 0 and wall_ms > _LONG * cpu_ms:
        yield (
            f"others ran on the same core: in the median a run took {wall_ms / cpu_ms:.1f} times "
            "its CPU time by the wall; CPU times are compared"
        )


_LONG = 1.2


def frequency_remarks(cores: Iterable[int]) -> Iterator[str]:
    """Whether the frequency of these cores may change while they compute."""
    governors = {name for core in cores if (name := _governor(core)) not in ("", "performance")}
    if governors:
        yield (
            f"the frequency of the processor may change (governor {', '.join(sorted(governors))}); "
            "performance keeps it"
        )


def _governor(core: int) -> str:
    with suppress(OSError):
        return (_CPUS / f"cpu{core}" / "cpufreq" / "scaling_governor").read_text().strip()
    return ""
