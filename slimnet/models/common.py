"""What the built-in networks share: their table, their convolutions and their initialisation.

The initialisation is the one of the scratch-training protocol (Liu et al., ICLR 2019): He fan-out
for convolutions, N(0, 0.01) for the classifier, and batch-norm scales of 1, or of 0.5 in the
networks made for slimming.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from slimnet.registry import Registry


@dataclass(frozen=True)
class ModelRow:
    """One network: ``make(num_classes=…, in_channels=…)`` and its input ``[C, H, W]``."""

    make: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]


MODELS: Registry[ModelRow] = Registry("built-in network")

CIFAR = (3, 32, 32)
DIGITS = (1, 8, 8)  # scikit-learn's load_digits: 8x8 grey images


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Convolve 3x3 without a bias, keeping height and width at stride 1."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Convolve 1x1 without a bias."""
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


def pooled(x: Tensor) -> Tensor:
    """Average over height and width: ``[N, C, H, W]`` to ``[N, C]``."""
    return nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)


def initialise(model: nn.Module, *, gamma: float = 1.0) -> None:
    """Set a new network's weights, in place; ``gamma`` is the scale of every batch norm."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, gamma)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
