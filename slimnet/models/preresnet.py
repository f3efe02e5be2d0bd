"""Pre-activation bottleneck ResNet for small images (He et al., ECCV 2016), depth 9n + 2.

As in Network Slimming, the scales of the batch norms start at 0.5.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from slimnet.models.common import CIFAR, MODELS, ModelRow, conv1x1, conv3x3, initialise, pooled

EXPANSION = 4  # a block's outputs per inner channel


class PreBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each after its batch norm and ReLU, beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv1x1(inputs, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, outputs)
        same = inputs == outputs
        self.shortcut = nn.Identity() if same else conv1x1(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, not yet activated."""
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        added: Tensor = self.conv3(F.relu(self.bn3(out))) + self.shortcut(x)
        return added


class PreResNet(nn.Module):
    """A stem of 16 channels, three stages of ``blocks`` bottlenecks, a last batch norm."""

    def __init__(self, blocks: int, *, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, 16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(64, 32, blocks, stride=2)
        self.layer3 = _stage(128, 64, blocks, stride=2)
        self.bn = nn.BatchNorm2d(256)
        self.linear = nn.Linear(256, num_classes)
        initialise(self, gamma=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores ``[N, num_classes]``."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        scores: Tensor = self.linear(pooled(F.relu(self.bn(x))))
        return scores


def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Module:
    first = PreBottleneck(inputs, width, stride)
    rest = (PreBottleneck(EXPANSION * width, width, 1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


MODELS.add("preresnet164", ModelRow(partial(PreResNet, 18), CIFAR))
