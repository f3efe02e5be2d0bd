"""From a share to widths: arithmetic, scopes, rounding, guards, and budgets met."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from micro import Net, conv

import slimnet
from slimnet.costs.cost import cost
from slimnet.coupling.groups import Group
from slimnet.errors import PruneError
from slimnet.models import MODELS
from slimnet.planning.allocate import allocate
from slimnet.planning.budget import Budget, Limits, alignment
from slimnet.planning.ladder import ladder
from slimnet.planning.shortfall import FINER

quick = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def group(width, *, number=0, per_atom=1, layers=("a",)) -> Group:
    return Group(
        number, np.arange(width // per_atom), (), np.full(width // per_atom, per_atom), layers, ()
    )


def widths(groups, budget, limits, scores=None) -> list[int]:
    """Channels that remain of each group; MACs are taken to be the number of channels."""
    scores = scores or {g.number: np.arange(float(g.size)) for g in groups}

    def cost(widths):
        return sum(widths[g.number] * g.channels_per_atom for g in groups)

    kept = allocate(groups, scores, budget, limits, cost).widths
    return [kept[g.number] * g.channels_per_atom for g in groups]


@quick
@given(st.integers(8, 300), st.integers(0, 99))
def test_a_ratio_keeps_int_of_what_remains(width, percent):
    kept = width * (100 - percent) // 100
    if kept < 1:
        return
    found = widths([group(width)], Budget("ratio", percent / 100), Limits(align=None))
    assert found == [kept]


@quick
@given(
    st.integers(8, 300), st.integers(0, 99), st.sampled_from(["auto", None, 1, 4, 8, 16, 32, 100])
)
def test_widths_are_multiples_near_what_was_asked(width, percent, align):
    limits = Limits(align=align, min_channels=1)
    (found,) = widths([group(width)], Budget("ratio", percent / 100), limits)
    multiple = alignment(width, align)
    wanted = max(width * (100 - percent) // 100, 1)
    assert 1 <= found <= width
    assert found % multiple == 0 or found == width
    assert abs(found - wanted) <= multiple / 2 or found in (multiple, width)


def test_channels_that_leave_together_are_rounded_together():
    """Atoms of six channels: 16 divides three, six, … eight of them."""
    (found,) = widths([group(96, per_atom=6)], Budget("ratio", 0.3), Limits(align=16))
    assert found == 48 or found == 96
    assert found % 6 == found % 16 == 0


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
    assert widths(groups, Budget("ratio", 0.5), limits) == [100, 80, 30, 50]
    assert Limits(keep=("layer1.b",)).fixed_ratio(groups[1]) == 0.0
    assert limits.fixed_ratio(groups[3]) is None


def test_a_ratio_that_would_empty_a_layer_is_refused_with_its_name():
    with pytest.raises(PruneError) as refusal:
        widths([group(8, layers=("neck",))], Budget("ratio", 0.9), Limits())
    assert str(refusal.value) == (
        "a ratio of 0.9 would leave neck (8 channels) with none; lower it, or set a minimum width "
        "(--min-channels)"
    )


def test_a_minimum_width_guards_every_scope():
    groups = [group(8), group(64, number=1)]
    limits = Limits(align=None, min_channels=3)
    assert widths(groups, Budget("ratio", 0.9), limits) == [3, 6]
    scores = {0: np.zeros(8), 1: np.ones(64)}
    limits = Limits(scope="global", align=None, min_channels=3)
    assert widths(groups, Budget("ratio", 0.5), limits, scores)[0] == 3


def test_a_minimum_above_the_width_keeps_all():
    assert widths([group(8)], Budget("ratio", 0.5), Limits(min_channels=20, align=None)) == [8]


def test_one_threshold_over_all_groups_takes_the_asked_share():
    rng = np.random.default_rng(0)
    groups = [group(64, number=n) for n in range(4)]
    scores = {n: rng.random(64) + 0.1 * n for n in range(4)}
    limits = Limits(scope="global", align=None)
    found = widths(groups, Budget("ratio", 0.5), limits, scores)
    assert sum(found) == 128
    assert found == sorted(found) and found[0] < found[3]
    threshold = np.sort(np.concatenate(list(scores.values())))[128]
    assert found == [int((scores[n] >= threshold).sum()) for n in range(4)]


def test_a_share_counts_channels_and_not_atoms():
    """Atoms of four channels fill the share four times as fast."""
    groups = [group(32), group(64, number=1, per_atom=4)]
    scores = {0: np.full(32, 2.0), 1: np.full(16, 1.0)}
    found = widths(groups, Budget("ratio", 0.5), Limits(scope="global", align=None), scores)
    assert found == [32, 16]


def test_groups_without_scores_are_not_touched():
    kept = allocate(
        [group(32), group(32, number=1)],
        {0: np.arange(32.0)},
        Budget("ratio", 0.5),
        Limits(align=None),
        lambda widths: 1,
    )
    assert kept.widths == {0: 16}


# -------------------------------------------------------------------------- budgets of a cost


@st.composite
def chains(draw):
    """Layers in a row: each weight costs the product of two widths, times how often it is used."""
    number = draw(st.integers(1, 6))
    sizes = draw(st.lists(st.integers(8, 80), min_size=number, max_size=number))
    used = draw(st.lists(st.integers(1, 9), min_size=number + 1, max_size=number + 1))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    groups = [group(size, number=n, layers=(f"layer{n}",)) for n, size in enumerate(sizes)]
    scores = {g.number: rng.random(g.size) * rng.uniform(0.5, 2) for g in groups}

    def cost(widths):
        channels = [3, *(widths[g.number] for g in groups), 10]
        return sum(n * a * b for n, a, b in zip(used, channels, channels[1:], strict=False))

    return groups, scores, cost


def whole(groups):
    return {g.number: g.size for g in groups}


thresholds = st.sampled_from(["local", "global", "isomorphic"])
every_scope = st.sampled_from(["local", "global", "isomorphic", "harm"])
every_alignment = st.sampled_from(["auto", None, 4, 16])


@quick
@given(chains(), st.floats(0.02, 0.999), every_scope, every_alignment, st.sampled_from([None, 12]))
def test_a_budget_is_never_exceeded_and_met_within_a_percent_or_a_single_step(
    chain, share, scope, align, least
):
    groups, scores, cost = chain
    limits = Limits(scope=scope, align=align, min_channels=least)
    like = {g.number: g.number % 2 for g in groups}
    found = allocate(groups, scores, Budget("macs", share), limits, cost, like=like)
    amount, spent = share * cost(whole(groups)), cost(found.widths)
    for finer in (1, 2, 4, 8, 16):  # the first multiples with which the budget can be met
        rungs = {g.number: ladder(g, replace(limits, finer=finer), g.size) for g in groups}
        if cost({n: x.least for n, x in rungs.items()}) <= amount:
            break
    assert bool(found.unmet) == (spent > amount)
    if spent > amount:  # nothing narrower is allowed
        assert found.widths == {n: x.least for n, x in rungs.items()}
        assert "is the least that can remain" in found.unmet == found.notes[0]
        return
    above = [
        cost({**found.widths, n: up})
        for n, x in rungs.items()
        if (up := x.up(found.widths[n])) is not None
    ]
    assert amount - spent <= 0.01 * amount or all(x > amount for x in above)
    assert any(note.startswith(FINER) for note in found.notes) == (finer > 1)
    assert len(found.notes) - (finer > 1) == (amount - spent > 0.01 * amount)


@quick
@given(chains(), st.floats(0.02, 0.9), st.floats(0.02, 0.9), thresholds, every_alignment)
def test_a_larger_ratio_leaves_no_group_wider(chain, one, other, scope, align):
    groups, scores, cost = chain
    limits = Limits(scope=scope, align=align, min_channels=1)
    more, less = (
        allocate(groups, scores, Budget("ratio", ratio), limits, cost).widths
        for ratio in sorted((one, other))
    )
    assert all(less[n] <= more[n] for n in less)


@quick
@given(chains(), st.floats(0.1, 0.9))
def test_bytes_are_the_same_budget_as_their_share(chain, share):
    groups, scores, cost = chain
    size = share * cost(whole(groups))
    by_share = allocate(groups, scores, Budget("params", share), Limits(), cost)
    assert allocate(groups, scores, Budget("bytes", size), Limits(), cost).widths == (
        by_share.widths
    )


@quick
@given(chains(), st.floats(0.2, 0.9), every_scope)
def test_names_and_the_minimum_hold_in_every_scope_and_budget(chain, share, scope):
    groups, scores, cost = chain
    limits = Limits(scope, None, min_channels=7, keep=("layer0",), layer_ratio={"layer[12]": 0.5})
    found = allocate(groups, scores, Budget("params", share), limits, cost).widths
    for g in groups:
        if g.number == 0:
            assert found[0] == g.size
        elif g.number < 3:
            assert found[g.number] == max(g.size // 2, 7)
        assert found[g.number] >= 7


def test_each_class_of_like_groups_loses_the_same_share():
    groups = [group(64, number=n) for n in range(4)]
    scores = {n: (1 + 100 * (n % 2)) * np.random.default_rng(n).random(64) for n in range(4)}
    like = {n: n % 2 for n in range(4)}
    limits = Limits("isomorphic", None)
    found = allocate(
        groups, scores, Budget("ratio", 0.5), limits, lambda widths: 1, like=like
    ).widths
    assert found[0] + found[2] == found[1] + found[3] == 64
    assert found[0] != found[2]
    limits = Limits("global", None)
    assert widths(groups, Budget("ratio", 0.5), limits, scores)[0] < 10


def test_what_has_gone_stays_gone():
    scores = {0: np.array([-np.inf] * 20 + list(range(44))), 1: np.arange(64.0)}
    groups = [group(64), group(64, number=1)]
    found = allocate(groups, scores, Budget("ratio", 0.1), Limits(align=None), lambda widths: 1)
    assert found.widths == {0: 44, 1: 57}
    assert found.why == {0: "it went in an earlier round"}


def test_by_harm_the_least_harmful_step_goes_next_also_in_a_later_round():
    gone = np.array([-np.inf] * 16)
    scores = {0: np.concatenate([gone, np.full(48, 3.0)]), 1: np.concatenate([gone, np.ones(48)])}
    groups = [group(64), group(64, number=1)]

    def cost(widths):
        return sum(widths.values())

    found = allocate(groups, scores, Budget("macs", 0.5), Limits("harm"), cost)
    assert found.widths == {0: 48, 1: 16}


def test_by_harm_a_step_that_saves_too_much_is_taken_back():
    """One rung of the first costs 40 of 100 units; many small ones of the second pay instead."""
    groups = [group(32), group(256, number=1)]
    scores = {0: np.full(32, 1e-3), 1: np.arange(1.0, 257.0)}

    def cost(widths):
        return 40 * widths[0] // 16 + widths[1] // 8

    found = allocate(groups, scores, Budget("macs", 0.9), Limits("harm", 16), cost)
    assert found.widths == {0: 32, 1: 160}
    assert not found.notes


def test_why_a_group_differs_is_said():
    groups = [
        group(n, number=k, layers=(f"layer{k}",)) for k, n in enumerate((64, 64, 64, 64, 40, 8))
    ]
    limits = Limits("local", 16, 4, ("layer0",), {"layer1": 0.25})
    scores = {g.number: np.arange(float(g.size)) for g in groups}
    found = allocate(groups, scores, Budget("ratio", 0.6), limits, lambda widths: 1)
    assert found.widths == {0: 64, 1: 48, 2: 32, 3: 32, 4: 16, 5: 4}
    assert found.asked == dict.fromkeys(range(6), 0.6)
    assert found.why == {
        0: "kept by name",
        1: "a ratio of its own",
        2: "a multiple of 16",
        3: "a multiple of 16",
        5: "at least 4 channels",
    }


def test_wide_steps_of_one_group_are_made_up_for_by_the_others():
    """Like the stream of a transformer, whose steps are large, beside its many wide layers."""
    groups = [group(768, per_atom=192), *(group(3072, number=n) for n in range(1, 5))]
    scores = {g.number: np.ones(g.size) for g in groups}

    def cost(widths):
        return sum(192 * widths[0] * widths[n] for n in range(1, 5))

    found = allocate(groups, scores, Budget("macs", 0.4), Limits(), cost)
    share = cost(found.widths) / cost(whole(groups))
    assert 0.396 <= share <= 0.4 and not found.notes
    assert {3072 - found.widths[n] for n in range(1, 5)} != {0}


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("kind", ["macs", "params", "bytes"])
def test_a_real_network_meets_every_budget_within_a_percent(kind, scope):
    torch.manual_seed(0)
    model, example = MODELS["digits_resnet"].make().eval(), (torch.randn(1, 1, 8, 8),)
    dense = getattr(cost(model, example), kind)
    asked = 0.5 * dense if kind == "bytes" else 0.5
    pruned = slimnet.prune(model, example, **{kind: asked}, scope=scope, align=None, verify=False)
    slim = getattr(cost(pruned.model, example), kind)
    assert 0.495 <= slim / dense <= 0.5
    assert pruned.plan.after[kind] == slim and pruned.plan.before[kind] == dense


def test_a_budget_of_everything_removes_nothing():
    model = Net(lambda m, x: m.b(m.a(x)), {"a": conv(3, 16), "b": conv(16, 4)}).eval()
    pruned = slimnet.prune(model, (torch.randn(1, 3, 8, 8),), macs=1.0)
    assert not pruned.plan.removed and pruned.plan.after == pruned.plan.before


# --------------------------------------------------------------------- what cannot be met


def found_by(groups, budget, limits):
    def cost(widths):
        return sum(widths[g.number] * g.channels_per_atom for g in groups)

    scores = {g.number: np.arange(float(g.size)) for g in groups}
    return allocate(groups, scores, budget, limits, cost)


@pytest.mark.parametrize("scope", ["local", "global", "harm"])
@pytest.mark.parametrize("align", [16, "auto"])
def test_a_budget_that_an_aligned_network_exceeds_is_met_by_a_narrower_one(scope, align):
    groups = [group(128, number=0), group(128, number=1)]
    found = found_by(groups, Budget("macs", 14 / 256), Limits(scope, align))
    assert sum(found.widths.values()) == 12  # 8 and 4: multiples of 4
    assert not found.unmet
    assert found.notes[0] == (
        "the budget is too small for widths that are multiples of 16: widths are multiples of 4, "
        "or of less in narrower groups"
    )
    usual = found_by(groups, Budget("macs", 32 / 256), Limits(scope, align))
    assert usual.widths == {0: 16, 1: 16} and not usual.notes


@pytest.mark.parametrize("scope", ["local", "global", "harm"])
def test_a_ratio_is_missed_where_guards_hold_more_than_a_step_of_each_group(scope):
    groups = [group(64, number=0, layers=("a",)), group(128, number=1, layers=("b",))]
    for least in (64, 128, 1000):
        found = found_by(groups, Budget("ratio", 0.5), Limits(scope, min_channels=least))
        assert "% of the channels would leave: a" in found.unmet
        assert f"(at least {min(least, 64)} channels)" in found.unmet
    assert not found_by(groups, Budget("ratio", 0.5), Limits(scope, min_channels=36)).unmet
    tiny = found_by(groups, Budget("ratio", 0.01), Limits("local"))
    assert tiny.unmet == (
        "only 0.0% of the channels would leave: a (a multiple of 8), b (a multiple of 16)"
    )
    kept = found_by(groups, Budget("ratio", 0.5), Limits(scope, keep=("*",)))
    assert kept.unmet == ("only 0.0% of the channels would leave: a, b (kept by name)")
    assert not found_by(groups, Budget("ratio", 0.5), Limits(scope, keep=("a",))).unmet
    assert not found_by(groups, Budget("ratio", 0.0), Limits(scope, keep=("*",))).unmet
