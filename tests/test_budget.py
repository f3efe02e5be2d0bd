"""What can be asked for: budgets, their parts, units, limits and patterns."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from slimnet.costs.cost import Cost
from slimnet.coupling.groups import Group
from slimnet.errors import InputError
from slimnet.planning.budget import Budget, Limits, alignment, removed_atoms
from slimnet.planning.request import parse_bytes


def group(width, *, number=0, per_atom=1, layers=("a",)) -> Group:
    return Group(
        number, np.arange(width // per_atom), (), np.full(width // per_atom, per_atom), layers, ()
    )


@pytest.mark.parametrize(
    ("width", "align", "multiple"),
    [
        *((8, "auto", 1), (15, "auto", 1), (16, "auto", 2), (31, "auto", 2), (32, "auto", 4)),
        *((63, "auto", 4), (64, "auto", 8), (127, "auto", 8), (128, "auto", 16), (999, "auto", 16)),
        *((32, None, 1), (32, 8, 8), (8, 8, 1), (9, 8, 8), (1000, 1, 1)),
    ],
)
def test_what_a_width_is_rounded_to(width, align, multiple):
    assert alignment(width, align) == multiple


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"ratio": 1.0}, r"ratio must lie in \[0, 1\), and 1.0 does not"),
        ({"ratio": -0.1}, r"ratio must lie in \[0, 1\), and -0.1 does not"),
        ({"ratio": float("nan")}, r"ratio must lie in \[0, 1\), and nan does not"),
        ({"macs": 0.0}, r"macs must lie in \(0, 1\], and 0.0 does not"),
        ({"bytes": 0}, "bytes must be a number from 1, and 0 is not"),
        ({"bytes": float("inf")}, "bytes must be a number from 1, and inf is not"),
        ({"params": 1.5}, r"params must lie in \(0, 1\], and 1.5 does not"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(arguments, text):
    with pytest.raises(InputError, match=text):
        Budget(*next(iter(arguments.items())))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"scope": "layer"},
            "unknown scope 'layer': the known ones are global, harm, isomorphic, local",
        ),
        ({"align": "16"}, "align must be a number, auto or off, and '16' is none"),
        ({"align": 0}, "align must be at least 1, and 0 is not"),
        ({"min_channels": 0}, "min_channels must be at least 1, and 0 is not"),
        ({"layer_ratio": {"a": 1.0}}, r"the ratio of layer 'a' must lie in \[0, 1\): 1.0"),
    ],
)
def test_limits_that_cannot_be_are_refused(arguments, text):
    with pytest.raises(InputError, match=text):
        Limits(**arguments)


@pytest.mark.parametrize("limits", [Limits(keep=("laier*",)), Limits(layer_ratio={"laier*": 0.1})])
def test_a_pattern_that_matches_no_layer_is_refused(limits):
    with pytest.raises(InputError) as refusal:
        limits.check([group(16)], ["a", "layer1.0", "layer1.1"])
    assert str(refusal.value) == (
        "no layer is called 'laier*'; layers are called a, layer1.0, layer1.1, …"
    )


def test_the_lowest_scores_leave_and_of_equals_the_first():
    scores = {0: np.array([3.0, 1.0, 1.0, 0.5, 1.0])}
    gone = removed_atoms([group(5)], scores, {0: 2})
    assert gone[0].tolist() == [1, 2, 3]
    assert removed_atoms([group(5)], scores, {0: 5}) == {}


DENSE = Cost({"macs": 1000, "params": 500, "bytes": 2000})


@pytest.mark.parametrize(
    ("budget", "remains"),
    [
        (Budget("ratio", 0.3), 0.7),
        (Budget("macs", 0.3), 0.3),
        (Budget("params", 1), 1.0),
        (Budget("bytes", 500), 0.25),
        (Budget("bytes", 9000), 1.0),
    ],
)
def test_every_budget_says_what_share_may_remain(budget, remains):
    assert budget.remains(budget.whole(DENSE)) == pytest.approx(remains)


@pytest.mark.parametrize(
    "budget",
    [Budget("ratio", 0.7), Budget("macs", 0.4), Budget("params", 0.2), Budget("bytes", 300)],
)
def test_every_round_leaves_the_same_share_and_the_last_is_what_was_asked(budget):
    whole = budget.whole(DENSE)
    left = [1.0, *(budget.part(k / 4, whole).remains(whole) for k in range(1, 5))]
    shares = [after / before for before, after in pairwise(left)]
    assert shares == pytest.approx([shares[0]] * 4)
    assert budget.part(1.0, whole) == budget
    assert budget.part(0.5, whole).kind == budget.kind


def test_layer_ratios_come_in_rounds_too():
    limits = Limits(layer_ratio={"a": 0.75}, keep=("b",))
    assert limits.part(0.5).layer_ratio["a"] == pytest.approx(0.5)
    assert limits.part(0.5).keep == ("b",) and limits.part(1.0) is limits


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("5MB", 5e6), ("5mb", 5e6), ("4.5 MiB", 4.5 * 2**20), ("800KB", 8e5), (".5GB", 5e8)),
        *(("1KiB", 1024), ("2GiB", 2**31), ("1234", 1234), ("12B", 12)),
    ],
)
def test_sizes_are_read_with_their_units(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "5 MX", "-5MB", "5MB5", "five", "1e6"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="is no number of bytes: 5MB"):
        parse_bytes(text)
