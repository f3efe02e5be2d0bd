"""Functions that remember results give the same answer in every order of calls."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

import slimnet
from slimnet.capture.caches import forgetful, remembering
from slimnet.capture.trace import capture
from slimnet.network import Network

IMAGE = (torch.randn(2, 3, 4, 4),)


def networks(maxsize):
    """A network whose sizes come out of a cache, with or without a limit."""

    @functools.lru_cache(maxsize)
    def recipe(shape, name):
        return (shape[0], shape[1], shape[2] * shape[3])

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 1), nn.Linear(16, 5)

        def forward(self, x):
            y = self.a(x)
            return self.b(y.reshape(recipe(tuple(y.shape), "flat")).mean(2))

    return Net().eval(), recipe


def widths(model):
    slim = slimnet.prune(model, IMAGE, ratio=0.5, align=None).model
    return slim.a.out_channels, slim.b.in_features


@pytest.mark.parametrize("maxsize", [None, 8])
@pytest.mark.parametrize("batch", [None, 1, 2])
def test_the_answer_is_the_same_in_any_order_of_calls(maxsize, batch):
    model, _ = networks(maxsize)
    if batch is not None:
        model(torch.randn(batch, 3, 4, 4))
    assert [widths(model), widths(model)] == [(8, 8), (8, 8)]


@pytest.mark.parametrize("maxsize", [None, 8])
def test_no_size_remains_in_a_cache(maxsize):
    model, recipe = networks(maxsize)
    capture(Network.of(model), IMAGE)
    found = recipe((2, 16, 4, 4), "flat")
    assert found == (2, 16, 16) and all(type(n) is int for n in found)


def test_a_cache_without_a_limit_keeps_what_it_held():
    model, recipe = networks(None)
    held = recipe((2, 16, 4, 4), "flat")
    capture(Network.of(model), IMAGE)
    assert recipe((2, 16, 4, 4), "flat") is held


def test_a_failing_pass_leaves_no_size_either():
    model, recipe = networks(None)
    model.b = nn.Linear(15, 5)
    with pytest.raises(slimnet.CaptureError):
        capture(Network.of(model), IMAGE)
    assert all(type(n) is int for n in recipe((2, 16, 4, 4), "flat"))


def test_functions_are_found_by_the_names_in_the_code_that_calls_them():
    _, recipe = networks(8)

    def caller():
        return recipe((1, 2, 3, 4), "x")

    assert recipe in remembering([caller.__code__])
    assert recipe not in remembering([networks.__code__]) and remembering([]) == []


def test_what_is_not_asked_with_sizes_is_left_alone():
    @functools.lru_cache(None)
    def table():
        return object()

    held = table()
    with forgetful([table]):
        assert table() is not held
    assert table() is held

    class Net(nn.Sequential):
        def forward(self, x):
            table()
            return super().forward(x)

    capture(Network.of(Net(nn.Conv2d(3, 4, 1)).eval()), IMAGE)
    assert table() is held and table.cache_info().hits
