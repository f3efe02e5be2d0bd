"""From a share to widths: arithmetic, rounding, guards and patterns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from micro import Net, conv

import slimnet
from slimnet.budget import Budget, Limits, alignment, allocate, removed_members
from slimnet.cost import Cost, count
from slimnet.errors import InputError, PruneError
from slimnet.groups import Group
from slimnet.models import MODELS

quick = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def group(width, *, number=0, per_atom=1, layers=("a",)) -> Group:
    return Group(number, np.arange(width // per_atom), (), width, layers, ())


def widths(groups, budget, limits, scores=None) -> list[int]:
    """Channels that remain of each group; MACs are taken to be the number of channels."""
    scores = scores or {g.number: np.arange(float(g.size)) for g in groups}

    def cost(survivors):
        total = sum(survivors[g.number] * g.channels_per_atom for g in groups)
        return Cost(total, total, total)

    kept = allocate(groups, scores, budget, limits, cost)
    return [kept[g.number] * g.channels_per_atom for g in groups]


@quick
@given(st.integers(8, 300), st.integers(0, 99))
def test_a_ratio_keeps_int_of_what_remains(width, percent):
    kept = width * (100 - percent) // 100
    if kept < 1:
        return
    found = widths([group(width)], Budget(ratio=percent / 100), Limits(align=None))
    assert found == [kept]


@quick
@given(
    st.integers(8, 300), st.integers(0, 99), st.sampled_from(["auto", None, 1, 4, 8, 16, 32, 100])
)
def test_widths_are_multiples_near_what_was_asked(width, percent, align):
    limits = Limits(align=align, min_channels=1)
    (found,) = widths([group(width)], Budget(ratio=percent / 100), limits)
    multiple = alignment(width, align)
    wanted = max(width * (100 - percent) // 100, 1)
    assert 1 <= found <= width
    assert found % multiple == 0 or found == width
    assert abs(found - wanted) <= multiple / 2 or found in (multiple, width)


@pytest.mark.parametrize(
    ("width", "align", "multiple"),
    [
        *((8, "auto", 1), (15, "auto", 1), (16, "auto", 8), (31, "auto", 8), (32, "auto", 16)),
        *((32, None, 1), (32, 8, 8), (8, 8, 1), (9, 8, 8), (1000, 1, 1)),
    ],
)
def test_what_a_width_is_rounded_to(width, align, multiple):
    assert alignment(width, align) == multiple


def test_channels_that_leave_together_are_rounded_together():
    """Atoms of six channels: 16 divides three, six, … eight of them."""
    (found,) = widths([group(96, per_atom=6)], Budget(ratio=0.3), Limits(align=16))
    assert found == 48 or found == 96
    assert found % 6 == found % 16 == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "give exactly one budget: a ratio of channels, of macs or of params"),
        ({"ratio": 0.5, "macs": 0.5}, "give exactly one budget"),
        ({"ratio": 1.0}, r"ratio must lie in \[0, 1\), and 1.0 does not"),
        ({"ratio": -0.1}, r"ratio must lie in \[0, 1\), and -0.1 does not"),
        ({"ratio": float("nan")}, r"ratio must lie in \[0, 1\), and nan does not"),
        ({"macs": 0.0}, r"macs must lie in \(0, 1\], and 0.0 does not"),
        ({"params": 1.5}, r"params must lie in \(0, 1\], and 1.5 does not"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(arguments, text):
    with pytest.raises(InputError, match=text):
        Budget(**arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"scope": "layer"}, "unknown scope 'layer': the known ones are global, local"),
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


def test_patterns_decide_for_their_layers_and_the_last_one_wins():
    groups = [
        group(100, number=0, layers=("stem",)),
        group(100, number=1, layers=("layer1.a", "layer1.b")),
        group(100, number=2, layers=("layer2.a",)),
        group(100, number=3, layers=("head",)),
    ]
    limits = Limits(
        align=None, keep=("stem",), layer_ratio={"layer*": 0.2, "layer2.*": 0.7, "stem": 0.9}
    )
    assert widths(groups, Budget(ratio=0.5), limits) == [100, 80, 30, 50]
    assert Limits(keep=("layer1.b",)).fixed_ratio(groups[1]) == 0.0
    assert limits.fixed_ratio(groups[3]) is None


def test_a_ratio_that_would_empty_a_layer_is_refused_with_its_name():
    with pytest.raises(PruneError) as refusal:
        widths([group(8, layers=("neck",))], Budget(ratio=0.9), Limits())
    assert str(refusal.value) == (
        "a ratio of 0.9 would leave neck (8 channels) with none; lower it, or set a minimum width "
        "(--min-channels)"
    )


def test_a_minimum_width_guards_every_scope():
    groups = [group(8), group(64, number=1)]
    limits = Limits(align=None, min_channels=3)
    assert widths(groups, Budget(ratio=0.9), limits) == [3, 6]
    scores = {0: np.zeros(8), 1: np.ones(64)}
    limits = Limits(scope="global", align=None, min_channels=3)
    assert widths(groups, Budget(ratio=0.5), limits, scores)[0] == 3


def test_a_minimum_above_the_width_keeps_all():
    assert widths([group(8)], Budget(ratio=0.5), Limits(min_channels=20, align=None)) == [8]


def test_one_threshold_over_all_groups_takes_the_asked_share():
    rng = np.random.default_rng(0)
    groups = [group(64, number=n) for n in range(4)]
    scores = {n: rng.random(64) + 0.1 * n for n in range(4)}
    limits = Limits(scope="global", align=None)
    found = widths(groups, Budget(ratio=0.5), limits, scores)
    assert sum(found) == 128
    assert found == sorted(found) and found[0] < found[3]
    threshold = np.sort(np.concatenate(list(scores.values())))[128]
    assert found == [int((scores[n] >= threshold).sum()) for n in range(4)]


def test_a_share_counts_channels_and_not_atoms():
    """Atoms of four channels fill the share four times as fast."""
    groups = [group(32), group(64, number=1, per_atom=4)]
    scores = {0: np.full(32, 2.0), 1: np.full(16, 1.0)}
    found = widths(groups, Budget(ratio=0.5), Limits(scope="global", align=None), scores)
    assert found == [32, 16]


def test_groups_without_scores_are_not_touched():
    kept = allocate(
        [group(32), group(32, number=1)],
        {0: np.arange(32.0)},
        Budget(ratio=0.5),
        Limits(align=None),
        lambda survivors: Cost(1, 1, 1),
    )
    assert kept == {0: 16}


def test_the_lowest_scores_leave_and_of_equals_the_first():
    scores = {0: np.array([3.0, 1.0, 1.0, 0.5, 1.0])}
    gone = removed_members([group(5)], scores, {0: 2})
    assert gone[0].tolist() == [1, 2, 3]
    assert removed_members([group(5)], scores, {0: 5}) == {}


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("kind", ["macs", "params"])
def test_a_share_of_the_cost_is_met_within_two_percent(kind, scope):
    torch.manual_seed(0)
    model, example = MODELS["digits_vgg"].make().eval(), (torch.randn(1, 1, 8, 8),)
    pruned = slimnet.prune(model, example, **{kind: 0.5}, scope=scope, align=None, verify=False)
    dense, slim = (getattr(count(m, example), kind) for m in (model, pruned.model))
    assert abs(slim / dense - 0.5) < 0.02
    assert getattr(pruned.inspection.cost, kind) == dense


def test_a_budget_of_everything_removes_nothing():
    model = Net(lambda m, x: m.b(m.a(x)), {"a": conv(3, 16), "b": conv(16, 4)}).eval()
    pruned = slimnet.prune(model, (torch.randn(1, 3, 8, 8),), macs=1.0)
    assert not pruned.plan.removed and pruned.plan.after == pruned.plan.before


def test_budgets_say_what_they_are():
    assert Budget(ratio=0.3).kind == "ratio" and Budget(macs=0.3).share == 0.3
    assert not Budget(ratio=0).asks_for_less and not Budget(params=1).asks_for_less
    assert Budget(ratio=0.1).asks_for_less and Budget(macs=0.99).asks_for_less
