"""A cost is a named quantity with its model: what it counts, how it is shown, and as a budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from micro import Net, conv

import slimnet
from slimnet.capture.trace import capture
from slimnet.costs.quantity import COSTS, CostInputs, Quantity, quantities
from slimnet.coupling.groups import Group
from slimnet.network import Network
from slimnet.planning.allocate import allocate
from slimnet.planning.budget import Budget, Limits

IMAGE = (torch.randn(1, 3, 8, 8),)
quick = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    parts = {"a": conv(3, 32), "b": conv(32, 32), "c": conv(32, 4)}
    return Net(lambda m, x: m.c(m.b(m.a(x)).relu()), parts).eval()


@dataclass(frozen=True, eq=False)
class Staircase:
    """Milliseconds as a runtime has them: whole blocks of channels, and some widths are dear."""

    axes: tuple
    sizes: tuple[int, ...]  # axes of each call

    def at(self, lengths) -> float:
        total, rest = 0.0, list(lengths)
        for size in self.sizes:
            ours, rest = rest[:size], rest[size:]
            blocks = [-(-n // 8) for n in ours]
            total += float(np.prod(blocks)) * (1.7 if any(n % 8 for n in ours) else 1.0)
        return total / 1e6


def staircase(inputs: CostInputs) -> Staircase:
    shapes = [inputs.axes(call.args[1])[:2] for call in inputs.trace.calls if len(call.args) > 2]
    return Staircase(tuple(axis for shape in shapes for axis in shape), tuple(map(len, shapes)))


@pytest.fixture
def ms(monkeypatch):
    COSTS.load()
    monkeypatch.setattr(COSTS, "_entries", dict(COSTS._entries))
    COSTS.add("ms", Quantity("ms", staircase, budget="amount", whole=False))


def test_slimnets_own_come_first_and_in_their_order(ms):
    assert list(quantities()) == ["macs", "params", "bytes", "ms"]
    assert list(slimnet.cost(net(), IMAGE).to_json()) == list(quantities())


def test_a_term_says_what_it_counts_and_of_which_shapes():
    inputs = CostInputs(Network.of(net()), capture(Network.of(net()), IMAGE), {}, {})
    first, *_ = COSTS["macs"].model(inputs).terms
    assert str(first.counts.op) == "aten.convolution.default"
    assert first.factor * np.prod([n for _, n in first.axes]) == 32 * 64 * 27
    assert [term.counts for term in COSTS["params"].model(inputs).terms][:2] == [
        "a.weight",
        "a.bias",
    ]


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic", "harm"])
def test_a_measured_cost_is_a_budget_like_any_other(ms, scope):
    dense = slimnet.cost(net(), IMAGE).amounts["ms"]
    asked = 0.4 * dense
    pruned = slimnet.prune(net(), IMAGE, budget={"ms": asked}, scope=scope, align=None)
    plan = pruned.plan
    assert 0 < plan.after["ms"] <= asked < plan.before["ms"] == dense
    assert plan.after["ms"] == slimnet.cost(pruned.model, IMAGE).amounts["ms"]
    assert plan.asked["ms"] == asked and pruned.certificate is not None
    assert f"ms {dense:.4g} → " in str(pruned)
    assert slimnet.Plan.from_json(plan.to_json()) == plan


def test_what_cannot_be_met_is_refused_in_its_own_words(ms):
    with pytest.raises(slimnet.PruneError) as refusal:
        slimnet.prune(net(), IMAGE, budget={"ms": 1e-12})
    said = str(refusal.value)
    assert said.startswith("what was asked for (at most 1e-12 ms) cannot be met, the nearest is ")
    assert "of the ms is the least that was found" in said


def test_nothing_has_to_go_where_it_is_met_already(ms):
    kept = slimnet.prune(net(), IMAGE, budget={"ms": 1.0}, verify=False).plan
    assert kept.after == kept.before
    assert f"the network has {kept.before['ms']:.4g} ms as it is: nothing has to go" in kept.notes


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan")])
def test_an_amount_that_cannot_be_is_refused(ms, value):
    with pytest.raises(slimnet.InputError, match="ms must be a number above 0, and"):
        slimnet.prune(net(), IMAGE, budget={"ms": value})


@st.composite
def bumpy(draw):
    """Groups, and a cost that goes up and down with each width, in a unit of any size."""
    sizes = draw(st.lists(st.integers(8, 64), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    tables = [np.abs(np.arange(n + 1) * rng.random(n + 1)) + rng.random(n + 1) for n in sizes]
    unit = draw(st.sampled_from([1e-9, 1.0, 1e9]))
    groups = [
        Group(n, np.arange(size), (), np.ones(size, int), (f"layer{n}",), ())
        for n, size in enumerate(sizes)
    ]
    scores = {n: rng.random(size) for n, size in enumerate(sizes)}

    def cost(widths):
        return unit * float(sum(table[widths[n]] for n, table in enumerate(tables)))

    return groups, scores, cost


@quick
@given(
    bumpy(),
    st.floats(0.02, 1.0),
    st.sampled_from(["local", "global", "isomorphic", "harm"]),
    st.sampled_from(["auto", None, 4]),
)
def test_a_cost_that_goes_up_and_down_ends_in_a_plan_within_it_or_a_refusal(
    bumps, share, scope, align
):
    groups, scores, cost = bumps
    limits, like = Limits(scope=scope, align=align), {g.number: g.number % 2 for g in groups}
    COSTS.load()
    found = allocate(groups, scores, Budget("macs", share), limits, cost, grows=False, like=like)
    within = cost(found.widths) <= share * cost({g.number: g.size for g in groups}) * (1 + 1e-9)
    assert within != bool(found.unmet)
    assert all(1 <= found.widths[g.number] <= g.size for g in groups)


def test_the_smallest_share_that_fits_is_found_beyond_a_hill():
    """Narrower than 32 channels everything costs more than the whole; 32 to 40 of them fit."""
    groups = [Group(0, np.arange(64), (), np.ones(64, int), ("a",), ())]
    scores = {0: np.arange(64.0)}

    def cost(widths):
        return 40.0 if 32 <= widths[0] <= 40 else 100.0

    found = allocate(groups, scores, Budget("macs", 0.5), Limits(align=None), cost, grows=False)
    assert found.widths == {0: 40} and not found.unmet


@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_wider_rung_that_fits_is_found_past_a_dearer_one(scope):
    """Two groups in blocks of eight: widths between two blocks cost half as much again."""
    groups = [Group(n, np.arange(64), (), np.ones(64, int), ("a",), ()) for n in (0, 1)]
    scores = {n: np.arange(1.0, 65.0) for n in (0, 1)}

    def cost(widths):
        return float(sum(-(-n // 8) * (1.5 if n % 8 else 1.0) for n in widths.values()))

    limits = Limits(scope=scope, align=None)
    found = allocate(groups, scores, Budget("macs", 13 / 16), limits, cost, grows=False)
    assert cost(found.widths) == 13 and not found.unmet
