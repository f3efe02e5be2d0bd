"""Widths by measured harm: the budget is spent where it hurts least.

A score is the harm that an atom does when it goes. From the dense network on, the rung that does
least harm for what it saves goes next, whichever group it belongs to.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

import numpy as np

from slimnet.criteria import Scores
from slimnet.measuring.widths import Survivors
from slimnet.planning.ladder import Ladder


def cheapest(
    start: Survivors,
    ladders: Mapping[int, Ladder],
    scores: Mapping[int, Scores],
    spent: Callable[[Survivors], int],
    amount: float,
) -> Survivors:
    """Widths within the amount, from ``start`` down; the narrowest where none is.

    ``spent`` tells what a choice costs, ``scores`` [atoms] what each atom's removal harms.
    """
    harm = {n: np.concatenate([[0.0], np.cumsum(np.sort(scores[n]))]) for n in ladders}
    now, cost = dict(start), spent(start)

    def step(number: int) -> tuple[float, int, int, int] | None:
        """(harm per saving, group, rung, cost) of a group's next rung down."""
        rung = ladders[number].down(now[number])
        if rung is None:
            return None
        left, size = spent({**now, number: rung}), ladders[number].group.size
        adds = float(harm[number][size - rung] - harm[number][size - now[number]])
        return adds / max(cost - left, 1e-9), number, rung, left

    queue = [found for number in ladders if (found := step(number)) is not None]
    heapq.heapify(queue)
    while queue and cost > amount:
        number = heapq.heappop(queue)[1]
        found = step(number)  # what it saves may have changed since it was queued
        if found is None:
            continue
        if queue and found[0] > queue[0][0]:
            heapq.heappush(queue, found)
            continue
        now[number], cost = found[2], found[3]
        if (following := step(number)) is not None:
            heapq.heappush(queue, following)
    return now
