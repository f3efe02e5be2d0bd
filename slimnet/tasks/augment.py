"""The standard augmentation of the CIFAR papers, on a whole batch at once.

Pad by an eighth of the size (4 pixels at 32) with black, crop at random, mirror every other image.
"""

from __future__ import annotations

import torch
from torch import Tensor


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift and mirror each of ``images [N, C, H, W]`` at random; the generator decides alone."""
    height, width = images.shape[2:]
    rows = _crop(len(images), height, generator)
    columns = _crop(len(images), width, generator)
    mirrored = torch.rand(len(images), 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    down, across = _margin(height), _margin(width)
    padded = torch.nn.functional.pad(images, [across, across, down, down])
    image = torch.arange(len(images))[:, None, None, None]
    channel = torch.arange(images.shape[1])[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _margin(size: int) -> int:
    return size // 8


def _crop(count: int, size: int, generator: torch.Generator) -> Tensor:
    """For each image the places, along one padded axis, that its crop reads: ``[count, size]``."""
    start = torch.randint(0, 2 * _margin(size) + 1, (count, 1), generator=generator)
    return start + torch.arange(size)
