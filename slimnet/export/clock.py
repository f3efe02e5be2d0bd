"""Two clocks in one reading: the time that went by, and what the process computed meanwhile.

Where others run on the same cores, the wall time of a small kernel has two modes, up to five times
apart, and its CPU time has one. So on one thread the CPU time decides which network is faster.
Several threads wait for each other, and spin while they do: there it is the wall time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["CPU", "wall"]


@dataclass(frozen=True)
class Clock:
    """Where the times are read, in seconds."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time  # of all threads of the process
    own: Callable[[], float] = time.thread_time  # of the thread that asks

    def timed(
        self, run: Callable[[], object], repeats: int = 1, *, alone: bool = False
    ) -> tuple[float, float]:
        """Wall and CPU seconds of one run; ``alone`` where this thread computes it all.

        Then what other threads do meanwhile, such as drawing a bar, is not counted.
        """
        computed = self.own if alone else self.cpu
        wall, cpu = self.wall(), computed()
        for _ in range(repeats):
            run()
        return (self.wall() - wall) / repeats, (computed() - cpu) / repeats


def deciding(threads: int, *, on_cpu: bool) -> Kind:
    """Which time says how fast a candidate is; Windows counts CPU time in steps of 16 ms."""
    return "CPU" if threads == 1 and on_cpu and sys.platform != "win32" else "wall"
