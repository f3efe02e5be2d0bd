"""Integers that hang on modules know their place while a network is recorded."""

from __future__ import annotations

import argparse
import types
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from micro import Net, conv
from torch import nn

import slimnet
from slimnet.capture.attributes import tracked
from slimnet.capture.modules import evaluation_mode
from slimnet.capture.sizes import AttributeOf, ShapeOf, Size
from slimnet.capture.trace import capture, source
from slimnet.network import Network
from slimnet.plan.plan import Plan

IMAGE = (torch.randn(2, 3, 4, 4),)
PLACE = AttributeOf("net", "sizes")


def place(size):
    return str(size.source)


def test_an_integer_knows_its_attribute():
    heads = tracked(4, AttributeOf("block", "heads"), set())
    assert heads == 4 and heads.source == AttributeOf("block", "heads", 4)
    assert str(AttributeOf("", "width")) == "width"


def test_an_entry_of_lists_and_tuples_knows_its_place_in_a_copy():
    given = [(3, "x"), 5]
    nested = tracked(given, PLACE, set())
    assert nested == given and type(given[1]) is int
    assert nested[0][0].source == AttributeOf("net", "sizes", 3, (0, 0))
    assert place(nested[0][0]) == "net.sizes[0][0]"


def test_an_entry_of_a_dict_or_an_object_is_exchanged_in_place():
    config = types.SimpleNamespace(hidden={"dim": 32}, name="x")
    assert tracked(config, PLACE, set()) is config
    assert config.hidden["dim"].source == AttributeOf("net", "sizes", 32, ("hidden", "dim"))
    assert place(config.hidden["dim"]) == "net.sizes.hidden.dim"


def test_what_two_modules_share_is_known_by_its_first_place():
    shared, seen = {"dim": 32}, set()
    tracked(shared, AttributeOf("a", "cfg"), seen)
    tracked(shared, AttributeOf("b", "cfg"), seen)
    assert place(shared["dim"]) == "a.cfg.dim"


def test_a_dict_that_holds_itself_is_looked_at_once():
    config = {"dim": 32}
    config["self"] = config
    assert tracked(config, PLACE, set()) is config and type(config["dim"]) is Size


def test_one_of_numpys_integers_keeps_its_methods():
    width = tracked(np.int64(32), PLACE, set())
    assert width == 32 and width.item() == 32 and width.dtype == np.int64
    assert place(width) == "net.sizes"


@pytest.mark.parametrize("value", [True, 2.0, "text", None, ("a", 1.5), [], [1] * 65])
def test_what_holds_no_size_comes_back_as_it_is(value):
    assert tracked(value, PLACE, set()) is value


@dataclass
class Config:
    hidden: int = 32


@dataclass(frozen=True)
class Frozen:
    hidden: int = 32


class Attributes(dict):
    """A dict whose entries are attributes as well."""

    def __init__(self, **given):
        super().__init__(given)
        self.__dict__.update(given)


Pair = namedtuple("Pair", "depth hidden")


class Reader(nn.Module):
    """Reads how wide it is from wherever ``read`` says, and keeps it as ``held``."""

    shared = 32

    def __init__(self, read, held=None):
        super().__init__()
        self.read, self.held = read, held
        self.p, self.bn, self.l = nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32), nn.Linear(32, 5)
        self.up = nn.ConvTranspose2d(32, 32, 1)
        self.group = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.sub = nn.Identity()
        self.sub.width = 32

    def forward(self, x):
        y = self.up(self.group(self.bn(self.p(x))))
        return self.l(y.reshape(x.shape[0], self.read(self), -1).transpose(1, 2))


READS = {
    "child's channels": (lambda m: m.p.out_channels, None),
    "child's features": (lambda m: m.bn.num_features, None),
    "reader's features": (lambda m: m.l.in_features, None),
    "transposed": (lambda m: m.up.in_channels, None),
    "depthwise": (lambda m: m.group.in_channels, None),
    "shape of a weight": (lambda m: m.l.weight.shape[1], None),
    "child's own attribute": (lambda m: m.sub.width, None),
    "class": (lambda m: m.shared, None),
    "private": (lambda m: m._held, None),
    "dict": (lambda m: m.held["dim"], {"dim": 32}),
    "dict of dicts": (lambda m: m.held["a"]["dim"], {"a": {"dim": 32}}),
    "list of dicts": (lambda m: m.held[0]["dim"], [{"dim": 32}]),
    "named tuple": (lambda m: m.held.hidden, Pair(2, 32)),
    "dict with attributes": (lambda m: m.held.dim, Attributes(dim=32)),
    "dataclass": (lambda m: m.held.hidden, Config()),
    "frozen dataclass": (lambda m: m.held.hidden, Frozen()),
    "namespace": (lambda m: m.held.dim, argparse.Namespace(dim=32)),
    "objects in objects": (lambda m: m.held.net.hidden, types.SimpleNamespace(net=Config())),
    "numpy": (lambda m: m.held, np.int64(32)),
    "torch.Size": (lambda m: m.held[1], torch.Size((1, 32))),
}


@pytest.mark.parametrize("name", READS)
def test_a_size_is_followed_or_mended_wherever_it_is_read_from(name):
    read, held = READS[name]
    model = Reader(read, held).eval()
    model._held = 32
    before = repr(held)
    pruned = slimnet.prune(model, IMAGE, ratio=0.5, align=None)
    slim = pruned.model
    assert slim.p.out_channels == 16 == read(slim) and slim(*IMAGE).shape == (2, 16, 5)
    assert read(model) == 32 and type(read(model)) in (int, np.int64)
    assert repr(held) == before and model.held is held
    assert type(read(slim)) is type(read(model))
    assert Plan.from_json(pruned.plan.to_json()).changes == pruned.plan.changes


def test_a_class_attribute_is_mended_on_the_instance_alone():
    slim = slimnet.prune(Reader(lambda m: m.shared), IMAGE, ratio=0.5, align=None).model
    assert slim.shared == 16 and Reader.shared == 32


class Locked:
    """A configuration that cannot be copied."""

    def __init__(self):
        self.dim = 32

    def __deepcopy__(self, memo):
        raise TypeError("not this one")


def test_a_configuration_that_cannot_be_copied_stays_as_it_is():
    model = Reader(lambda m: m.held.dim, Locked()).eval()
    slim = slimnet.prune(model, IMAGE, ratio=0.5, align=None).model
    assert slim.held.dim == 16 and model.held.dim == 32


def test_a_configuration_that_modules_share_is_mended_for_all_of_them():
    shared = Config()

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = shared

        def forward(self, x):
            return x.view(x.shape[0], self.config.hidden, 4, 4)

    model = nn.Sequential(nn.Conv2d(3, 32, 1), Block(), Block(), nn.Conv2d(32, 4, 1)).eval()
    slim = slimnet.prune(model, IMAGE, ratio=0.5, align=None).model
    assert slim[1].config is slim[2].config and slim[1].config.hidden == 16 and shared.hidden == 32


def test_what_a_child_keeps_of_its_weight_follows_the_weight():
    found = []
    model = Reader(lambda m: found.extend((m.l.in_features, m.group.in_channels)) or 32).eval()
    trace = capture(Network.of(model), IMAGE)
    assert isinstance(source(found[0]), ShapeOf)
    assert source(found[0]).tensor == trace.tensors["l.weight"].id
    assert str(source(found[1]).right) == "group.groups"
    assert model.l.in_features == 32 and type(model.l.in_features) is int


def test_asking_for_the_shape_of_a_weight_is_no_use_of_it():
    model = Net(lambda m, x: m.b(m.a(x)), {"a": conv(3, 8), "b": conv(8, 4), "c": conv(8, 8)})
    assert "c.weight" not in capture(Network.of(model.eval()), IMAGE).tensors


def test_a_parametrised_weight_is_made_once_for_each_use():
    model = Net(lambda m, x: m.b(m.a(x)), {"a": conv(3, 8), "b": conv(8, 4)})
    nn.utils.parametrizations.weight_norm(model.a)
    names = [str(call.op) for call in capture(Network.of(model.eval()), IMAGE).calls]
    assert sum("_weight_norm" in name for name in names) == 1


class Writing(nn.Module):
    """Writes into what it holds, replaces it, and may fail afterwards."""

    def __init__(self, fails):
        super().__init__()
        self.fails = fails
        self.seen, self.table, self.nested = [1], {"a": 1}, {"deep": [{"x": 1}]}
        self.config, self._private, self.dropped = Config(), {"a": [1]}, {"k": 1}

    def forward(self, x):
        self.seen[0] = x
        self.table["a"] = x
        self.nested["deep"][0]["x"] = x
        self.config.hidden += 1
        self.config.extra = x
        self._private["a"].append(2)
        self.dropped.clear()
        self.dropped = {"other": x}
        if self.fails:
            raise RuntimeError("after all that")
        return x


@pytest.mark.parametrize("fails", [False, True])
def test_contents_of_the_users_containers_are_put_back(fails):
    model = Writing(fails)
    held = (model.seen, model.table, model.nested, model.config, model._private, model.dropped)
    with evaluation_mode(Network.of(model)):
        try:
            model(torch.zeros(1))
        except RuntimeError:
            assert fails
    assert held == ([1], {"a": 1}, {"deep": [{"x": 1}]}, Config(), {"a": [1]}, {"k": 1})
    now = (model.seen, model.table, model.nested, model.config, model._private, model.dropped)
    assert all(a is b for a, b in zip(held, now, strict=True)) and not hasattr(held[3], "extra")
