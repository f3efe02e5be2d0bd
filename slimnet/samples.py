"""Calibration data: some samples, as the network takes them, with labels where there are any.

:func:`samples_of` reads a user's data, and refuses numbers that are not finite and samples that are
all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimnet.errors import InputError
from slimnet.example import map_tensors, positional

Loss: TypeAlias = Callable[[nn.Module, "Samples"], Tensor]
"""(model, samples) → the mean loss over these samples."""


@dataclass(frozen=True, eq=False)
class Samples:
    """The network's inputs (``images``, also where these are no images) and their ``labels``.

    Images are a floating point tensor [N, C, H, W] or [N, …], normalised; other inputs are a tuple
    of positional or a dict of keyword inputs, all of whose tensors are [N, …]. Without a ``loss``,
    the loss is the cross-entropy and labels are int64 [N]. With one, labels are whatever it reads:
    tensors [N, …] in any containers. Raises :class:`InputError` where these do not fit together.
    """

    images: Any
    labels: Any = None
    loss: Loss | None = None
    count: int | None = None  # samples in a batch that cannot be split, such as a list of images

    def __post_init__(self) -> None:
        if self.count is not None:
            return
        if isinstance(self.images, (tuple, Mapping)):
            _check_lengths(self.images, self.labels)
            return
        _check_images(self.images)
        if self.labels is not None and self.loss is None:
            _check_labels(self.labels, list(self.images.shape))

    def __len__(self) -> int:
        return len(self.tensors[0]) if self.count is None else self.count

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What the network is called with, by position."""
        return self.images if isinstance(self.images, tuple) else (self.images,)

    def by_position(self, model: nn.Module) -> Samples:
        """Keyword inputs in the order of the model's ``forward``."""
        return replace(self, images=positional(model, self.images))

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors of the inputs, each [N, …]."""
        return [leaf for leaf in tree_leaves(self.images) if isinstance(leaf, Tensor)]

    @property
    def numbers(self) -> int:
        """How many numbers (elements) the inputs of one sample have."""
        return sum(tensor[0].numel() for tensor in self.tensors)

    @property
    def places(self) -> int:
        """Positions of one sample (pixels, steps of a sequence), of the input with the most."""
        return max(t[0, 0].numel() if t.dim() > 1 and len(t[0]) else 1 for t in self.tensors)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the inputs' tensors; batches of the same shapes run the same calls."""
        return tuple(tuple(tensor.shape) for tensor in self.tensors)

    def batches(self, size: int) -> Iterator[Samples]:
        """Batches of about ``size`` samples, in order (:func:`batch_sizes`)."""
        if self.count is not None:
            yield self
            return
        start = 0
        for count in batch_sizes(len(self), size):
            yield self._part(start, start + count)
            start += count

    def split(self, count: int) -> tuple[Samples, Samples]:
        """The first ``count`` samples, and the rest."""
        return self._part(0, count), self._part(count, len(self))

    def first(self, count: int) -> Samples:
        """The first ``count`` samples, or all where there are fewer."""
        return self._part(0, min(count, len(self)))

    def to(self, device: torch.device, kind: torch.dtype | None = None) -> Samples:
        """The same on a device, floating point inputs in this type."""
        labels = map_tensors(lambda tensor: tensor.to(device), self.labels)
        images = map_tensors(lambda tensor: _placed(tensor, device, kind), self.images)
        return replace(self, images=images, labels=labels)

    def _part(self, start: int, stop: int) -> Samples:
        if self.count is not None:
            return self

        images, labels = (
            map_tensors(lambda tensor: tensor[start:stop], part)
            for part in (self.images, self.labels)
        )
        return replace(self, images=images, labels=labels)


@dataclass(frozen=True, eq=False)
class SampleBatches(Samples):
    """Batches that cannot be joined to one tensor: images of different sizes, or lists of them.

    ``parts`` are the batches, at least one; ``images``, ``labels`` and ``loss`` are the first's.
    """

    parts: Sequence[Samples] = ()

    def __post_init__(self) -> None:
        """Check nothing: each part was checked when it was made."""

    @classmethod
    def of(cls, parts: Sequence[Samples]) -> Samples:
        """The samples of these batches; of a single one, that batch itself."""
        first = parts[0]
        return (
            first if len(parts) == 1 else cls(first.images, first.labels, first.loss, None, parts)
        )

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def numbers(self) -> int:
        """How many numbers the inputs of one sample have, in the batch with the most."""
        return max(part.numbers for part in self.parts)

    @property
    def places(self) -> int:
        """Positions of one sample, in the batch with the most."""
        return max(part.places for part in self.parts)

    def batches(self, size: int) -> Iterator[Samples]:
        """Each batch; one of more than ``size`` samples is split where it can be."""
        for part in self.parts:
            yield from part.batches(size)

    def split(self, count: int) -> tuple[Samples, Samples]:
        """The first batches, with ``count`` samples or more if there are as many, and the rest.

        No batch is split. Either side has at least one.
        """
        number, seen = 0, 0
        while number < len(self.parts) - 1 and (seen < count or not number):
            seen += len(self.parts[number])
            number += 1
        return self.of(self.parts[:number]), self.of(self.parts[number:])

    def first(self, count: int) -> Samples:
        """The first batches with ``count`` samples together; of a single one, only its first."""
        if len(self.parts[0]) >= count:
            return self.parts[0].first(count)
        return self if count >= len(self) else self.split(count)[0]

    def to(self, device: torch.device, kind: torch.dtype | None = None) -> Samples:
        """The same on a device, floating point inputs in this type."""
        return self.of([part.to(device, kind) for part in self.parts])


def _placed(tensor: Tensor, device: torch.device, kind: torch.dtype | None) -> Tensor:
    floating = tensor.is_floating_point() and kind is not None
    return tensor.to(device, kind if floating else tensor.dtype)


def _check_images(images: Any) -> None:
    if not isinstance(images, Tensor):
        raise InputError(
            f"the calibration data holds a {type(images).__name__}: give images as a tensor "
            "[N, C, H, W], and labels as one of int64 [N]"
        )
    shape = list(images.shape)
    if len(shape) < 2 or 0 in shape or not images.is_floating_point():
        raise InputError(
            f"the calibration images are {images.dtype} of shape {shape}: give floating "
            "point images [N, C, H, W], normalised as the network takes them"
        )


def _check_labels(labels: Any, shape: Sequence[int]) -> None:
    if not isinstance(labels, Tensor):
        _check_images(labels)
    if labels.dtype != torch.int64 or list(labels.shape) != shape[:1]:
        raise InputError(
            f"the calibration labels are {labels.dtype} of shape {list(labels.shape)}: give one "
            f"whole number (int64) for each of the {shape[0]} images"
        )


def _check_lengths(inputs: Any, labels: Any) -> None:
    """Raise :class:`InputError` unless every tensor has a row for each sample."""
    tensors = [leaf for leaf in tree_leaves((inputs, labels)) if isinstance(leaf, Tensor)]
    lengths = {len(t) if t.dim() else None for t in tensors}
    if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(inputs)):
        raise InputError("the calibration inputs hold no tensor: give tensors [N, …]")
    if len(lengths) != 1 or not lengths - {None, 0}:
        shapes = ", ".join(str(list(t.shape)) for t in tensors)
        raise InputError(
            f"the calibration inputs and labels have the shapes {shapes}: give tensors [N, …], a "
            "row for each sample"
        )


def batch_sizes(count: int, size: int) -> list[int]:
    """Split ``count`` samples into batches of ``size`` and a smaller last one, but none of one.

    Batch norms that use the statistics of the batch cannot run on a single vector. So the last but
    one gives a sample to the last, or, where it has only two, takes the last one's.
    """
    whole, left = divmod(count, size)
    if left == 1 and whole and size > 1:
        return [*[size] * (whole - 1), *([size - 1, 2] if size > 2 else [size + 1])]
    return [size] * whole + [left] * (left > 0)


def samples_of(data: Any, model: nn.Module | None = None) -> Samples | None:
    """Samples of what a user gives: a tensor of images, several inputs, or samples.

    With a ``model``, keyword inputs are put into the order of its ``forward``. Raises
    :class:`InputError` for data of another kind, for NaN or infinite numbers, and where all of
    several samples are the same.
    """
    if data is None:
        return None
    samples = data if isinstance(data, Samples) else Samples(data)
    if isinstance(samples.images, Mapping) and model is not None:
        samples = samples.by_position(model)
    for part in samples.parts if isinstance(samples, SampleBatches) else (samples,):
        for tensor in part.tensors:
            _check_finite(tensor)
    _check_varied(samples)
    return samples


def as_samples(data: Samples | Tensor) -> Samples:
    """Samples; of a tensor of images, samples without labels. Checks less than samples_of."""
    return data if isinstance(data, Samples) else Samples(data)


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise :class:`InputError` unless every label is one of the network's classes."""
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise InputError(
            f"the labels of the calibration images lie outside the network's {classes} classes, "
            f"0 to {classes - 1}"
        )


def _check_finite(images: Tensor) -> None:
    if not images.is_floating_point():
        return
    broken = [n for n, image in enumerate(images) if not bool(image.isfinite().all())]
    if broken:
        raise InputError(
            f"{len(broken)} of the {len(images)} calibration images hold NaN or infinite numbers, "
            f"the first of them number {broken[0]}: mend them, or leave them out"
        )


def _check_varied(samples: Samples) -> None:
    tensors = [tensor for tensor in samples.tensors if len(tensor) > 1]
    same = [all(torch.equal(row, t[0]) for row in t[1:]) for t in tensors]
    if tensors and all(same) and not isinstance(samples, SampleBatches):
        raise InputError(
            f"all {len(samples)} calibration images are the same, and nothing can be learnt from "
            "how they differ: give images of what the network will see"
        )
