"""``task:detection:ROOT``: boxes and their classes, as torchvision's detectors take them.

ROOT holds ``train/`` and ``val/`` (or ``test/``), each with ``images/`` and ``annotations.json`` in
the form of COCO: ``images`` (id, file_name), ``annotations`` (image_id, bbox [x, y, width, height],
category_id, counted from 1: 0 is the background).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.errors import InputError
from slimnet.task import Metric, Split, call
from slimnet.tasks.batches import Batches, counted
from slimnet.tasks.kind import TASKS, Kind
from slimnet.tasks.pictures import chosen, mirrored, read_pictures
from slimnet.tasks.sources import test_folder

_Target = dict[str, Tensor]  # boxes [K, 4] as x0, y0, x1, y1 in pixels; labels int64 [K]
_Batch = tuple[list[Tensor], list[_Target]]


@dataclass(frozen=True)
class Scenes:
    """The pictures of one split, and what is to be found in each."""

    images: tuple[Path, ...]
    targets: tuple[_Target, ...]


@dataclass(frozen=True, eq=False)
class Detection:
    """Images [3, H, W] in 0..1, each of its own size; the network normalises them itself."""

    name: str
    train: Scenes
    test: Scenes

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean average precision, over overlaps of 50 to 95 % and at 50 %."""
        return Metric("mAP", "%"), Metric("mAP50", "%")

    def batches(self, split: Split, size: int, generator: torch.Generator | None = None) -> Batches:
        """Lists of images and of targets; in training order every other pair is mirrored."""
        scenes = self.train if split == "train" else self.test
        read = lambda numbers, draw: _read(scenes, numbers, draw)  # noqa: E731
        return Batches(read, len(scenes.images), size, generator)

    def inputs(self, batch: _Batch) -> list[Tensor]:
        """The images."""
        return batch[0]

    def loss(self, model: nn.Module, batch: _Batch) -> Tensor:
        """The sum of what the detector itself gives, in training mode."""
        losses = call(model, batch) if model.training else None
        if not isinstance(losses, dict) or not losses:
            raise InputError(
                "the loss of a detector is what it returns in training mode, called with images "
                "and targets, as torchvision's do: a dict of losses"
            )
        return torch.stack(list(losses.values())).sum()

    def measure(self, model: nn.Module, batches: Iterable[_Batch]) -> dict[str, float]:
        """Both, by torchmetrics."""
        precision = _mean_average_precision()
        for images, targets in batches:
            found = call(model, images)
            precision.update(
                [{k: v.cpu() for k, v in one.items()} for one in found],
                [{k: v.cpu() for k, v in one.items()} for one in targets],
            )
        values = precision.compute()
        return {"mAP": 100 * float(values["map"]), "mAP50": 100 * float(values["map_50"])}

    def facts(self) -> dict[str, Any]:
        """Its name, and how many samples there are."""
        return counted(self)

    def fingerprint(self) -> str:
        """A digest of the files\' names and what is in them."""
        digest = hashlib.blake2b(digest_size=8)
        for scenes in (self.train, self.test):
            for path, target in zip(scenes.images, scenes.targets, strict=True):
                digest.update(f"{path.name} {target['boxes'].tolist()}".encode())
        return digest.hexdigest()


def _mean_average_precision() -> Any:
    try:
        from torchmetrics.detection import MeanAveragePrecision

        return MeanAveragePrecision()
    except (ImportError, ModuleNotFoundError):
        raise InputError(
            "mean average precision needs pycocotools: pip install 'slimnet[detection]'"
        ) from None


def _read(scenes: Scenes, numbers: Tensor, generator: torch.Generator | None) -> _Batch:
    images = read_pictures(chosen(scenes.images, numbers))
    targets = [scenes.targets[n] for n in numbers.tolist()]
    for place, flipped in enumerate(mirrored(generator, len(numbers))):
        if flipped:
            images[place], targets[place] = _flipped(images[place], targets[place])
    return images, targets


def _flipped(image: Tensor, target: _Target) -> tuple[Tensor, _Target]:
    boxes, width = target["boxes"], image.shape[-1]
    turned = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    return image.flip(-1), {**target, "boxes": turned}


def read(root: str, size: int) -> Detection:
    """The folders of both splits."""
    test = test_folder(root, "images/ and annotations.json")
    return Detection(root, _scenes(Path(root) / "train"), _scenes(test))


def _scenes(folder: Path) -> Scenes:
    file = folder / "annotations.json"
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        names = {row["id"]: str(row["file_name"]) for row in listed["images"]}
        rows: dict[Any, list[tuple[list[float], int]]] = defaultdict(list)
        for row in listed["annotations"]:
            rows[row["image_id"]].append((_corners(row["bbox"]), int(row["category_id"])))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not annotations in the form of COCO ({error!r})") from None
    if not names:
        raise InputError(f"{file}: lists no image")
    images = tuple(folder / "images" / name for name in names.values())
    outside = [path for path in images if not path.resolve().is_relative_to(folder.resolve())]
    if outside:
        raise InputError(f"{file}: names {outside[0]}, which lies outside {folder}")
    unknown = [number for number in rows if number not in names]
    if unknown or not rows:
        what = f"boxes of image {unknown[0]!r}, which it does not list" if unknown else "no box"
        raise InputError(f"{file}: holds {what}: list images and boxes that belong together")
    targets = [_target(file, rows[number]) for number in names]
    return Scenes(images, tuple(targets))


def _corners(box: Any) -> list[float]:
    x, y, width, height = map(float, box)
    if not (width > 0 and height > 0):
        raise ValueError(f"a box of {width:g} x {height:g} pixels")
    return [x, y, x + width, y + height]


def _target(file: Path, rows: list[tuple[list[float], int]]) -> _Target:
    labels = torch.tensor([label for _, label in rows], dtype=torch.int64)
    if len(rows) and int(labels.min()) < 1:
        raise InputError(f"{file}: category {int(labels.min())}: classes count from 1")
    return {"boxes": torch.tensor([box for box, _ in rows]).reshape(-1, 4), "labels": labels}


TASKS.add(
    "detection",
    Kind("task:detection:ROOT", "boxes and classes, by mean average precision", read),
)
