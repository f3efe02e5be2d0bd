"""All weights of a repaired network are trained together towards the original's streams."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import slimnet
from slimnet.models.resnet import BasicBlock
from slimnet.network import Network
from slimnet.repairs import ahead, reestimated, repair
from slimnet.repairs.layers import LayerwiseRepair
from slimnet.samples import Samples

IMAGES = torch.randn(416, 3, 8, 8, generator=torch.Generator().manual_seed(0))
HELD, FITTED = Samples(IMAGES[:32]), Samples(IMAGES[32:])


class Stage(nn.Module):
    """A stem, two blocks around a stream, a head, and what may follow it."""

    def __init__(self, odd=nn.Identity()):  # noqa: B008
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(*(BasicBlock(16, 16, 1, None) for _ in range(2)))
        self.head, self.odd = nn.Linear(16, 10), odd

    def forward(self, x):
        return self.odd(self.head(self.blocks(self.stem(x).relu()).mean((2, 3))))


class Summed(nn.Module):
    def forward(self, x):
        return x.cumsum(1)  # which is not known to be differentiable


def plain():
    layers = [m for _ in range(3) for m in (nn.LazyConv2d(16, 3, padding=1), nn.ReLU(inplace=True))]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    model(IMAGES[:2])
    return model


def cut(make, **options):
    torch.manual_seed(0)
    model = reestimated(Network.of(make().eval()), IMAGES, 32).model.eval()
    pruned = slimnet.prune(model, (IMAGES[:1],), align=None, **options)
    return Network.of(model), Network.of(pruned.model), pruned.plan


def looked(network, slim, plan, layerwise=True):
    """Whether it was better, by which features."""
    parts = [list(part.batches(32)) for part in (FITTED, HELD)]
    layers = LayerwiseRepair(network, slim, plan, *parts, refine=True)
    generator = torch.Generator().manual_seed(0)
    if layerwise:
        layers.run(generator, lambda *_: None)
    features = layers.features()
    found = ahead.look_ahead(layers.networks, features, FITTED, HELD, generator, lambda *_: None)
    return found, features


def change(network, slim):
    fresh = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answers, now = network.model(fresh), slim.model(fresh)
    return float((answers - now).square().mean() / answers.var())


@pytest.mark.parametrize(("make", "count"), [(Stage, 3), (plain, 4)])
def test_new_images_are_answered_better(make, count):
    network, slim, plan = cut(make, ratio=0.5)
    alone = Network.of(repair(network, slim, plan, IMAGES, refine=False)[0])
    found, features = looked(network, slim, plan)
    assert found and len(features) == count
    assert change(network, slim) < change(network, alone)


def test_features_are_what_is_left_of_the_originals():
    """Of a network that lost nothing but what is zero, each feature is the original's."""
    torch.manual_seed(0)
    model = Stage().eval()
    plan = slimnet.prune(model, (IMAGES[:1],), ratio=0.5, align=None).plan
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            plan.of(name).zero_(tensor)
    network, slim = Network.of(model), Network.of(slimnet.apply(plan, model))
    before = {name: tensor.clone() for name, tensor in slim.tensors.items()}
    found, features = looked(network, slim, plan, layerwise=False)
    assert not found and features
    assert all(torch.equal(tensor, before[name]) for name, tensor in slim.tensors.items())


@pytest.mark.parametrize("rate", [100.0, float("nan")])
def test_nothing_changes_that_images_held_back_do_not_confirm(rate, monkeypatch):
    monkeypatch.setattr(ahead, "RATE", rate)
    network, slim, plan = cut(Stage, ratio=0.5)
    before = {name: tensor.clone() for name, tensor in slim.tensors.items()}
    found, _ = looked(network, slim, plan, layerwise=False)
    assert not found
    assert all(torch.equal(tensor, before[name]) for name, tensor in slim.tensors.items())


@pytest.mark.parametrize("least", [{"HELD": 33}, {"CLEAR": 0.1}])
def test_few_images_held_back_and_a_gain_that_may_be_luck_confirm_nothing(least, monkeypatch):
    for name, value in least.items():
        monkeypatch.setattr(ahead, name, value)
    assert not looked(*cut(Stage, ratio=0.5))[0]


def test_a_network_that_cannot_be_run_call_by_call_stays_as_layers_were_repaired():
    found, _ = looked(*cut(lambda: Stage(Summed()), ratio=0.5))
    assert not found


@pytest.mark.parametrize(("refine", "together"), [(True, True), (False, False)])
def test_a_repair_says_whether_all_were_trained_together(refine, together):
    network, _, _ = cut(Stage, ratio=0.5)
    pruned = slimnet.prune(network.model, (IMAGES[:1],), ratio=0.5, align=None)
    repaired = slimnet.repair(pruned, network.model, IMAGES, refine=refine)
    assert repaired.repair.ahead is together


def test_where_nothing_can_be_compared_nothing_changes():
    network, slim, plan = cut(Stage, ratio=0.5)
    parts = [list(part.batches(32)) for part in (FITTED, HELD)]
    layers = LayerwiseRepair(network, slim, plan, *parts, refine=True)
    generator = torch.Generator().manual_seed(0)
    assert not ahead.look_ahead(layers.networks, [], FITTED, HELD, generator, lambda *_: None)
