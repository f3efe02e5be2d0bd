"""The cost at given widths equals the cost of the atoms that survive, whatever is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from micro import MICRO
from oracle import float64

from slimnet.capture.passes import capture_passes
from slimnet.costs.widths import WidthCost
from slimnet.inspection import analyse
from slimnet.models import MODELS
from slimnet.network import Network
from slimnet.plan.plan import make_plan, surviving


class Called:
    """The same model, as one of which only the method is known."""

    def __init__(self, model):
        self.axes, self.at = model.axes, model.at


def costs_of(found, orders):
    """Of every cost, what it is at any widths; MACs also by a model that is called."""
    models = {**found.costs.models, "called": Called(found.costs.models["macs"])}
    costs = {
        name: WidthCost(model, found.coupling.atoms, found.groups, orders)
        for name, model in models.items()
    }
    called = costs.pop("called")
    assert called({}) == costs["macs"]({})
    return {**costs, "macs": both(costs["macs"], called)}


def both(cost, other):
    def checked(widths):
        assert other(widths) == cost(widths)
        return cost(widths)

    return checked


def assert_agrees(model, example, seed=0):
    found = analyse(Network.of(model), capture_passes(Network.of(model), example), ())
    rng = np.random.default_rng(seed)
    orders = {g.number: rng.permutation(g.size) for g in found.groups}
    costs = costs_of(found, orders)
    assert {name: cost({}) for name, cost in costs.items()} == found.inspection.cost.amounts
    for share in (0.9, 0.5, 0.1):
        kept = {g.number: int(rng.integers(1, max(share * g.size, 2))) for g in found.groups}
        gone = {g.number: orders[g.number][: g.size - kept[g.number]] for g in found.groups}
        plan = make_plan(found.coupling, found.groups, found.layers, gone)
        expected = found.costs.cost(surviving(found.coupling, plan)).amounts
        assert {name: cost(kept) for name, cost in costs.items()} == expected
    return found


@pytest.mark.parametrize("name", sorted(MICRO)[::6])
def test_tables_agree_with_counting_on_small_networks(name):
    model, example = float64(MICRO[name].make, MICRO[name].example, seed=0)
    assert_agrees(model, example)


@pytest.mark.parametrize("name", ["densenet40", "vgg16"])
def test_tables_agree_with_counting_on_concatenation_and_flattening(name):
    model = MODELS[name].make().eval()
    assert_agrees(model, (torch.zeros(1, 3, 32, 32),))


def test_tables_agree_with_counting_where_channels_leave_several_at_a_time():
    model = torchvision.models.shufflenet_v2_x0_5(weights=None).eval()
    assert assert_agrees(model, (torch.zeros(1, 3, 64, 64),)).groups


def test_groups_without_an_order_stay_whole():
    model = MODELS["digits_vgg"].make().eval()
    found = analyse(
        Network.of(model), capture_passes(Network.of(model), (torch.zeros(1, 1, 8, 8),)), ()
    )
    one = {g.number: 1 for g in found.groups}
    amounts = {name: cost(one) for name, cost in costs_of(found, {}).items()}
    assert amounts == found.inspection.cost.amounts
