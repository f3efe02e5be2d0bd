"""A search says what a choice costs and which single steps are open from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from slimnet.coupling.groups import Group
from slimnet.planning.budget import Limits
from slimnet.planning.ladder import ladder
from slimnet.planning.search import WITHIN, Search


def search_of(amount):
    groups = [Group(n, np.arange(4), (), np.ones(4, int), ("a",), ()) for n in range(3)]
    ladders = {g.number: ladder(g, Limits(align=None), g.size) for g in groups}
    scores = {n: np.ones(4) for n in range(3)}
    start = dict.fromkeys(range(3), 4)
    return Search(start, ladders, scores, lambda widths: sum(widths.values()), amount)


def test_single_steps_go_one_rung_and_end_at_the_ladder():
    search = search_of(6)
    assert search.ups({0: 4, 1: 2, 2: 1}) == {1: 3, 2: 2}
    assert search.downs({0: 4, 1: 2, 2: 1}) == {0: 3, 1: 1}


def test_a_held_group_has_no_step_and_still_costs():
    search = search_of(6).without([1])
    assert search.ups({0: 2, 1: 2, 2: 2}) == {0: 3, 2: 3}
    assert search.left({0: 2, 1: 2, 2: 1}) == 1


def test_a_budget_is_met_within_its_part_from_below():
    search = search_of(1000)
    assert search.is_met({0: 1000 - 1000 * WITHIN}) and not search.is_met({0: 989})
    assert search.left({0: 1001}) < 0


def test_the_worth_of_a_step_is_what_its_atoms_score_the_least_important_going_first():
    search = replace(search_of(6), scores={0: np.array([5.0, 1.0, -np.inf, 3.0])})
    search = search.without([1, 2])
    assert [search.worth(0, k, k + 1) for k in range(3)] == [5.0, 3.0, 1.0]
    assert search.worth(0, 0, 2) == 8.0
    assert search.worth(0, 3, 4) == 1.0  # what has gone counts as the least of what is there


def test_it_starts_elsewhere_and_stays_the_same():
    search = search_of(6)
    other = search.at({0: 1, 1: 1, 2: 1})
    assert other.start == {0: 1, 1: 1, 2: 1} and search.start == dict.fromkeys(range(3), 4)
    assert other.ladders is search.ladders and other.amount == search.amount
