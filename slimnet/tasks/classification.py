"""A labelled image set, and the task of telling its classes apart.

Images stay as they were stored (usually uint8) and are scaled, normalised and, for training,
augmented batch by batch. Images that do not fit into memory need only give ``images[indices]``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from slimnet.errors import InputError
from slimnet.samples import Samples
from slimnet.task import Metric, Split, call
from slimnet.tasks.augment import augmented
from slimnet.tasks.batches import Batches


class Images(Protocol):
    """Images by number: a tensor ``[N, C, H, W]``, or an object that reads them when asked."""

    @property
    def shape(self) -> torch.Size:
        """``[N, C, H, W]``."""

    def __getitem__(self, indices: Tensor, /) -> Tensor:
        """The images ``indices`` (int64), uint8 in 0..255 or floating point in 0..1."""


@dataclass(frozen=True)
class Normalize:
    """``(x - mean) / std`` per channel, on images in 0..1; ``name`` is what the user typed."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Scale and normalize ``images [N, C, H, W]``: uint8 is first divided by 255."""
        scaled = images.float() / 255 if images.dtype == torch.uint8 else images
        mean, std = (scaled.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (scaled - mean) / std


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images with their labels (int64, ``0 .. num_classes - 1``).

    Raises ``InputError`` where images and labels do not fit together.
    """

    name: str
    x_train: Images
    y_train: Tensor
    x_test: Images
    y_test: Tensor
    num_classes: int
    normalize: Normalize
    augment: bool = False
    smoothing: float = 0.0  # of the labels, in the loss alone

    def __post_init__(self) -> None:
        for split, images, labels in self._splits():
            _check_split(f"{self.name}: {split}", images, labels, self.num_classes)
        if self.x_train.shape[1] != self.x_test.shape[1]:
            raise InputError(
                f"{self.name}: the training images have {self.x_train.shape[1]} channels and the "
                f"test images {self.x_test.shape[1]}"
            )
        _check_normalize(self.normalize, self.x_train.shape[1])

    def _splits(self) -> Iterator[tuple[str, Images, Tensor]]:
        yield "train", self.x_train, self.y_train
        yield "test", self.x_test, self.y_test

    @property
    def image_shape(self) -> tuple[int, ...]:
        """``(C, H, W)`` of one training image."""
        return tuple(self.x_train.shape[1:])

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The share of test images that are labelled right."""
        return (Metric("accuracy", "%"),)

    def batches(self, split: Split, size: int, generator: torch.Generator | None = None) -> Batches:
        """Images, normalised, with their labels; in training order augmented as well.

        Raises ``InputError`` where all images to train on are of one class.
        """
        if split == "train" and generator is not None:
            check_classes(self)
        images, labels = (
            (self.x_train, self.y_train) if split == "train" else (self.x_test, self.y_test)
        )

        def read(numbers: Tensor, draw: torch.Generator | None) -> Labelled:
            pixels = images[numbers]
            if self.augment and draw is not None:
                pixels = augmented(pixels, draw)
            return self.normalize(pixels), labels[numbers]

        return Batches(read, len(labels), size, generator)

    def inputs(self, batch: Labelled) -> Tensor:
        """The images."""
        return batch[0]

    def loss(self, model: nn.Module, batch: Labelled) -> Tensor:
        """Cross-entropy on the network's class scores."""
        images, labels = batch
        scores = class_scores(call(model, images), self.num_classes)
        return nn.functional.cross_entropy(scores, labels, label_smoothing=self.smoothing)

    def measure(self, model: nn.Module, batches: Iterable[Labelled]) -> dict[str, float]:
        """The share of images that ``model`` labels right, in percent."""
        right = total = 0
        for images, labels in batches:
            scores = class_scores(call(model, images), self.num_classes)
            right += int((scores.argmax(1) == labels).sum())
            total += len(labels)
        return {"accuracy": 100 * right / max(total, 1)}

    def limited(self, *, train: int | None = None, test: int | None = None) -> Dataset:
        """At most so many images of each split, drawn without replacement, always the same."""
        x_train, y_train = _drawn(self.x_train, self.y_train, train)
        x_test, y_test = _drawn(self.x_test, self.y_test, test)
        return replace(self, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)

    def samples(self, count: int, seed: int = 0) -> Samples:
        """At most ``count`` training images with their labels, normalised and not augmented.

        The seed alone decides which, and their order.
        """
        chosen = drawn_numbers(len(self.y_train), count, seed)
        return Samples(self.normalize(self.x_train[chosen]), self.y_train[chosen])

    def facts(self) -> dict[str, Any]:
        """What a report says about the data."""
        return {
            "name": self.name,
            "train": len(self.y_train),
            "test": len(self.y_test),
            "image": list(self.image_shape),
            "classes": self.num_classes,
            "normalize": self.normalize.name,
            "mean": list(self.normalize.mean),
            "std": list(self.normalize.std),
            "augmented": self.augment,
        }

    def fingerprint(self) -> str:
        """A digest of every image, label and setting: equal sets have equal ones."""
        told = (self.facts(), self.smoothing) if self.smoothing else self.facts()
        digest = hashlib.blake2b(repr(told).encode(), digest_size=8)
        for _, images, labels in self._splits():
            digest.update(_content(images))
            digest.update(_content(labels))
        return digest.hexdigest()


Labelled: TypeAlias = tuple[Tensor, Tensor]
"""Images [N, C, H, W], ready for the network, and their labels int64 [N]."""


def class_scores(outputs: Any, classes: int) -> Tensor:
    """The network's class scores; what auxiliary heads add after them is left out."""
    scores = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        raise InputError("training needs a network that gives one score per class, [N, classes]")
    if scores.shape[1] < classes:
        raise InputError(
            f"the data has {classes} classes and the network {scores.shape[1]} outputs; "
            f"give a network with at least {classes}"
        )
    return scores


def check_fits(dataset: Dataset, input_shape: tuple[int, ...]) -> None:
    """Raise ``InputError`` unless a network with this input ``(C, H, W)`` can train on the data.

    Height and width may differ: many networks take any, and the first batch shows it.
    """
    if dataset.image_shape[0] != input_shape[0]:
        raise InputError(
            f"{dataset.name}: the images have {dataset.image_shape[0]} channels and the network "
            f"takes {input_shape[0]}; give data or a network of the same number of channels"
        )
    check_classes(dataset)


def check_held(where: str, array: Tensor) -> None:
    """Raise ``InputError`` for a tensor without values of its own: on meta, sparse, quantised."""
    if array.is_meta or array.layout != torch.strided or array.is_quantized:
        kind = "on meta" if array.is_meta else f"{array.layout}, {array.dtype}"
        raise InputError(f"{where} is a tensor {kind}: give one that holds its values, dense")


def check_classes(dataset: Dataset) -> None:
    """Raise ``InputError`` where all training images are of one class."""
    if bool((dataset.y_train == dataset.y_train[0]).all()):
        raise InputError(
            f"{dataset.name}: all {len(dataset.y_train)} training images are of class "
            f"{int(dataset.y_train[0])}: give images of two classes at least, or more of them"
        )


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Some of the images of a set that is read when asked."""

    images: Images
    chosen: Tensor

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.chosen), *self.images.shape[1:]))

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self.images[self.chosen[indices]]

    def content(self) -> bytes:
        return _content(self.images) + _content(self.chosen)


def drawn_numbers(total: int, count: int, seed: int) -> Tensor:
    """At most ``count`` of the numbers below ``total``; the seed alone decides which, in order."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]


def _drawn(images: Images, labels: Tensor, limit: int | None) -> tuple[Images, Tensor]:
    if limit is None or limit >= len(labels):
        return images, labels
    if limit < 1:
        raise InputError(f"{limit} images were asked for: ask for at least 1")
    chosen = drawn_numbers(len(labels), limit, 0).sort().values
    drawn = images[chosen] if isinstance(images, Tensor) else _Drawn(images, chosen)
    return drawn, labels[chosen]


def _content(values: Any) -> bytes:
    """The bytes that tell two sets apart; images on disk say themselves what theirs are."""
    if isinstance(values, Tensor):
        return bytes(values.contiguous().numpy().data)
    return bytes(values.content())


MOST_CLASSES = 1_000_000  # ImageNet-21k has 21 843; a table of as many scores must fit into memory


def _check_split(where: str, images: Images, labels: Tensor, classes: int) -> None:
    if len(images.shape) != 4 or 0 in images.shape:
        raise InputError(f"{where} images have shape {list(images.shape)}, not [N, C, H, W]")
    if isinstance(images, Tensor):
        check_held(f"{where} images", images)
        _check_pixels(where, images)
    if not isinstance(labels, Tensor):
        raise InputError(f"{where} labels are a {type(labels).__name__}: give a tensor of int64")
    check_held(f"{where} labels", labels)
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise InputError(
            f"{where} labels are {labels.dtype} of shape {list(labels.shape)}: "
            "give one whole number for each image"
        )
    if len(labels) != images.shape[0]:
        raise InputError(f"{where} has {images.shape[0]} images but {len(labels)} labels")
    low, high = int(labels.min()), int(labels.max())
    if high >= MOST_CLASSES:
        raise InputError(
            f"{where} has the label {high}, and labels count classes from 0, at most {MOST_CLASSES}"
        )
    if low < 0:
        raise InputError(
            f"{where} labels run from {low} to {high}: classes count from 0, so leave images out "
            f"that have none"
        )
    if high >= classes:
        raise InputError(
            f"{where} labels run from {low} to {high}, outside the {classes} classes "
            f"0 to {classes - 1} that there are to train on"
        )


def _check_pixels(where: str, images: Tensor) -> None:
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InputError(f"{where} images are {images.dtype}: give uint8, or real numbers in 0..1")
    if images.is_floating_point() and not all(bool(x.isfinite().all()) for x in images.split(64)):
        raise InputError(
            f"{where} images hold NaN or infinite numbers: mend them, or leave them out"
        )


def _check_normalize(normalize: Normalize, channels: int) -> None:
    for values in (normalize.mean, normalize.std):
        if len(values) not in (1, channels):
            raise InputError(
                f"the normalisation {normalize.name!r} is for {len(values)} channels and the "
                f"images have {channels}; give {channels} means and standard deviations, or 'none'"
            )


def describe(facts: Mapping[str, Any]) -> str:
    """One sentence about the data, from ``Dataset.facts()``."""
    channels, height, width = facts["image"]
    crop = "random crops and flips" if facts["augmented"] else "no augmentation"
    return (
        f"{facts['name']}: {facts['train']} training and {facts['test']} test images of "
        f"{channels}x{height}x{width}, {facts['classes']} classes, {crop}, "
        f"normalisation {facts['normalize']}"
    )
