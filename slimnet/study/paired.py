"""Differences paired by seed: their mean, an interval, and whether chance alone may give them.

The statistics are scipy's: a BCa bootstrap interval of the mean (Efron 1987), and the sign-flip
test, which is exact up to 13 seeds. It asks how often differences of these sizes and of random
signs have a mean as far from 0: of n seeds at best 2 in 2^n, which is 5 % or less from six seeds
on. All comparisons with equally many seeds are computed in one call.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

LEVEL = 0.05
RESAMPLES = 1999  # of the bootstrap
FLIPS = 9999  # of the signs; all of them are tried where there are no more
TOGETHER = 256  # comparisons in one call of scipy's, or they would need a lot of memory


@dataclass(frozen=True)
class Paired:
    """What the differences of some seeds come to."""

    mean: float
    low: float | None  # of the 95 % interval; None where there is no spread to tell it from
    high: float | None
    p: float  # of the sign-flip test, two-sided; 1 for one seed


def paired(rows: Sequence[Sequence[float]]) -> list[Paired]:
    """Sum up each row of differences, one number a seed; rows may have different seeds."""
    found: dict[int, Paired] = {}
    for seeds in {len(row) for row in rows}:
        numbers = [number for number, row in enumerate(rows) if len(row) == seeds]
        for start in range(0, len(numbers), TOGETHER):
            part = numbers[start : start + TOGETHER]
            values = np.array([rows[number] for number in part], dtype=np.float64)
            found.update(zip(part, _summed_up(values), strict=True))
    return [found[number] for number in range(len(rows))]


def corrected(p: Sequence[float]) -> list[float]:
    """The p-values of a family of comparisons: at 5 %, so many of its findings are false at most.

    That is the expected share among the findings (Benjamini and Hochberg 1995), right for a list of
    verdicts that are read together. To exclude a single false one (Holm) would leave six seeds,
    whose p is 3 % at best, no finding among two comparisons however clear both are.
    """
    from scipy.stats import false_discovery_control

    return [float(value) for value in false_discovery_control(p)] if p else []


def seeds_needed(comparisons: int = 1) -> int:
    """The least number of seeds, all of one sign, that decide one of so many comparisons alone.

    Where all of them are clear, as many as for one are enough.
    """
    return next(n for n in count(1) if comparisons * 2 / (1 << n) <= LEVEL)


def coverage(seeds: int) -> float:
    """How often the true mean lies among so many seeds, where it is as often above as below one."""
    return 1 - 2 / (1 << seeds)


def _summed_up(values: npt.NDArray[np.float64]) -> Iterator[Paired]:
    """``values`` is [comparisons, seeds]."""
    low, high = _intervals(values)
    means, ps = values.mean(axis=1), _sign_flips(values)
    for mean, least, most, p in zip(means, low, high, ps, strict=True):
        spread = not math.isnan(least)
        yield Paired(
            float(mean), float(least) if spread else None, float(most) if spread else None, float(p)
        )


def _intervals(
    values: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The ends of each interval; NaN where all values of a row are alike."""
    from scipy.stats import bootstrap  # half a second to import

    low, high = np.full((2, len(values)), np.nan)
    spread = np.ptp(values, axis=1) > 1e-9 * np.abs(values).max(axis=1)
    if spread.any():
        drawn = bootstrap(
            (values[spread],),
            np.mean,
            n_resamples=RESAMPLES,
            vectorized=True,
            axis=-1,
            method="BCa",
            random_state=0,
        )
        low[spread], high[spread] = drawn.confidence_interval
    return low, high


def _sign_flips(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    from scipy.stats import permutation_test

    if values.shape[1] == 1:
        return np.ones(len(values))
    tested = permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=FLIPS,
        axis=-1,
        random_state=0,
    )
    return np.asarray(tested.pvalue, dtype=np.float64)
