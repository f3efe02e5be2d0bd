"""Greedy by damage: the budget is spent where that damages the network least.

A score is the damage that is done when an atom leaves. From the dense network on, the step down
that does the least damage for what it saves is taken next, whichever group it belongs to.
"""

from __future__ import annotations

import heapq

from slimnet.costs.widths import Widths
from slimnet.planning.search import Search


def least_damage(search: Search) -> Widths:
    """Widths within the amount, from the start down; the narrowest where none is."""
    now, cost = dict(search.start), search.spent(search.start)

    def step(number: int) -> tuple[float, int, int, float] | None:
        """(damage per saving, group, rung, cost) of a group's next rung down."""
        rung = search.ladders[number].down(now[number])
        if rung is None:
            return None
        left = search.spent({**now, number: rung})
        adds = search.worth(number, rung, now[number])
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
