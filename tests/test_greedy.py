"""Widths by harm: what hurts least for what it saves goes first."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slimnet.coupling.groups import Group
from slimnet.planning.budget import Limits
from slimnet.planning.greedy import least_damage
from slimnet.planning.ladder import ladder
from slimnet.planning.search import Search

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def ladders_of(*sizes, align=None):
    groups = [
        Group(n, np.arange(size), (), np.ones(size, int), ("a",), ())
        for n, size in enumerate(sizes)
    ]
    return {g.number: ladder(g, Limits(align=align), g.size) for g in groups}


def priced(*prices):
    return lambda widths: sum(prices[n] * k for n, k in widths.items())


def test_at_one_price_the_least_scores_of_all_groups_go():
    ladders = ladders_of(4, 4)
    scores = {0: np.array([1.0, 5.0, 6.0, 7.0]), 1: np.array([2.0, 3.0, 4.0, 9.0])}
    assert least_damage(Search({0: 4, 1: 4}, ladders, scores, priced(1, 1), 4)) == {0: 3, 1: 1}


def test_channels_are_scored_in_any_order():
    scores = {0: np.array([6.0, 1.0, 7.0, 5.0]), 1: np.array([9.0, 4.0, 3.0, 2.0])}
    assert least_damage(Search({0: 4, 1: 4}, ladders_of(4, 4), scores, priced(1, 1), 4)) == {
        0: 3,
        1: 1,
    }


def test_what_saves_more_goes_first():
    ladders = ladders_of(4, 4)
    scores = {0: np.ones(4), 1: np.full(4, 1.5)}
    assert least_damage(Search({0: 4, 1: 4}, ladders, scores, priced(1, 2), 8)) == {0: 4, 1: 2}


def test_whole_steps_are_weighed():
    """Sixteen channels leave at once: one dear channel among them makes the step dear."""
    ladders = ladders_of(32, 32, align=16)
    dear = np.concatenate([np.zeros(15), [100.0], np.full(16, 200.0)])
    start = {0: 32, 1: 32}
    assert least_damage(Search(start, ladders, {0: dear, 1: np.ones(32)}, priced(1, 1), 48)) == {
        0: 32,
        1: 16,
    }


def test_what_a_step_saves_is_looked_at_anew():
    """A product of two widths: once one group is narrower, a step of the other saves less."""
    scores = {0: np.array([1.0, 1.1, 9.0]), 1: np.array([1.05, 9.0, 9.0])}
    found = least_damage(Search({0: 3, 1: 3}, ladders_of(3, 3), scores, lambda w: w[0] * w[1], 3))
    assert found == {0: 1, 1: 3}  # at the prices of the start it would have been 1, then 0


def test_the_narrowest_where_nothing_fits():
    assert least_damage(Search({0: 8}, ladders_of(8), {0: np.ones(8)}, priced(5), 1)) == {0: 1}


@quick
@given(
    st.lists(st.floats(0, 10), min_size=9, max_size=9),
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    st.integers(3, 30),
)
def test_nothing_of_the_same_saving_hurts_less(values, prices, amount):
    """Every cheaper choice, of all there are, saves less: the greedy ends on the lower hull."""
    scores = {n: np.sort(values[3 * n : 3 * n + 3]) for n in range(3)}
    spent = priced(*prices)
    found = least_damage(
        Search(dict.fromkeys(range(3), 3), ladders_of(3, 3, 3), scores, spent, amount)
    )

    def harm(widths):
        return sum(scores[n][: 3 - k].sum() for n, k in widths.items())

    assert spent(found) <= amount or set(found.values()) == {1}
    for widths in product((1, 2, 3), repeat=3):
        other = dict(enumerate(widths))
        if spent(other) <= spent(found):
            assert harm(other) >= harm(found) - 1e-9
