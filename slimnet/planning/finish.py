"""The last steps to a budget: single groups move by one rung.

Starts from widths within the budget. Groups take a step up again, those first whose channels score
most for what they cost; while a part of the budget is left, one group steps down and another up. No
group ends more than one step above or below where it started.
"""

from __future__ import annotations

import numpy as np

from slimnet.costs.widths import Widths
from slimnet.planning.search import Search

NEAR = 0.005
"""A gap of this part of the budget is not worth another exchange."""

_EXCHANGES = 16  # pairs that are tried exactly, the most promising first


def finish(search: Search) -> Widths:
    """Widths from which no single step up fits the amount; the start where nothing fits at all."""
    if search.left(search.start) < 0:
        return search.start
    steps, least = _Steps(search), float("inf")
    while True:
        steps.give_back()
        # a wider group may cost less where costs do not grow with widths: that could go on for ever
        if steps.gap <= NEAR * search.amount or steps.gap >= least:
            return steps.now
        least = steps.gap
        if not steps.exchange():
            return steps.now


class _Steps:
    """Widths on their way to the budget."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.now = dict(search.start)
        self.gap = search.left(search.start)

    def give_back(self) -> None:
        """Take every single step up that fits, the most important for its cost first."""
        ups = self._ups()
        costs = {n: self.search.spent({**self.now, n: up}) for n, up in ups.items()}
        price = {n: max(cost + self.gap - self.search.amount, 1) for n, cost in costs.items()}
        worth = {n: self.search.worth(n, self.now[n], up) for n, up in ups.items()}
        for number in sorted(ups, key=lambda n: -worth[n] / price[n]):
            left = self._left(number, ups[number])
            if left >= 0:
                self.now, self.gap = {**self.now, number: ups[number]}, left

    def exchange(self) -> bool:
        """One step down and one up that together leave a smaller gap; whether there were any."""
        ups, downs = list(self._ups().items()), list(self._downs().items())
        if not ups or not downs:
            return False
        left = np.array([self._left(*up) for up in ups])[:, None]
        freed = np.array([self._left(*down) - self.gap for down in downs])
        about = left + freed  # the gap afterwards, if both were independent
        promising = np.argsort(np.where(about >= 0, about, np.inf), axis=None)[:_EXCHANGES]
        best, widths = self.gap, None
        for place in promising.tolist():
            (up, rung), (down, lower) = ups[place // len(downs)], downs[place % len(downs)]
            trial = {**self.now, down: lower, up: rung}
            gap = self.search.left(trial)
            if up != down and 0 <= gap < best:
                best, widths = gap, trial
        if widths is None:
            return False
        self.now, self.gap = widths, best
        return True

    def _left(self, number: int, rung: int) -> float:
        return self.search.left({**self.now, number: rung})

    def _ups(self) -> dict[int, int]:
        start = self.search.start
        return {n: up for n, up in self.search.ups(self.now).items() if self.now[n] <= start[n]}

    def _downs(self) -> dict[int, int]:
        start = self.search.start
        return {n: low for n, low in self.search.downs(self.now).items() if self.now[n] >= start[n]}
