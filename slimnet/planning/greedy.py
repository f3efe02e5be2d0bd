"""Greedy by damage: the budget is spent where that damages the network least.

A score is the damage that is done when an atom leaves. From the dense network on, the step down
that does the least damage for what it saves is taken next, whichever group it belongs to.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import numpy as np

from slimnet.costs.widths import Widths
from slimnet.criteria import Scores
from slimnet.planning.search import Search


def least_damage(search: Search) -> Widths:
    """Widths within the amount, from the start down; the narrowest where none is."""
    scores = _finite(search)
    # [size + 1]: the damage when the k least atoms have left
    damage = {n: np.concatenate([[0.0], np.cumsum(np.sort(x))]) for n, x in scores.items()}
    now, cost = dict(search.start), search.spent(search.start)

    def step(number: int) -> tuple[float, int, int, float] | None:
        """(damage per saving, group, rung, cost) of a group's next rung down."""
        rung = search.ladders[number].down(now[number])
        if rung is None:
            return None
        left, size = search.spent({**now, number: rung}), search.ladders[number].group.size
        adds = float(damage[number][size - rung] - damage[number][size - now[number]])
        return adds / max(cost - left, 1e-9), number, rung, left

    queue = [following for number in search.ladders if (following := step(number)) is not None]
    heapq.heapify(queue)
    while queue and cost > search.amount:
        number = heapq.heappop(queue)[1]
        following = step(number)  # what it saves may have changed since it was queued
        if following is None:
            continue
        if queue and following[0] > queue[0][0]:
            heapq.heappush(queue, following)
            continue
        now[number], cost = following[2], following[3]
        if (following := step(number)) is not None:
            heapq.heappush(queue, following)
    return now


def _finite(search: Search) -> Mapping[int, Scores]:
    """What has gone scores as little as the least of what is there: sums stay numbers."""
    scores = {number: search.scores[number] for number in search.ladders}
    present = {number: np.isfinite(values) for number, values in scores.items()}
    return {
        n: np.where(present[n], x, x[present[n]].min() if present[n].any() else 0.0)
        for n, x in scores.items()
    }
