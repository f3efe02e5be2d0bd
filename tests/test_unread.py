"""Channels that nobody reads: which they are, and that they leave before all others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from micro import Net, bn, conv
from torch import nn

import slimnet
from slimnet.capture.trace import capture
from slimnet.coupling.couple import couple
from slimnet.coupling.unread import unread
from slimnet.network import Network

IMAGE = (torch.randn(2, 3, 8, 8),)


def half(m, x):
    """Whatever is left of the channels, only the first eight of sixteen are read."""
    return x[:, : m.eight]


def network(body, **parts):
    torch.manual_seed(0)
    return Net(body, {"a": conv(3, 16), "b": conv(8, 4), "eight": 8, **parts}).eval()


def idle(body, example=IMAGE, **parts):
    """Which channels of ``a`` may leave and are read by no one."""
    coupling = couple([trace := capture(Network.of(network(body, **parts)), example)])
    flags = unread([trace], coupling)
    return flags[coupling.atoms.of[coupling.weights["a.weight"].axes[0]]]


LAST = [False] * 8 + [True] * 8
NONE = [False] * 16
DEPTHWISE = conv(16, 16, groups=16)


@pytest.mark.parametrize(
    ("expected", "body", "parts"),
    [
        (LAST, lambda m, x: m.b(m.a(x)[:, :8]), {}),
        (LAST, lambda m, x: m.b(half(m, m.n(m.a(x)).relu())), {"n": bn(16)}),
        (LAST, lambda m, x: m.b(half(m, m.d(F.max_pool2d(m.a(x), 2)))), {"d": DEPTHWISE}),
        (LAST, lambda m, x: m.b(m.a(x).split(m.sizes, 1)[0]), {"sizes": [8, 8]}),
        (LAST, lambda m, x: m.b((m.a(x) + m.c(x))[:, :8]), {"c": conv(3, 16)}),
        (NONE, lambda m, x: m.b(m.a(x)), {"b": conv(16, 4)}),
        (NONE, lambda m, x: m.b(m.c(m.a(x))[:, :8]), {"c": conv(16, 16)}),
        (NONE, lambda m, x: (lambda y: m.b((y + m.c(y))[:, :8]))(m.a(x)), {"c": conv(16, 16)}),
        (NONE, lambda m, x: (lambda y: m.b(y[:, :8] * y.sum(1, keepdim=True)))(m.a(x)), {}),
        (NONE, lambda m, x: m.b(F.group_norm(m.a(x), 2)[:, :8]), {}),
    ],
)
def test_a_channel_is_read_where_a_result_depends_on_it(expected, body, parts):
    assert idle(body, **parts).tolist() == expected


def test_what_is_unread_changes_nothing():
    model = network(lambda m, x: m.b(half(m, m.a(x).relu())))
    flags = idle(model.body)
    before = model(*IMAGE)
    with torch.no_grad():
        model.a.weight[torch.from_numpy(np.flatnonzero(flags))] += 5
    assert flags.any() and torch.equal(before, model(*IMAGE))


class Heads(nn.Module):
    """Of 32 channels, the first 20 are read."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 32)(), conv(20, 4)()
        self.sizes = [20, 12]

    def forward(self, x):
        return self.b(self.a(x).relu().split(self.sizes, 1)[0])


@pytest.mark.parametrize("scope", ["local", "global", "harm"])
def test_channels_that_nobody_reads_leave_first(scope):
    torch.manual_seed(0)
    model = Heads().eval()
    with torch.no_grad():
        model.a.weight[20:] *= 100
    found = slimnet.prune(model, IMAGE, ratio=0.25, align=None, scope=scope)
    assert set(range(20, 32)) <= set(found.plan.removed["a.weight"][0])
    (note,) = (n for n in found.plan.notes if "nobody reads" in n)
    assert note == "12 channels that nobody reads left before all others (a)"
    assert found.certificate.exact


def test_nothing_is_taken_where_nothing_is_asked_for_or_names_forbid_it():
    model = Heads().eval()
    assert not slimnet.prune(model, IMAGE, ratio=0.0, align=None).plan.removed
    kept = slimnet.prune(model, IMAGE, macs=0.9, layer_ratio={"a": 0.5}, align=None)
    assert not [n for n in kept.plan.notes if "nobody reads" in n]


def test_a_minimum_holds_for_what_nobody_reads():
    model = Heads().eval()
    asked = {"ratio": 0.9, "align": None, "min_channels": 8, "best_effort": True}
    slim = slimnet.prune(model, IMAGE, **asked).model
    assert slim.a.out_channels == 16


def test_of_a_layer_that_nobody_reads_something_stays():
    def body(m, x):
        m.c(x).relu()
        return m.b(m.a(x))

    model = network(body, b=conv(16, 4), c=conv(3, 16))
    slim = slimnet.prune(model, IMAGE, ratio=0.5, align=None).model
    assert slim.a.out_channels == 8 and slim.c.out_channels >= 1


def test_rounds_go_on_after_what_nobody_reads():
    torch.manual_seed(0)
    found = slimnet.prune(Heads().eval(), IMAGE, ratio=0.5, align=None, steps=2)
    assert set(range(20, 32)) <= set(found.plan.removed["a.weight"][0])
    assert found.model.a.out_channels < 20 and found.certificate.exact
