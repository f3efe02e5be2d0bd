"""Cloning trusts no method of the user's classes, and leaves no trace on them."""

from __future__ import annotations

import copy
import json
import threading

import pytest
import torch
from torch import nn

from slimnet.capture.modules import clone, evaluation_mode, set_attribute
from slimnet.errors import InputError
from slimnet.network import Network


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.b = nn.Linear(4, 2)

    def forward(self, x):
        return self.b(self.norm(self.a(x)).relu())


class Hidden(Plain):
    """An attribute called ``modules`` hides the method of that name."""

    def __init__(self):
        super().__init__()
        self.modules = []


class ReadOnly(Plain):
    """``training`` can be read, and not be set once the module is made."""

    @property
    def training(self):
        return True

    @training.setter
    def training(self, flag):
        if "_modules" in vars(self):
            raise AttributeError("training cannot be set")


class Uncopiable(Plain):
    """Holds what ``copy.deepcopy`` refuses."""

    def __init__(self):
        super().__init__()
        self.json = json
        self.lock = threading.Lock()
        self.held = [threading.Lock()]


class Tied(Plain):
    def __init__(self):
        super().__init__()
        self.c = nn.Linear(3, 4)
        self.c.weight = self.a.weight
        self.again = self.b
        self.register_buffer("mean", self.norm.running_mean)


ODD = [Plain, Hidden, ReadOnly, Uncopiable, Tied]


def same(name, tensor):
    return tensor.detach().clone()


@pytest.mark.parametrize("kind", ODD)
def test_a_clone_computes_the_same_and_owns_its_tensors(kind):
    model = kind()
    copied = clone(Network.of(model), same)
    x = torch.randn(5, 3)
    assert type(copied) is kind
    with evaluation_mode(Network.of(model)), evaluation_mode(Network.of(copied)):
        assert torch.equal(model(x), copied(x))
    own = {t.data_ptr() for t in Network.of(model).tensors.values() if t.numel()}
    assert not own & {t.data_ptr() for t in Network.of(copied).tensors.values() if t.numel()}


def test_tied_weights_stay_tied_in_the_clone():
    copied = clone(Network.of(Tied()), same)
    assert copied.c.weight is copied.a.weight
    assert copied.again is copied.b
    assert copied.mean is copied.norm.running_mean


def test_each_tensor_is_asked_for_once_by_its_first_name():
    asked = []

    def ask(name, tensor):
        asked.append(name)
        return tensor.clone()

    model = Tied()
    clone(Network.of(model), ask)
    assert sorted(asked) == sorted(set(Network.of(model).first.values()))


def test_what_cannot_be_copied_is_shared_and_the_rest_is_not():
    model = Uncopiable()
    with pytest.raises(TypeError):
        copy.deepcopy(model)
    copied = clone(Network.of(model), same)
    assert copied.json is json and copied.lock is model.lock
    assert copied.held is not model.held and copied.held[0] is model.held[0]


def test_a_parameter_stays_one_and_frozen_stays_frozen():
    model = Plain()
    model.a.weight.requires_grad_(False)
    copied = clone(Network.of(model), same)
    for (name, old), (_, new) in zip(
        Network.of(model).tensors.items(), Network.of(copied).tensors.items(), strict=True
    ):
        assert isinstance(new, nn.Parameter) == isinstance(old, nn.Parameter), name
        assert new.requires_grad == old.requires_grad, name


class Scale(nn.Parameter):
    """A user's own kind of parameter."""


def test_a_subclass_of_parameter_stays_one():
    model = Plain()
    model.a.weight = Scale(torch.randn(4, 3))
    assert type(clone(Network.of(model), same).a.weight) is Scale


def test_hooks_are_kept_and_fire_on_the_clone():
    model = Plain()
    seen = []
    model.a.register_forward_hook(lambda module, given, result: seen.append(module))
    copied = clone(Network.of(model), same)
    copied(torch.randn(5, 3))
    assert seen == [copied.a]


def test_a_bound_method_is_bound_to_the_clone():
    model = Plain()
    model.call = model.forward
    assert clone(Network.of(model), same).call.__self__ is not model


def test_a_module_in_a_plain_list_is_cloned_with_the_rest():
    model = Plain()
    model.order = [model.b, model.a]
    copied = clone(Network.of(model), same)
    assert copied.order[0] is copied.b and copied.order[1] is copied.a


def state(model):
    """Attributes by identity, the content of lists, dicts and sets, and every tensor's value."""
    held = []
    for path, module in Network.of(model).modules.items():
        for name, value in vars(module).items():
            content = copy.copy(value) if isinstance(value, (list, dict, set)) else None
            held.append((path, name, id(value) if name[0] != "_" else None, content))
    return held, {name: (id(t), t.clone()) for name, t in Network.of(model).tensors.items()}


def assert_same_state(before, after):
    assert before[0] == after[0]
    assert before[1].keys() == after[1].keys()
    for name, (identity, value) in before[1].items():
        assert after[1][name][0] == identity, name
        assert torch.equal(after[1][name][1], value), name


class Busy(Plain):
    """A forward that writes wherever it can."""

    def __init__(self):
        super().__init__()
        self.calls, self.cache, self.names = [], {}, {"kept"}
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x):
        self.last = x
        self.calls.append(x.shape)
        self.cache["x"] = x
        self.names.add("new")
        self.seen = x.mean(0)
        self.count = getattr(self, "count", 0) + 1
        return super().forward(x)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", [False, True])
def test_a_run_leaves_no_trace(training, mode):
    model = Busy().train(mode)
    before = state(model)
    with evaluation_mode(Network.of(model), training=training):
        assert model.norm.training is training
        model(torch.randn(6, 3))[0, 0].item()
        assert model.count == 1
    assert_same_state(before, state(model))


def test_no_trace_is_left_when_the_run_fails():
    model = Busy()
    before = state(model)
    with (
        pytest.raises(RuntimeError, match="shapes cannot be multiplied"),
        evaluation_mode(Network.of(model)),
    ):
        model(torch.randn(6, 99))
    assert_same_state(before, state(model))


def test_a_mixed_mode_is_put_back_module_by_module():
    model = Plain().train()
    model.norm.eval()
    with evaluation_mode(Network.of(model)):
        assert not any(module.training for module in Network.of(model).modules.values())
    assert [m.training for m in Network.of(model).modules.values()] == [True, True, False, True]


def test_training_as_a_property_is_left_alone():
    model = ReadOnly()
    with evaluation_mode(Network.of(model)):
        assert model.training is True and not model.norm.training
    assert model.norm.training


def test_an_entry_deep_inside_an_attribute_is_replaced():
    model = Plain()
    model.sizes, model.width = [4, (5, [6, 7])], 8
    before = model.sizes
    set_attribute(model, "sizes", (1, 1, 0), 3)
    assert model.sizes == [4, (5, [3, 7])] and before == [4, (5, [6, 7])]
    set_attribute(model, "width", (), 9)
    assert model.width == 9
    with pytest.raises(InputError, match="a list is no number that could become 9"):
        set_attribute(model, "sizes", (), 9)


def test_a_traced_module_is_copied_with_its_forward():
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    copied = clone(Network.of(traced), lambda _, tensor: tensor.clone())
    x = torch.randn(2, 4)
    assert type(copied) is type(traced) and torch.equal(copied(x), traced(x))
