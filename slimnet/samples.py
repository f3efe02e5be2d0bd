"""Calibration data: some images, ready for the network, and their labels where there are any.

What a user hands over enters through :func:`samples_of`, which refuses images that say nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

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
        for tensor in (self.images, *([] if self.labels is None else [self.labels])):
            if not isinstance(tensor, Tensor):
                raise InputError(
                    f"the calibration data holds a {type(tensor).__name__}: give images as a "
                    "tensor [N, C, H, W], and labels as one of int64 [N]"
                )
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
        """The same in their order, batches as :func:`batch_sizes` says."""
        start = 0
        for count in batch_sizes(len(self), size):
            yield self._part(start, start + count)
            start += count

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


def batch_sizes(count: int, size: int) -> list[int]:
    """Of ``size``, the last of what is left; no image is left alone.

    Norms that take their statistics from the batch cannot run on a single vector. So the last but
    one gives an image away, or, where it has two only, takes the last one's.
    """
    whole, left = divmod(count, size)
    if left == 1 and whole and size > 1:
        return [*[size] * (whole - 1), *([size - 1, 2] if size > 2 else [size + 1])]
    return [size] * whole + [left] * (left > 0)


def samples_of(data: Any) -> Samples | None:
    """Images alone are samples without labels.

    Raises :class:`InputError` for what is neither, for images that hold NaN or infinite numbers,
    and for several of which each is the same.
    """
    if data is None:
        return None
    samples = data if isinstance(data, Samples) else Samples(data)
    _check_finite(samples.images)
    _check_varied(samples.images)
    return samples


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise :class:`InputError` unless every label is one of the network's classes."""
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise InputError(
            f"the labels of the calibration images lie outside the network's {classes} classes, "
            f"0 to {classes - 1}"
        )


def _check_finite(images: Tensor) -> None:
    broken = [n for n, image in enumerate(images) if not bool(image.isfinite().all())]
    if broken:
        raise InputError(
            f"{len(broken)} of the {len(images)} calibration images hold NaN or infinite numbers, "
            f"the first of them number {broken[0]}: mend them, or leave them out"
        )


def _check_varied(images: Tensor) -> None:
    if len(images) > 1 and all(torch.equal(image, images[0]) for image in images[1:]):
        raise InputError(
            f"all {len(images)} calibration images are the same, and nothing can be learnt from "
            "how they differ: give images of what the network will see"
        )
