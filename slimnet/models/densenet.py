"""DenseNet for small images without bottlenecks (Huang et al., CVPR 2017), depth 3n + 4.

As in Network Slimming, the scales of the batch norms start at 0.5.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimnet.models.common import CIFAR, MODELS, ModelRow, conv1x1, conv3x3, initialise, pooled


class DenseLayer(nn.Module):
    """Append ``growth`` new channels to the input's."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = conv3x3(inputs, growth)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` to ``[N, inputs + growth, H, W]``."""
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], 1)


class Transition(nn.Module):
    """Mix the channels and halve height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = conv1x1(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to ``[N, C, H/2, W/2]``."""
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNet(nn.Module):
    """A stem of ``2 * growth`` channels and three blocks of ``layers`` dense layers."""

    def __init__(
        self, layers: int, growth: int, *, num_classes: int = 10, in_channels: int = 3
    ) -> None:
        super().__init__()
        stem, grown = 2 * growth, layers * growth
        self.conv1 = conv3x3(in_channels, stem)
        self.block1 = _block(stem, layers, growth)
        self.transition1 = Transition(stem + grown)
        self.block2 = _block(stem + grown, layers, growth)
        self.transition2 = Transition(stem + 2 * grown)
        self.block3 = _block(stem + 2 * grown, layers, growth)
        self.bn = nn.BatchNorm2d(stem + 3 * grown)
        self.linear = nn.Linear(stem + 3 * grown, num_classes)
        initialise(self, gamma=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores ``[N, num_classes]``."""
        x = self.transition1(self.block1(self.conv1(x)))
        x = self.block3(self.transition2(self.block2(x)))
        scores: Tensor = self.linear(pooled(F.relu(self.bn(x))))
        return scores


def _block(inputs: int, layers: int, growth: int) -> nn.Module:
    return nn.Sequential(*(DenseLayer(inputs + i * growth, growth) for i in range(layers)))


MODELS.add("densenet40", ModelRow(partial(DenseNet, 12, 12), CIFAR))
