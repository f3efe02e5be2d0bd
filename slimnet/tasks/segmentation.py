"""``task:segmentation:ROOT``: a class for every pixel, from folders of images and masks.

ROOT holds ``train/`` and ``val/`` (or ``test/``), each with ``images/`` and ``masks/``: pictures of
the same names. A mask's pixels are class numbers from 0; 255 is not counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.errors import InputError
from slimnet.task import Measured, Metric, Split, call, compute_metrics, device_of, first_tensor
from slimnet.tasks.batches import Batches, counted
from slimnet.tasks.classification import Normalize
from slimnet.tasks.data import NORMALIZE
from slimnet.tasks.kind import TASKS, Kind
from slimnet.tasks.pictures import chosen, mirrored, pictures_in, read_pictures
from slimnet.tasks.sources import test_folder

IGNORED = 255
_Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Pairs:
    """The pictures of one split, and their masks."""

    images: tuple[Path, ...]
    masks: tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Images [N, 3, S, S], normalised as for ImageNet, and masks int64 [N, S, S]."""

    name: str
    train: Pairs
    test: Pairs
    size: int
    normalize: Normalize = NORMALIZE["imagenet"]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The mean over classes of intersection over union, and the share of right pixels."""
        return Metric("mIoU", "%"), Metric("pixel accuracy", "%")

    def batches(self, split: Split, size: int, generator: torch.Generator | None = None) -> Batches:
        """Images and masks; in training order every other pair is mirrored."""
        pairs = self.train if split == "train" else self.test
        return Batches(
            lambda n, draw: self._read(pairs, n, draw), len(pairs.images), size, generator
        )

    def inputs(self, batch: _Pair) -> Tensor:
        """The images."""
        return batch[0]

    def loss(self, model: nn.Module, batch: _Pair) -> Tensor:
        """Cross-entropy over all pixels that count; 0 where none of the batch does."""
        scores = _scores(call(model, batch[0]), batch[1])
        total = nn.functional.cross_entropy(scores, batch[1], ignore_index=IGNORED, reduction="sum")
        return total / (batch[1] != IGNORED).sum().clamp(min=1)

    def measure(self, model: nn.Module, batches: Iterable[_Pair]) -> dict[str, float]:
        """Both, over the classes that the network has."""
        from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

        classes = self._classes(model)
        counted: dict[str, Any] = {"num_classes": classes, "ignore_index": IGNORED}
        rows = {
            "mIoU": Measured(lambda: MulticlassJaccardIndex(**counted), _update, scale=100),
            "pixel accuracy": Measured(
                lambda: MulticlassAccuracy(**counted, average="micro"), _update, scale=100
            ),
        }
        return compute_metrics(rows, model, self.inputs, batches)

    def facts(self) -> dict[str, Any]:
        """Its name, and how many samples there are."""
        return counted(self)

    def fingerprint(self) -> str:
        """A digest of the files' names and sizes."""
        paths = (*self.train.images, *self.train.masks, *self.test.images, *self.test.masks)
        known = [(path.name, path.stat().st_size) for path in paths]
        return hashlib.blake2b(repr((known, self.size)).encode(), digest_size=8).hexdigest()

    def _read(self, pairs: Pairs, numbers: Tensor, generator: torch.Generator | None) -> _Pair:
        images = torch.stack(read_pictures(chosen(pairs.images, numbers), self.size))
        masks = torch.stack(read_pictures(chosen(pairs.masks, numbers), self.size, numbers=True))
        for place, flipped in enumerate(mirrored(generator, len(numbers))):
            if flipped:
                images[place], masks[place] = images[place].flip(-1), masks[place].flip(-1)
        return self.normalize(images), masks

    def _classes(self, model: nn.Module) -> int:
        images, masks = self._read(self.test, torch.tensor([0]), None)
        place = device_of(model)
        return int(_scores(call(model, images.to(place)), masks).shape[1])


def _update(metric: nn.Module, outputs: object, batch: _Pair) -> None:
    metric.update(_scores(outputs, batch[1]), batch[1])  # type: ignore[operator]


def _scores(outputs: object, masks: Tensor) -> Tensor:
    """[N, classes, H, W] of the masks' size; torchvision's networks give them as ``out``."""
    scores = first_tensor(outputs)
    if scores.dim() != 4:
        raise InputError(
            f"the network gives {list(scores.shape)}: a segmentation needs scores "
            "[N, classes, H, W]"
        )
    size = tuple(masks.shape[-2:])
    if tuple(scores.shape[-2:]) != size:
        scores = nn.functional.interpolate(scores, size=size, mode="bilinear")
    highest = int(masks[masks != IGNORED].max()) if bool((masks != IGNORED).any()) else 0
    if highest >= scores.shape[1]:
        raise InputError(
            f"a mask holds class {highest}, and the network has {scores.shape[1]}: number the "
            f"classes from 0, with {IGNORED} for pixels that do not count"
        )
    return scores


def read(root: str, size: int) -> Segmentation:
    """The folders of both splits."""
    test = test_folder(root, "images/ and masks/")
    return Segmentation(root, _pairs(Path(root) / "train"), _pairs(test), size)


def _pairs(folder: Path) -> Pairs:
    images, masks = (pictures_in(folder / part) for part in ("images", "masks"))
    alone = sorted(images.keys() ^ masks.keys())
    if alone:
        raise InputError(
            f"{folder}: {alone[0]} has no partner of its name in images/ or masks/ "
            f"({len(alone)} in all)"
        )
    return Pairs(tuple(images.values()), tuple(masks[name] for name in images))


TASKS.add(
    "segmentation",
    Kind("task:segmentation:ROOT", "a class for every pixel, by intersection over union", read),
)
