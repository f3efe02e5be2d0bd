"""A search for widths that meet a budget: where it starts, what may change, what is spent on it.

One value for all who move widths (:mod:`.allocate`, :mod:`.greedy`, :mod:`.finish`): it says what a
choice of widths costs, and which single steps are open from there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from slimnet.costs.widths import Widths
from slimnet.criteria import Scores
from slimnet.planning.ladder import Ladder

WITHIN = 0.01
"""A budget counts as met within this part of it."""


@dataclass(frozen=True, eq=False)
class Search:
    """What may be spent, and the widths that a search starts from."""

    start: Widths
    ladders: Mapping[int, Ladder]  # of the groups whose width may change
    scores: Mapping[int, Scores]  # [atoms] per group: what each is worth; -inf has gone already
    spent: Callable[[Widths], float]  # what a choice of widths costs
    amount: float  # what it may cost
    grows: bool = True  # whether the cost never falls where a group grows

    def at(self, widths: Widths) -> Search:
        """The same from other widths on."""
        return replace(self, start=widths)

    def without(self, numbers: Collection[int]) -> Search:
        """The same with the widths of some groups held."""
        ladders = {number: x for number, x in self.ladders.items() if number not in numbers}
        return replace(self, ladders=ladders)

    def left(self, widths: Widths) -> float:
        """How much may still be spent at these widths; below zero where it is too much."""
        return self.amount - self.spent(widths)

    def is_met(self, widths: Widths) -> bool:
        """Whether so little is left that no further step is worth its while."""
        return self.left(widths) <= WITHIN * self.amount

    def worth(self, number: int, narrow: int, wide: int) -> float:
        """What the atoms score together that a group has at one width and not at a narrower one."""
        damage, size = self._damage[number], len(self.scores[number])
        return float(damage[size - narrow] - damage[size - wide])

    @cached_property
    def _damage(self) -> dict[int, Scores]:
        """[size + 1] per group: what its k least atoms score together.

        What has gone scores as little as the least of what is there, so that sums stay numbers.
        """
        damage = {}
        for number in self.ladders:
            scores = self.scores[number]
            there = np.isfinite(scores)
            finite = np.where(there, scores, scores[there].min() if there.any() else 0.0)
            damage[number] = np.concatenate([[0.0], np.cumsum(np.sort(finite))])
        return damage

    def ups(self, widths: Widths) -> dict[int, int]:
        """The next rung of every group that has one."""
        rungs = {number: x.up(widths[number]) for number, x in self.ladders.items()}
        return {number: rung for number, rung in rungs.items() if rung is not None}

    def downs(self, widths: Widths) -> dict[int, int]:
        """The rung below, of every group that has one."""
        rungs = {number: x.down(widths[number]) for number, x in self.ladders.items()}
        return {number: rung for number, rung in rungs.items() if rung is not None}
