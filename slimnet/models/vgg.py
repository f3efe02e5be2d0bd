"""VGG with batch norm for small images, as in Network Slimming (Liu et al., ICCV 2017).

Convolutions and poolings from a list of widths, one average over what is left, one linear layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor, nn

from slimnet.models.common import CIFAR, DIGITS, MODELS, ModelRow, conv3x3, initialise, pooled

POOL = 0  # in a list of widths: halve height and width


class VGG(nn.Module):
    """``widths`` lists the convolutions' outputs, ``POOL`` between them."""

    def __init__(
        self, widths: Sequence[int], *, num_classes: int = 10, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(*_layers(widths, in_channels))
        self.classifier = nn.Linear(widths[-1], num_classes)
        initialise(self, gamma=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores ``[N, num_classes]``."""
        scores: Tensor = self.classifier(pooled(self.features(x)))
        return scores


def _layers(widths: Sequence[int], inputs: int) -> Iterator[nn.Module]:
    for width in widths:
        if width == POOL:
            yield nn.MaxPool2d(2)
        else:
            yield from (conv3x3(inputs, width), nn.BatchNorm2d(width), nn.ReLU())
            inputs = width


def _cifar_widths(per_stage: int) -> tuple[int, ...]:
    stages = [(64,) * 2, (128,) * 2, *((width,) * per_stage for width in (256, 512, 512))]
    return tuple(w for stage in stages for w in (*stage, POOL))[:-1]


MODELS.add("vgg16", ModelRow(partial(VGG, _cifar_widths(3)), CIFAR))
MODELS.add("vgg19", ModelRow(partial(VGG, _cifar_widths(4)), CIFAR))
MODELS.add(
    "digits_vgg",
    ModelRow(partial(VGG, (64, POOL, 128, 128, POOL, 128), in_channels=1), DIGITS),
)
