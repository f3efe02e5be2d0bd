"""Which share of the MACs makes a network so many times as fast, found by measuring.

Time does not follow MACs, so a few shares are cut, exported and timed against the dense network;
the largest that is fast enough is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log

from slimnet.errors import PruneError

Timed = Callable[[float], float | None]
"""A share of the MACs → how many times as fast; None where no cut leaves so little."""


@dataclass(frozen=True)
class Found:
    """The share of the MACs that was found, and every one that was tried, with its speed."""

    macs: float
    tried: tuple[tuple[float, float], ...]


def share_for(speed: float, timed: Timed) -> Found:
    """The largest share that is at least so fast, by at most :data:`TRIALS` measurements.

    Raises :class:`~slimnet.errors.PruneError` where none is, with the fastest that was found.
    """
    tried: list[tuple[float, float]] = []
    low, high, share = 0.0, 1.0, 1 / speed  # what is sought lies between low and high
    for _ in range(TRIALS):
        fast = timed(share)
        if fast is None:
            low = share
        else:
            tried.append((share, fast))
            low, high = (low, share) if fast < speed else (share, high)
            if speed <= fast <= NEAR * speed:
                break
        share = _next(tried, speed, low, high)
        if high - low < STEP:
            break
    enough = [(share, fast) for share, fast in tried if fast >= speed]
    if not enough:
        raise PruneError(_refusal(speed, tried))
    return Found(max(enough)[0], tuple(tried))


TRIALS = 6
NEAR = 1.05
"""A speed within 5 % above the target is near enough: measurements differ by as much."""
STEP = 0.01


def _next(tried: Sequence[tuple[float, float]], speed: float, low: float, high: float) -> float:
    """As if time were a power of the MACs through the two nearest points; else the middle."""
    points = sorted([(1.0, 1.0), *tried], key=lambda point: abs(log(point[1] / speed)))
    (one, fast), (other, slow) = (
        tuple(map(log, points[place])) for place in (0, min(1, len(tried)))
    )
    if fast != slow:
        guess = exp(one + (log(AIM * speed) - fast) * (other - one) / (slow - fast))
        if low < guess < high:
            return guess
    return (low + high) / 2


AIM = 1.02
"""Of the speed, so that what is found is within reach of the target from above."""


def _refusal(speed: float, tried: list[tuple[float, float]]) -> str:
    if not tried:
        return f"{speed:g} times as fast cannot be had: no cut leaves so few MACs"
    share, fast = max(tried, key=lambda row: row[1])
    return (
        f"{speed:g} times as fast cannot be had here: the fastest that was found is {fast:.2f} "
        f"times, with {share:.0%} of the MACs; ask for that, or measure with a larger batch"
    )
