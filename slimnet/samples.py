"""Calibration data: some images, ready for the network, and their labels where there are any."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slimnet.errors import InputError


@dataclass(frozen=True, eq=False)
class Samples:
    """``images`` as the network takes them [N, C, H, W], normalised; ``labels`` int64 [N] or None.

    Raises :class:`InputError` where the two do not fit together.
    """

    images: Tensor
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        shape = list(self.images.shape)
        if len(shape) < 2 or 0 in shape or not self.images.is_floating_point():
            raise InputError(
                f"the calibration images are {self.images.dtype} of shape {shape}: give floating "
                "point images [N, C, H, W], normalised as the network takes them"
            )
        if self.labels is not None and (
            self.labels.dtype != torch.int64 or list(self.labels.shape) != shape[:1]
        ):
            raise InputError(
                f"the calibration labels are {self.labels.dtype} of shape "
                f"{list(self.labels.shape)}: give one whole number (int64) for each of the "
                f"{shape[0]} images"
            )

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int) -> Iterator[Samples]:
        """The same in their order, at most ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self._part(start, start + size)

    def first(self, count: int) -> Samples:
        """At most so many of them."""
        return self._part(0, count)

    def to(self, device: torch.device) -> Samples:
        """The same on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, images=self.images.to(device), labels=labels)

    def _part(self, start: int, stop: int) -> Samples:
        labels = None if self.labels is None else self.labels[start:stop]
        return replace(self, images=self.images[start:stop], labels=labels)


def samples_of(data: Samples | Tensor | None) -> Samples | None:
    """Images alone are samples without labels."""
    return Samples(data) if isinstance(data, Tensor) else data
