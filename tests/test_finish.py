"""The last steps: never above the amount, never far from the start, the important ones first."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slimnet.coupling.groups import Group
from slimnet.planning.budget import Limits
from slimnet.planning.finish import finish
from slimnet.planning.ladder import ladder
from slimnet.planning.search import Search

quick = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def ladders_of(*sizes, limits=None):
    groups = [
        Group(n, np.arange(size), (), np.ones(size, int), ("a",), ())
        for n, size in enumerate(sizes)
    ]
    return {g.number: ladder(g, limits or Limits(align=16), g.size) for g in groups}


def test_the_most_important_for_its_cost_comes_back_first():
    ladders = ladders_of(64, 64, 64)
    scores = {0: np.full(64, 1.0), 1: np.full(64, 3.0), 2: np.full(64, 4.0)}
    prices = {0: 1, 1: 1, 2: 2}  # per channel: the second is worth the most for what it costs

    def spent(widths):
        return sum(prices[n] * k for n, k in widths.items())

    start = dict.fromkeys(ladders, 16)
    assert finish(Search(start, ladders, scores, spent, 64 + 16)) == {0: 16, 1: 32, 2: 16}
    assert finish(Search(start, ladders, scores, spent, 64 + 48)) == {0: 16, 1: 32, 2: 32}


def test_a_rung_is_exchanged_where_that_comes_nearer():
    ladders = ladders_of(64, 64)
    scores = {0: np.ones(64), 1: np.ones(64)}
    prices = {0: 10, 1: 13}

    def spent(widths):
        return sum(prices[n] * k for n, k in widths.items())

    start = {0: 32, 1: 32}
    amount = spent({0: 16, 1: 48}) + 1  # one step up of either is too much
    assert finish(Search(start, ladders, scores, spent, amount)) == {0: 16, 1: 48}


def test_where_nothing_fits_nothing_is_done():
    ladders = ladders_of(64)
    assert finish(Search({0: 16}, ladders, {0: np.ones(64)}, lambda widths: 100, 50)) == {0: 16}


@quick
@given(
    st.lists(st.integers(16, 96), min_size=1, max_size=6),
    st.lists(st.integers(1, 9), min_size=6, max_size=6),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from([None, "auto", 8]),
)
def test_nobody_leaves_the_start_by_more_than_a_rung(sizes, prices, share, more, align):
    ladders = ladders_of(*sizes, limits=Limits(align=align))
    scores = {n: np.arange(1.0, size + 1) for n, size in enumerate(sizes)}

    def spent(widths):
        return sum(prices[n] * k for n, k in widths.items())

    start = {n: x.nearest(share * x.group.size) for n, x in ladders.items()}
    amount = spent(start) + more * (spent(dict(enumerate(sizes))) - spent(start))
    found = finish(Search(start, ladders, scores, spent, amount))
    assert spent(start) <= spent(found) <= amount
    for n, x in ladders.items():
        assert found[n] in {start[n], x.up(start[n]), x.down(start[n])}
