"""The last steps to a budget: single rungs of single groups.

Starts from widths within the budget. Rungs are given back, those first whose channels score most
for what they cost; while there is a gap, one rung is exchanged for another. Nobody leaves the rung
where it started by more than one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from slimnet.criteria import Scores
from slimnet.measuring.widths import Survivors
from slimnet.planning.ladder import Ladder

NEAR = 0.005
"""A gap of this part of the budget is not worth another exchange."""

_EXCHANGES = 16  # pairs that are tried exactly, the most promising first


def finish(
    start: Survivors,
    ladders: Mapping[int, Ladder],
    scores: Mapping[int, Scores],
    spent: Callable[[Survivors], int],
    amount: float,
) -> Survivors:
    """Widths from which no single step up fits the amount; ``start`` where nothing fits at all.

    ``spent`` tells what a choice costs, ``scores`` [atoms] which rungs matter most.
    """
    if spent(start) > amount:
        return start
    steps = _Steps(start, ladders, scores, spent, amount)
    while True:
        steps.give_back()
        if steps.gap <= NEAR * amount or not steps.exchange():
            return steps.now


class _Steps:
    """Widths on their way to the budget."""

    def __init__(
        self,
        start: Survivors,
        ladders: Mapping[int, Ladder],
        scores: Mapping[int, Scores],
        spent: Callable[[Survivors], int],
        amount: float,
    ) -> None:
        self.start = start
        self.ladders = ladders
        self.spent = spent
        self.amount = amount
        # [size + 1]: what the k best atoms are worth together
        self.worth = {
            n: np.concatenate([[0.0], np.cumsum(np.sort(scores[n])[::-1])]) for n in ladders
        }
        self.now = dict(start)
        self.gap = amount - spent(start)

    def give_back(self) -> None:
        """Take every single step up that fits, the most important for its cost first."""
        ups = self._ups()
        price = {n: max(self._spent(n, up) + self.gap - self.amount, 1) for n, up in ups.items()}
        worth = {n: (self.worth[n][up] - self.worth[n][self.now[n]]) for n, up in ups.items()}
        for number in sorted(ups, key=lambda n: -worth[n] / price[n]):
            left = self.amount - self._spent(number, ups[number])
            if left >= 0:
                self.now, self.gap = {**self.now, number: ups[number]}, left

    def exchange(self) -> bool:
        """One step down and one up that together leave a smaller gap; whether there were any."""
        ups, downs = list(self._ups().items()), list(self._downs().items())
        if not ups or not downs:
            return False
        left = np.array([self.amount - self._spent(*up) for up in ups])[:, None]
        freed = np.array([self.amount - self._spent(*down) - self.gap for down in downs])
        about = left + freed  # the gap afterwards, if both were independent
        promising = np.argsort(np.where(about >= 0, about, np.inf), axis=None)[:_EXCHANGES]
        best, found = self.gap, None
        for place in promising.tolist():
            (up, rung), (down, lower) = ups[place // len(downs)], downs[place % len(downs)]
            trial = {**self.now, down: lower, up: rung}
            gap = self.amount - self.spent(trial)
            if up != down and 0 <= gap < best:
                best, found = gap, trial
        if found is None:
            return False
        self.now, self.gap = found, best
        return True

    def _spent(self, number: int, rung: int) -> int:
        return self.spent({**self.now, number: rung})

    def _ups(self) -> dict[int, int]:
        rungs = {n: x.up(self.now[n]) for n, x in self.ladders.items() if self._may(n, 1)}
        return {n: rung for n, rung in rungs.items() if rung is not None}

    def _downs(self) -> dict[int, int]:
        rungs = {n: x.down(self.now[n]) for n, x in self.ladders.items() if self._may(n, -1)}
        return {n: rung for n, rung in rungs.items() if rung is not None}

    def _may(self, number: int, direction: int) -> bool:
        return (self.now[number] - self.start[number]) * direction <= 0
