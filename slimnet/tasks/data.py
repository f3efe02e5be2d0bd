"""``load_data("cifar10:ROOT")`` and its like: from what a user types to a ``Dataset``.

One row of ``DATA`` per kind of source: how it is written, how it is read, and the normalisation
that fits it when the user names none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from slimnet.errors import InputError
from slimnet.progress import remark
from slimnet.registry import Registry
from slimnet.task import Task
from slimnet.tasks import sources
from slimnet.tasks.classification import Dataset, Images, Normalize
from slimnet.tasks.kind import read_task
from slimnet.tasks.unlabelled import Unlabelled

Augment = Literal["auto", "none", "standard"]


@dataclass(frozen=True)
class Source:
    """One kind of data: ``read(rest, size)`` reads what stands behind the colon."""

    usage: str
    read: Callable[[str, int], Dataset | sources.Splits | Tensor | Task]
    normalize: str | None = None  # a name of NORMALIZE; None: measured on the training images


DATA: Registry[Source] = Registry("data source", "slimnet.data")
DATA.add("digits", Source("digits", sources.read_digits))
DATA.add("npz", Source("npz:FILE", sources.read_npz))
DATA.add("cifar10", Source("cifar10:ROOT", sources.read_cifar10, "cifar10"))
DATA.add("imagefolder", Source("imagefolder:ROOT", sources.read_imagefolder, "imagenet"))
DATA.add("task", Source("task:KIND:…", read_task))
DATA.add("file", Source("file.py:make_task", sources.read_user_data))

NORMALIZE: Registry[Normalize] = Registry("normalisation")
for _row in (
    Normalize("none", (0.0,), (1.0,)),
    Normalize("cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    Normalize("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
):
    NORMALIZE.add(_row.name, _row)


def load_data(
    spec: str, normalize: str | None = None, *, augment: Augment = "auto", size: int = 224
) -> Dataset:
    """Read the data that ``spec`` names.

    ``normalize`` is ``imagenet``, ``cifar10``, ``none`` or ``m1,m2,m3/s1,s2,s3`` (for images in
    0..1); None takes the source's own, or the mean and deviation of the training images.
    ``augment="auto"`` shifts and mirrors colour images of at least 32 pixels, and nothing else
    (a mirrored digit is no digit). ``size`` is the height and width of an image folder's images.
    Raises ``InputError`` for anything that cannot be used, and for a task that is none of labelled
    images.
    """
    task = load_task(spec, normalize, augment=augment, size=size)
    if isinstance(task, Unlabelled):
        raise InputError(
            f"{spec} holds images without labels, and what is asked for needs them: give y_train, "
            "x_test and y_test as well"
        )
    if not isinstance(task, Dataset):
        raise InputError(f"{spec} is a task of its own: what is asked for needs labelled images")
    return task


def load_task(
    spec: str, normalize: str | None = None, *, augment: Augment = "auto", size: int = 224
) -> Task:
    """The task that ``spec`` names: labelled images, or one of the user's own.

    The other arguments, and what is raised, are those of :func:`load_data`; of a task of the user's
    own nothing is normalised or augmented here.
    """
    source, rest = _source(spec)
    read = source.read(rest, size)
    if isinstance(read, Tensor):
        own = normalize or source.normalize
        return Unlabelled(spec, read, parse_normalize(own) if own else _measured(read))
    if isinstance(read, sources.Splits):
        dataset = _dataset(read, spec, normalize or source.normalize)
        _say_absent(dataset)
    elif isinstance(read, Dataset):
        dataset = read if normalize is None else replace(read, normalize=parse_normalize(normalize))
    elif normalize is not None:
        raise InputError(f"{spec} is a task of its own, which normalises itself: leave that out")
    else:
        return read
    return replace(dataset, augment=_augment(augment, dataset))


@dataclass(frozen=True)
class DataSpec:
    """Data as a user names it: what any process needs to load the same again."""

    name: str  # what ``load_task`` takes
    normalize: str | None = None
    train: int | None = None  # at most so many labelled images; None: all
    test: int | None = None
    size: int = 224  # height and width of pictures that are read from files

    def load(self) -> Task:
        """Read it; raises ``InputError`` for anything that cannot be used."""
        task = load_task(self.name, self.normalize, size=self.size)
        if isinstance(task, Dataset):
            return task.limited(train=self.train, test=self.test)
        if self.train or self.test:
            raise InputError(
                f"{self.name} is a task of its own: --train-images and --test-images are for "
                "labelled images, so leave them out"
            )
        return task


def parse_normalize(text: str) -> Normalize:
    """The normalisation named ``text``, or written out as ``means/deviations``."""
    if "/" not in text:
        return NORMALIZE[text]
    try:
        mean, std = (tuple(map(float, side.split(","))) for side in text.split("/"))
    except ValueError:
        raise InputError(
            f"cannot read the normalisation {text!r}: write means/deviations, "
            "e.g. 0.49,0.48,0.45/0.2,0.2,0.2"
        ) from None
    if len(mean) != len(std) or min(std) <= 0:
        raise InputError(
            f"the normalisation {text!r} needs as many deviations as means, all greater than 0"
        )
    return Normalize(text, mean, std)


def _source(spec: str) -> tuple[Source, str]:
    if re.fullmatch(r".+\.py:\w+", spec):
        return DATA["file"], spec
    kind, _, rest = spec.partition(":")
    if kind not in DATA or kind == "file":
        usages = ", ".join(DATA[name].usage for name in DATA)
        raise InputError(f"unknown data {spec!r}: the known kinds are {usages}")
    source = DATA[kind]
    if (":" in source.usage) != bool(rest):
        raise InputError(f"cannot read the data {spec!r}: write {source.usage}")
    return source, rest


def _dataset(splits: sources.Splits, spec: str, normalize: str | None) -> Dataset:
    images = splits.x_train
    return Dataset(
        name=spec,
        x_train=images,
        y_train=splits.y_train,
        x_test=splits.x_test,
        y_test=splits.y_test,
        num_classes=splits.num_classes,
        normalize=_measured(images) if normalize is None else parse_normalize(normalize),
    )


def _say_absent(dataset: Dataset) -> None:
    """Say which classes no image to train on has."""
    counts = dataset.y_train.bincount(minlength=dataset.num_classes)
    absent = (counts == 0).nonzero().flatten().tolist()
    if absent:
        few = ", ".join(map(str, absent[:5])) + ", …" * (len(absent) > 5)
        remark(f"{dataset.name}: no training image is of class {few}: nothing is learnt of it")


def _measured(images: Images) -> Normalize:
    """The mean and deviation of each channel over the first (at most) 10 000 images."""
    some = NORMALIZE["none"](images[torch.arange(min(10_000, images.shape[0]))]).double()
    mean, std = some.mean((0, 2, 3)), some.std((0, 2, 3)).clamp(min=1e-3)
    rounded = [tuple(round(value, 4) for value in values.tolist()) for values in (mean, std)]
    return Normalize("measured on the training images", *rounded)


def _augment(asked: Augment, dataset: Dataset) -> bool:
    if asked not in ("auto", "none", "standard"):
        raise InputError(f"unknown augmentation {asked!r}: the known ones are auto, none, standard")
    channels, height, width = dataset.image_shape
    photo = channels == 3 and min(height, width) >= 32
    return asked == "standard" or (asked == "auto" and (photo or dataset.augment))
