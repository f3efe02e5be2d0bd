"""A model is walked once, whatever its class hides; and no walk outlives a public call."""

from __future__ import annotations

import copy

import pytest
import torch
from micro import Net, conv
from test_modules import ODD, Plain, Tied
from torch import nn
from torch.nn.utils import parametrize

import slimnet
from slimnet.network import Held, Network

IMAGE = (torch.randn(2, 3, 8, 8),)


def test_modules_come_once_parents_first():
    model = Tied()
    assert list(Network.of(model).modules) == ["", "a", "norm", "b", "c"]
    assert Network.of(model).modules == dict(nn.Module.named_modules(model))


@pytest.mark.parametrize("kind", ODD)
def test_tensors_are_those_of_the_state_dict(kind):
    model = kind()
    found = Network.of(model).tensors
    assert found.keys() - {"mean"} == {
        name for name in model.state_dict() if not name.startswith("again") and name != "mean"
    }


def test_a_shared_tensor_has_all_its_names_and_one_first_name():
    first = Network.of(Tied()).first
    assert first["c.weight"] == first["a.weight"] == "a.weight"
    assert first["mean"] != first["c.bias"] == "c.bias"
    assert {first["mean"], first["norm.running_mean"]} in ({"mean"}, {"norm.running_mean"})


def test_the_first_names_are_found_by_identity_and_by_any_name():
    model = Tied()
    network = Network.of(model)
    assert network.names[id(model.c.weight)] == "a.weight"
    assert network.own_name("c.weight") == network.own_name("a.weight") == "a.weight"
    assert network.own_name("again.bias") == "b.bias"
    assert network.own_name("again.nothing") == "again.nothing"
    assert network.own_name("nobody.weight") == "nobody.weight"


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def test_a_parametrised_weight_belongs_to_the_layer_that_it_stands_in():
    model = Plain()
    parametrize.register_parametrization(model.a, "weight", Halved())
    owners = Network.of(model).owners
    owner = owners["a.parametrizations.weight.original"]
    assert (owner.path, owner.leaf, owner.kind) == ("a", "weight", "ParametrizedLinear")
    assert owner.module is model.a and owners["norm.running_mean"].module is model.norm


def test_what_is_only_held_has_the_kind_that_its_operator_takes_it_for():
    held = Held()
    held.kind = "Conv2d"
    held.register_parameter("weight", nn.Parameter(torch.zeros(2, 2)))
    assert Network.of(nn.Sequential(held)).owners["0.weight"].kind == "Conv2d"


def test_parameters_shapes_device_and_type_are_those_of_the_tensors():
    model = Plain().double()
    network = Network.of(model)
    assert network.name == "Plain" and network.dtype == torch.float64
    assert network.device == torch.device("cpu")
    assert list(network.parameters) == [name for name, _ in model.named_parameters()]
    assert network.shapes["norm.running_mean"] == (4,)
    empty = Network.of(nn.ReLU())
    assert empty.dtype is None and empty.device == torch.device("cpu")


def test_what_is_written_is_seen_and_what_is_exchanged_is_not():
    model = Plain()
    network = Network.of(model)
    with torch.no_grad():
        model.a.weight.fill_(2.0)
    assert network.tensors["a.weight"].eq(2).all()
    model.a = nn.Linear(3, 7)
    assert network.shapes["a.weight"] == (4, 3)
    assert Network.of(model).shapes["a.weight"] == (7, 3)


def small():
    torch.manual_seed(0)
    layers = {"a": conv(3, 16), "b": conv(16, 16), "c": conv(16, 4)}
    return Net(lambda m, x: m.c(m.b(m.a(x).relu()).relu()), layers).eval()


CALLS = {
    "prune": lambda model: slimnet.prune(model, IMAGE, ratio=0.5, align=None).model,
    "inspect": lambda model: slimnet.inspect(model, IMAGE),
    "sensitivity": lambda model: slimnet.sensitivity(model, IMAGE, points=1),
    "cost": lambda model: slimnet.cost(model, IMAGE),
}
"""What public functions find in a network."""
WIDTHS = {
    "prune": lambda slim: slim.b.out_channels * 2,
    "inspect": lambda inspection: inspection.layers[1].channels,
    "sensitivity": lambda found: found.curves[1].width,
    "cost": lambda cost: (cost.params - 16 * 28 - 4) // (16 * 9 + 1 + 36),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_model_that_changed_between_two_calls_is_seen(call):
    model = small()
    assert WIDTHS[call](CALLS[call](model)) == 16
    model.b, model.c = conv(16, 24)(), conv(24, 4)()
    assert WIDTHS[call](CALLS[call](model)) == 24


def test_a_proof_walks_the_original_as_it_is_now():
    model = small()
    pruned = slimnet.prune(model, IMAGE, ratio=0.5, align=None)
    other = copy.deepcopy(model)
    assert slimnet.verify(pruned, other).error < 1e-9
    other.b = conv(16, 16)()
    with pytest.raises(slimnet.CertificateError, match="other numbers"):
        slimnet.verify(pruned, other)


@pytest.fixture
def walked(monkeypatch):
    """The models that are walked, one after the other."""
    models, walk = [], Network.of.__func__

    def counted(cls, model):
        models.append(model)
        return walk(cls, model)

    monkeypatch.setattr(Network, "of", classmethod(counted))
    return models


@pytest.mark.parametrize("call", CALLS)
def test_a_public_function_walks_the_users_model_once(call, walked):
    model = small()
    CALLS[call](model)
    assert sum(one is model for one in walked) == 1


def test_a_proof_walks_both_networks_once(walked):
    model = small()
    pruned = slimnet.prune(model, IMAGE, ratio=0.5, align=None)
    walked.clear()
    slimnet.verify(pruned, model)
    assert [one is model for one in walked] == [True, False] and walked[1] is pruned.model
