"""Residual networks for small images (He et al., CVPR 2016, section 4.2), depth 6n + 2.

Parameter names and shapes are those of akamaster/pytorch_resnet_cifar10, so that its published
weights load: a stem ``conv1``/``bn1``, stages ``layer1``… of basic blocks, the head ``linear``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from slimnet.models.common import (
    CIFAR,
    DIGITS,
    MODELS,
    ModelRow,
    conv1x1,
    conv3x3,
    initialise,
    pooled,
)

Shortcut = Callable[[int, int, int], nn.Module]  # (inputs, outputs, stride)


class PaddedShortcut(nn.Module):
    """Option A: every second pixel, and zeros for the new channels, half on each side."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` to ``[N, outputs, H/stride, W/stride]``."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.padding, self.padding))


def projected_shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Option B: a strided 1x1 convolution with batch norm."""
    return nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is the identity unless the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's ReLU output."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem and one stage of basic blocks per width; every stage but the first halves the image.

    ``stem_pool`` halves it once more right after the stem.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: int,
        *,
        shortcut: Shortcut = PaddedShortcut,
        stem_pool: bool = False,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.pool = nn.MaxPool2d(2) if stem_pool else nn.Identity()
        self.stages = [f"layer{stage}" for stage in range(1, len(widths) + 1)]
        inputs = [widths[0], *widths]
        for name, before, width in zip(self.stages, inputs, widths, strict=False):
            stride = 1 if name == "layer1" else 2
            self.add_module(name, _stage(before, width, stride, blocks, shortcut))
        self.linear = nn.Linear(widths[-1], num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores ``[N, num_classes]``."""
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        scores: Tensor = self.linear(pooled(x))
        return scores


def _stage(inputs: int, width: int, stride: int, blocks: int, shortcut: Shortcut) -> nn.Module:
    first = BasicBlock(inputs, width, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(width, width, 1, shortcut) for _ in range(blocks - 1)))


for _depth in (20, 32, 44, 56, 110, 1202):
    _make = partial(ResNet, (16, 32, 64), (_depth - 2) // 6)
    MODELS.add(f"resnet{_depth}", ModelRow(_make, CIFAR))

MODELS.add(
    "digits_resnet",
    ModelRow(
        partial(ResNet, (64, 128), 1, shortcut=projected_shortcut, stem_pool=True, in_channels=1),
        DIGITS,
    ),
)
