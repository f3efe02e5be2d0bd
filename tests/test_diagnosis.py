"""When a slim network breaks, the line that broke it is found, pinned and named."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from micro import Net, conv
from torch import nn

import slimnet
from slimnet.capture.trace import capture
from slimnet.coupling.couple import couple
from slimnet.coupling.groups import find_groups
from slimnet.network import Network
from slimnet.plan.plan import make_plan
from slimnet.plan.rebuild import rebuild
from slimnet.planning.budget import removed_atoms
from slimnet.proof.certificate import Mismatch, certify
from slimnet.proof.diagnosis import culprits
from slimnet.proof.reference import CutContext

IMAGE = (torch.randn(2, 3, 8, 8),)


def network(body):
    torch.manual_seed(0)
    return Net(body, {"a": conv(3, 16), "c": conv(16, 16), "b": conv(16, 4)}).eval()


def cut_by_hand(model):
    """(slim, proof): half of every group leaves, whatever the code says."""
    trace = capture(Network.of(model), IMAGE)
    coupling = couple([trace])
    groups, layers = find_groups(Network.of(model), coupling)
    scores = {g.number: np.random.default_rng(0).random(g.size) for g in groups}
    removed = removed_atoms(groups, scores, {g.number: g.size // 2 for g in groups})
    plan = make_plan(coupling, groups, layers, removed)
    context = CutContext(trace, coupling, plan)
    return rebuild(Network.of(model), plan), context


def blamed(model, slim, context):
    with pytest.raises(Mismatch) as caught:
        certify(Network.of(model), Network.of(slim), context, IMAGE)
    return culprits(caught.value)


def divided_by_its_width(m, x):
    y = m.c(m.a(x).relu())
    return m.b(y / y.shape[1])


def shifted_by_its_width(m, x):
    y = m.c(m.a(x).relu())
    return m.b(y + y.shape[1])


def shifted_after_a_norm(m, x):
    y = m.c(m.norm(m.a(x)).relu())
    return m.b(y + y.shape[1])


def asserted(m, x):
    y = m.c(m.a(x).relu())
    assert y.shape[1] == 16, "sixteen channels, please"
    return m.b(y)


def branched(m, x):
    y = m.c(m.a(x).relu())
    return m.b(y.tanh() if y.shape[1] == 16 else y.sigmoid())


def powered_by_a_length(m, x):
    y = m.c(m.a(x).relu())
    return m.b(y ** (y.shape[1] / 8))


CODE_THAT_CANNOT_FOLLOW = [shifted_by_its_width, asserted, branched, powered_by_a_length]


@pytest.mark.parametrize("body", CODE_THAT_CANNOT_FOLLOW)
def test_the_culprit_is_a_call_of_the_line_that_cannot_follow(body):
    model = network(body)
    slim, context = cut_by_hand(model)
    (pin,) = blamed(model, slim, context)
    first = body.__code__.co_firstlineno
    assert first < context.trace.calls[pin.call].site.line <= first + 4
    wanted = "sixteen channels" if body is asserted else "gives another result when cut"
    assert wanted in pin.because


@pytest.mark.parametrize("body", CODE_THAT_CANNOT_FOLLOW)
def test_only_the_layer_behind_that_line_is_left_whole(body):
    pruned = slimnet.prune(network(body), IMAGE, ratio=0.5, align=None)
    assert (pruned.model.a.out_channels, pruned.model.c.out_channels) == (8, 16)
    assert pruned.certificate.error <= pruned.certificate.tolerance
    (layer,) = (layer for layer in pruned.inspection.layers if layer.name == "c")
    assert "test_diagnosis.py:" in layer.reasons[0]


def test_statistics_that_nobody_reads_are_not_blamed():
    """A norm returns its means as well: shorter in the slim network, and of no consequence."""
    torch.manual_seed(0)
    layers = {"a": conv(3, 16), "norm": nn.InstanceNorm2d(16), "c": conv(16, 16), "b": conv(16, 4)}
    model = Net(shifted_after_a_norm, layers)
    pruned = slimnet.prune(model.eval(), IMAGE, ratio=0.5, align=None)
    assert (pruned.model.a.out_channels, pruned.model.c.out_channels) == (8, 16)


def test_a_width_that_only_multiplies_is_made_up_for():
    pruned = slimnet.prune(network(divided_by_its_width), IMAGE, ratio=0.5, align=None)
    assert (pruned.model.a.out_channels, pruned.model.c.out_channels) == (8, 8)
    assert pruned.certificate.exact
    assert pruned.plan.scaled.keys() == {"c.weight", "c.bias"}
    assert {scale.factor for scales in pruned.plan.scaled.values() for scale in scales} == {0.5}


def test_nothing_is_wrong_with_a_right_cut():
    model = network(lambda m, x: m.b(m.c(m.a(x).relu())))
    slim, context = cut_by_hand(model)
    assert certify(Network.of(model), Network.of(slim), context, IMAGE).error < 1e-12


def test_a_wrong_weight_is_blamed_on_the_call_that_uses_it():
    model = network(lambda m, x: m.b(m.c(m.a(x).relu())))
    slim, context = cut_by_hand(model)
    slim.c.stride = (2, 2)
    (pin,) = blamed(model, slim, context)
    assert context.trace.calls[pin.call].site.module == "c"


def test_neither_network_is_changed():
    model = network(divided_by_its_width)
    slim, context = cut_by_hand(model)
    before = [t.clone() for m in (model, slim) for t in m.state_dict().values()]
    blamed(model, slim, context)
    after = [t for m in (model, slim) for t in m.state_dict().values()]
    assert all(map(torch.equal, before, after))


def test_layers_of_which_nothing_was_seen_are_pinned_at_once(monkeypatch):
    """A detector that finds nothing: its heads run on no boxes at all."""

    def found_nothing(m, x):
        boxes = x.mean((2, 3))[:0]
        return m.out(m.a(x).relu()), m.last(m.second(m.first(boxes).relu()).relu())

    names = ("first", "second")
    layers = {"first": nn.Linear(3, 16), "second": nn.Linear(16, 16), "last": nn.Linear(16, 4)}
    model = Net(found_nothing, {"a": conv(3, 16), "out": conv(16, 4), **layers}).eval()
    module, calls = sys.modules["slimnet.pruning"], []
    real = module.certify
    monkeypatch.setattr(module, "certify", lambda *a, **k: calls.append(1) or real(*a, **k))
    pruned = slimnet.prune(model, IMAGE, ratio=0.5, align=None)
    reasons = {x.name: x.reasons[0] for x in pruned.inspection.layers if not x.prunable}
    assert all("gives nothing that could be compared" in reasons[name] for name in names)
    assert pruned.model.out.in_channels == 8 and len(calls) == 2
