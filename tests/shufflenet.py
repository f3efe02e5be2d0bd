"""ShuffleNet v1 (Zhang et al., 2017), as the paper has it, at its real widths but for small images.

The second grouped convolution of a unit reads shuffled channels: no place of a group of the first
is one place of its groups, unless the widths happen to divide.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimnet.coupling.groups import Group

WIDTHS = {2: 200, 3: 240, 4: 272, 8: 384}
"""Groups → channels of the second stage; each further one has twice as many."""


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1):
    layer = partial(nn.Conv2d, bias=False, padding=kernel // 2)
    return layer(inputs, outputs, kernel, stride, groups=groups)


def shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).reshape(batch, -1, height, width)


class Unit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; added to the input, or beside it."""

    def __init__(self, inputs: int, outputs: int, groups: int, *, stride: int = 1, first: int = 0):
        super().__init__()
        inner, self.groups, self.stride = outputs // 4, groups, stride
        made = outputs - inputs if stride == 2 else outputs
        self.squeeze, self.n1 = conv(inputs, inner, groups=first or groups), nn.BatchNorm2d(inner)
        self.depth, self.n2 = conv(inner, inner, 3, stride, inner), nn.BatchNorm2d(inner)
        self.expand, self.n3 = conv(inner, made, groups=groups), nn.BatchNorm2d(made)

    def forward(self, x: Tensor) -> Tensor:
        y = shuffle(self.n1(self.squeeze(x)).relu(), self.groups)
        y = self.n3(self.expand(self.n2(self.depth(y))))
        if self.stride == 1:
            return (x + y).relu()
        return torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1).relu()


class ShuffleNet(nn.Module):
    """A stem, stages of units and a classifier; fewer units than the paper's 4, 8, 4."""

    def __init__(self, groups: int, stages: int = 2, units: int = 2, classes: int = 5) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, 24, 3, 2), nn.BatchNorm2d(24)
        self.units, width = nn.Sequential(), 24
        for stage in range(stages):
            wide = WIDTHS[groups] * 2**stage
            first = 1 if stage == 0 else groups
            self.units.append(Unit(width, wide, groups, stride=2, first=first))
            self.units.extend(Unit(wide, wide, groups) for _ in range(units - 1))
            width = wide
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.units(self.norm(self.stem(x)).relu())
        return self.head(x.mean((2, 3)))


class Around(nn.Module):
    """A shuffle between convolutions of some groups and of others, and what is around it."""

    def __init__(self, wide: int = 60, first: int = 3, second: int = 3) -> None:
        super().__init__()
        self.groups = first
        self.s = nn.Conv2d(3, 12 * first, 3, padding=1)
        self.a = nn.Conv2d(12 * first, wide, 1, groups=first)
        self.n = nn.BatchNorm2d(wide)
        self.b = nn.Conv2d(wide, 8 * second, 1, groups=second)
        self.h = nn.Linear(8 * second, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = shuffle(self.a(self.s(x)), self.groups)
        return self.h(self.b(self.n(y).relu()).mean((2, 3)))


def dense(weight: Tensor, groups: int) -> Tensor:
    """The block-diagonal weight [O, C, *] that the weight of a grouped convolution stands for."""
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    full = weight.new_zeros(weight.shape[0], groups * columns, *weight.shape[2:])
    for g in range(groups):
        at = slice(g * rows, (g + 1) * rows), slice(g * columns, (g + 1) * columns)
        full[at] = weight[at[0]]
    return full


def as_dense(model: Around) -> Around:
    """The same network, its last convolution one of a single group with block-diagonal weight."""
    made, layer = deepcopy(model), model.b
    made.b = nn.Conv2d(layer.in_channels, layer.out_channels, 1).to(layer.weight)
    with torch.no_grad():
        made.b.weight.copy_(dense(layer.weight, layer.groups))
        made.b.bias.copy_(layer.bias)
    return made.eval()


def of_dense(group: Group) -> Group:
    """A group of the network, as one of :func:`as_dense`."""
    return replace(group, axes=tuple(replace(axis, groups=1) for axis in group.axes))
