"""MACs, parameters and bytes: numbers worked out by hand, and the cut network's own count."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from micro import MICRO, Net, bn, conv, lin
from oracle import float64
from torch import nn

import slimnet
from slimnet.capture.trace import capture
from slimnet.costs.cost import Cost, CostModel, cost
from slimnet.coupling.couple import couple
from slimnet.coupling.survival import Survival
from slimnet.network import Network

IMAGE = (torch.randn(2, 3, 8, 8),)
HAND = {
    "convolution": (conv(3, 16), 2 * 64 * 16 * 3 * 9, 16 * 27 + 16),
    "stride": (conv(3, 16, stride=2), 2 * 16 * 16 * 3 * 9, 16 * 27 + 16),
    "no bias": (conv(3, 16, bias=False), 2 * 64 * 16 * 3 * 9, 16 * 27),
    "grouped": (conv(3, 9, groups=3), 2 * 64 * 9 * 1 * 9, 9 * 9 + 9),
    "transposed": (partial(nn.ConvTranspose2d, 3, 4, 2, stride=2), 2 * 64 * 3 * 4 * 4, 3 * 16 + 4),
    "grouped transposed": (
        partial(nn.ConvTranspose2d, 3, 6, 2, stride=2, groups=3),
        2 * 64 * 3 * 2 * 4,
        3 * 8 + 6,
    ),
    "linear": (partial(nn.Linear, 8, 5), 2 * 3 * 8 * 8 * 5, 45),
    "norm": (bn(3), 0, 6),
    "activation": (nn.ReLU, 0, 0),
}


@pytest.mark.parametrize(("part", "macs", "params"), HAND.values(), ids=HAND)
def test_a_layer_costs_what_it_costs_by_hand(part, macs, params):
    found = cost(Net(lambda m, x: m.a(x), {"a": part}), IMAGE)
    assert (found.macs, found.params) == (macs, params)


def test_matrix_products_count_as_multiply_adds():
    left, right = torch.randn(2, 4, 8), torch.randn(2, 8, 5)
    model = Net(lambda m, x, y: torch.bmm(x, y), {})
    assert cost(model, (left, right)) == Cost({"macs": 2 * 4 * 8 * 5, "params": 0, "bytes": 0})
    model = Net(lambda m, x, y: torch.einsum("bik,bkj->bij", x, y), {})
    assert cost(model, (left, right)).macs == 2 * 4 * 8 * 5
    model = Net(lambda m, x, y: x[0] @ y[0, :, 0], {})
    assert cost(model, (left, right)).macs == 4 * 8


def test_a_batch_norm_between_counts_nothing_and_its_statistics_are_bytes():
    model = Net(lambda m, x: m.b(m.n(m.a(x))), {"a": conv(3, 16), "n": bn(16), "b": conv(16, 4)})
    found = cost(model, IMAGE)
    assert found.macs == 2 * 64 * 9 * (3 * 16 + 16 * 4)
    assert found.params == 3 * 16 * 9 + 16 + 2 * 16 + 16 * 4 * 9 + 4
    assert found.bytes == found.params * 4 + 2 * 16 * 4 + 8


def test_bytes_follow_the_dtype():
    model = nn.Linear(8, 5)
    x = torch.randn(1, 8)
    assert cost(model.double(), (x.double(),)).bytes == 2 * cost(nn.Linear(8, 5), (x,)).bytes == 360


def test_a_shared_layer_counts_twice_in_macs_and_once_in_params():
    model = Net(lambda m, x: m.b(m.b(m.a(x))), {"a": conv(3, 16), "b": conv(16, 16)})
    found = cost(model, IMAGE)
    assert found.macs == 2 * 64 * 9 * (3 * 16 + 2 * 16 * 16)
    assert found.params == 16 * 27 + 16 + 16 * 16 * 9 + 16


def test_macs_are_those_of_the_whole_example():
    model = Net(lambda m, x: m.a(x), {"a": conv(3, 16)})
    one, four = (cost(model, (torch.randn(n, 3, 8, 8),)).macs for n in (1, 4))
    assert four == 4 * one


def test_resnet18_costs_what_the_literature_says():
    model = torchvision.models.resnet18(weights=None)
    found = cost(model, (torch.zeros(1, 3, 224, 224),))
    assert round(found.macs / 1e9, 3) == 1.814
    assert found.params == 11_689_512


@pytest.mark.parametrize(
    "name",
    [
        *("plain", "batch_norm", "depthwise", "shuffle_view", "pixel_shuffle"),
        *(name for name in MICRO if "group" in name or "transpos" in name or "flatten" in name),
    ],
)
def test_the_cost_that_a_plan_announces_is_that_of_the_slim_network(name):
    if name not in MICRO:
        pytest.fail(f"there is no micro network {name}")
    model, example = float64(MICRO[name].make, MICRO[name].example, seed=0)
    try:
        plan = slimnet.prune(model, example, ratio=0.4, align=None, verify=False)
    except slimnet.PruneError:
        plan = slimnet.prune(model, example, ratio=0.0, verify=False)
    assert plan.plan.before == cost(model, example).to_json()
    assert plan.plan.after == cost(plan.model, example).to_json()


def test_with_everything_alive_the_cost_is_the_dense_one():
    model = Net(
        lambda m, x: m.f(F.adaptive_avg_pool2d(m.a(x), 2).flatten(1)),
        {"a": conv(3, 16), "f": lin(64, 5)},
    ).eval()
    trace = capture(Network.of(model), IMAGE)
    coupling = couple([trace])
    costs = CostModel(Network.of(model), trace, coupling)
    assert costs.cost(Survival.without(coupling.atoms)) == cost(model, IMAGE)
    removed = coupling.atoms.of[coupling.weights["a.weight"].axes[0][:6]]
    slim = costs.cost(Survival.without(coupling.atoms, removed))
    assert slim.macs == 2 * 64 * 9 * 3 * 10 + 2 * 40 * 5
    assert slim.params == 10 * 27 + 10 + 40 * 5 + 5
