"""Which groups are alike: the same parts at any width, and nothing else."""

from __future__ import annotations

import torch
import torchvision
from torch import nn

import slimnet
from slimnet.models import MODELS
from slimnet.network import Network
from slimnet.planning.alike import classes


def named(model, example):
    """The class of each layer whose output channels can leave."""
    groups = slimnet.inspect(model, example).groups
    numbers = classes(Network.of(model), groups)
    return {layer: numbers[g.number] for g in groups for layer in g.layers}


def test_insides_of_blocks_are_alike_at_any_width_and_streams_are_not():
    model = MODELS["resnet20"].make().eval()
    found = named(model, (torch.zeros(1, 3, 32, 32),))
    insides = {found[f"layer{stage}.{block}.conv1"] for stage in (1, 2, 3) for block in (0, 1, 2)}
    assert len(insides) == 1
    assert found["conv1"] not in insides


def test_kernels_and_connections_tell_apart():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
            self.c, self.d = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3)
            self.e, self.f = nn.Conv2d(16, 16, 3), nn.Conv2d(16, 4, 3)

        def forward(self, x):
            x = self.b(self.a(x).relu()).relu()
            x = self.d(self.c(x).relu()).relu()
            return self.f(self.e(x).relu())

    found = named(Net().eval(), (torch.zeros(1, 3, 16, 16),))
    # a class by the kernels before and after: 3·3, 3·1, 1·3, 3·3, 3·3
    assert found["a"] == found["d"] == found["e"]
    assert len({found["a"], found["b"], found["c"]}) == 3


def test_depth_wise_expansions_are_one_class():
    model = torchvision.models.mobilenet_v2(weights=None).eval()
    found = named(model, (torch.zeros(1, 3, 64, 64),))
    expanded = {found[f"features.{n}.conv.0.0"] for n in range(2, 18)}
    assert len(expanded) == 1
    assert found["features.18.0"] not in expanded


def test_every_group_gets_a_class_also_of_parametrised_layers():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 16, 3))
    model = nn.Sequential(conv, nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 4, 3)).eval()
    example = (torch.zeros(1, 3, 16, 16),)
    groups = slimnet.inspect(model, example).groups
    assert classes(Network.of(model), groups).keys() == {g.number for g in groups}
