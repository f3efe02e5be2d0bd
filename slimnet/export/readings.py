"""What the readings of rounds come to: medians, their spread, and how sure the median is.

A spread is that from the 10th to the 90th percentile of the rounds. An interval is where the median
lies with 95 %: the percentile bootstrap, which draws the rounds again, with replacement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Seconds: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
Interval: TypeAlias = tuple[float, float]

DRAWS = 2000
NOISE = 0.02
"""A difference that sessions of one and the same file may have (benchmarks/README.md)."""


@dataclass(frozen=True)
class Timing:
    """One candidate: milliseconds for one run of the whole batch, by the clock that decides."""

    name: str
    median_ms: float
    low_ms: float  # 10th percentile of the rounds
    high_ms: float  # 90th percentile
    interval_ms: Interval | None = None  # of the median; None where it is unknown
    wall_ms: float | None = None  # the median that went by
    cpu_ms: float | None = None  # the median that all threads computed


@dataclass(frozen=True)
class Speedup:
    """How many times faster than the baseline: ratios of times measured in the same round."""

    name: str
    baseline: str
    median: float
    low: float  # 10th percentile of the rounds
    high: float  # 90th percentile
    interval: Interval | None = None  # of the median; None where it is unknown

    @property
    def verdict(self) -> str:
        """``faster`` or ``slower`` where spread and interval both say so, or ``undecided``.

        The interval must be beyond the noise. It alone is not enough: it takes the rounds for
        independent, and the load of a machine lasts for many of them.
        """
        low, high = self.interval or (self.low, self.high)
        if self.low > 1 and low > 1 + NOISE:
            return "faster"
        return "slower" if self.high < 1 and high < 1 / (1 + NOISE) else "undecided"


def timing_of(name: str, wall: Seconds, cpu: Seconds, decides: Seconds) -> Timing:
    """From the seconds [rounds] of a candidate by each clock, and by the one that decides."""
    low, median, high = _spread(decides * 1e3)
    whole, computed = (float(np.median(seconds * 1e3)) for seconds in (wall, cpu))
    return Timing(name, median, low, high, interval(decides * 1e3), whole, computed)


def speedup_of(name: str, baseline: str, seconds: Seconds, against: Seconds) -> Speedup:
    """From the seconds [rounds] of a candidate and those of the baseline, round by round."""
    ratios = against / seconds
    low, median, high = _spread(ratios)
    return Speedup(name, baseline, median, low, high, interval(ratios))


def interval(values: Seconds) -> Interval:
    """Where the median of the values lies with 95 %; the same values, the same interval."""
    picked = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.percentile(np.median(values[picked], axis=1), (2.5, 97.5)).tolist()
    return low, high


def _spread(values: Seconds) -> tuple[float, float, float]:
    low, median, high = np.percentile(values, (10, 50, 90)).tolist()
    return low, median, high
