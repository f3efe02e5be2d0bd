"""Why a budget was not met, in words."""

from __future__ import annotations

import numpy as np
import pytest

from slimnet.coupling.groups import Group
from slimnet.planning.budget import Budget, Limits
from slimnet.planning.ladder import ladder
from slimnet.planning.shortfall import shortfall


def cost(widths):
    """Two layers of 64 channels at most, and 64 units in what cannot be cut."""
    return 64 + sum(widths.values())


def notes(found, budget, limits=None, fixed=None):
    limits = limits or Limits(align=16)
    groups = [Group(n, np.arange(64), (), np.ones(64, int), (f"layer{n}",), ()) for n in (0, 1)]
    ladders = {g.number: ladder(g, limits, g.size) for g in groups}
    return shortfall(found, ladders, fixed or {0: None, 1: None}, limits, budget, cost)


def test_a_budget_that_is_met_needs_no_words():
    assert notes({0: 32, 1: 32}, Budget("macs", 2 / 3)) == []
    assert notes({0: 32, 1: 32}, Budget("macs", 2 / 3 * 1.009)) == []


def test_the_next_step_is_named_where_steps_are_wide():
    assert notes({0: 32, 1: 32}, Budget("macs", 0.74)) == [
        "66.7% of the MACs is the nearest that is within the budget: the next step up, 16 channels "
        "of layer0, leaves 75.0%"
    ]


@pytest.mark.parametrize(
    ("limits", "fixed", "why"),
    [
        (Limits(align=16), {}, "every group keeps one step of 16 channels"),
        (Limits(align=None), {}, "every group keeps at least one channel"),
        (Limits(align=None, min_channels=5), {}, "every group keeps at least 5 channels"),
        (
            Limits(align=16),
            {0: 0.0},
            "names prescribe the width of 1 of 2 groups, every group keeps one step of 16 channels",
        ),
    ],
)
def test_what_cannot_be_less_says_what_keeps_it(limits, fixed, why):
    found = notes({0: 16, 1: 16}, Budget("params", 0.1), limits, {0: None, 1: None, **fixed})
    assert found == [
        f"50.0% of the parameters is the least that can remain: 33.3% of the parameters is in what "
        f"cannot be cut, {why}"
    ]


def test_what_is_over_is_said_however_little():
    (note,) = notes({0: 16, 1: 16}, Budget("bytes", 95.9))
    assert note.startswith("50.0% of the bytes is the least that can remain")


def test_a_network_that_fits_already_is_said_to():
    assert notes({0: 64, 1: 64}, Budget("bytes", 500)) == [
        "the network has 192 bytes as it is: nothing has to go"
    ]


def test_ratios_that_names_prescribe_may_leave_less_than_the_budget():
    found = notes({0: 16, 1: 16}, Budget("macs", 0.9), Limits(), {0: 0.75, 1: 0.75})
    assert found == [
        "50.0% of the MACs is the nearest that is within the budget: the ratios that names "
        "prescribe leave no more"
    ]
