"""Where the cells of a study find their task, in whatever process they run.

Data that a user named is loaded again by that name; a data set made in memory is written into the
study's folder once, ``DIR/data-<fingerprint>.pt``. Either way its fingerprint must be the one that
the study began with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimnet.digest import sealed, unsealed
from slimnet.errors import InputError
from slimnet.networks.payload import load_payload
from slimnet.output import set_aside, write_torch
from slimnet.progress import remark
from slimnet.study.recent import Recent
from slimnet.task import Task, fingerprint_of
from slimnet.tasks.classification import Dataset, Normalize
from slimnet.tasks.data import DataSpec


@dataclass(frozen=True)
class StudyData:
    """A task by its fingerprint, and the name that loads it where it has one."""

    fingerprint: str
    spec: DataSpec | None = None
    held: Task | None = field(default=None, compare=False, repr=False)  # by this process alone
    recent: Recent[Task] = field(default_factory=partial(Recent, 1), compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: not the data."""
        return {**vars(self), "held": None}

    def load(self, folder: Path) -> Task:
        """The task, read once; raises ``InputError`` where it is not that of the study."""
        if self.held is not None:
            return self.held
        return self.recent.get(folder, lambda: _loaded(self, folder))


def keep_data(task: Task, spec: DataSpec | None, folder: Path) -> StudyData:
    """Make sure that other processes find ``task``, which ``spec`` names if it is given.

    What nobody named is for this process alone, but for labelled images that lie in memory.
    """
    data = StudyData(fingerprint_of(task), spec, task)
    path = _path(folder, data)
    if spec is None and isinstance(task, Dataset) and _is_in_memory(task) and not _is_kept(path):
        write_torch(path, sealed(_payload(task)))
    return data


def _is_in_memory(dataset: Dataset) -> bool:
    return isinstance(dataset.x_train, Tensor) and isinstance(dataset.x_test, Tensor)


def _is_kept(path: Path) -> bool:
    """Whether the file is there and whole; one that is damaged is set aside."""
    if not path.exists():
        return False
    try:
        _dataset(path)
    except InputError:
        aside = set_aside(path, "damaged")
        remark(f"{path} is damaged: it is kept as {aside.name}, and the data are written again")
        return False
    return True


def _loaded(data: StudyData, folder: Path) -> Task:
    if data.spec is not None:
        task, where = data.spec.load(), data.spec.name
    elif (path := _path(folder, data)).exists():
        task, where = _dataset(path), str(path)
    else:
        raise InputError(
            f"{folder} does not hold the data of this study, which do not lie in memory: name "
            "them, as in imagefolder:ROOT or file.py:make_task, or run the study in one process"
        )
    if fingerprint_of(task) != data.fingerprint:
        raise InputError(
            f"{where}: these are not the data that the study began with (the fingerprint differs)"
        )
    return task


def _path(folder: Path, data: StudyData) -> Path:
    return folder / f"data-{data.fingerprint}.pt"


_TENSORS = ("x_train", "y_train", "x_test", "y_test")


def _payload(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        **{name: _whole(getattr(dataset, name)) for name in _TENSORS},
        "num_classes": dataset.num_classes,
        "normalize": [
            dataset.normalize.name,
            list(dataset.normalize.mean),
            list(dataset.normalize.std),
        ],
        "augment": dataset.augment,
    }


def _whole(tensor: Tensor) -> Tensor:
    """A view of something larger would save all of it."""
    return tensor.clone(memory_format=torch.contiguous_format)


def _dataset(path: Path) -> Dataset:
    try:
        return _made_of(unsealed(load_payload(path)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} holds no images of a study: {error}") from error


def _made_of(fields: Mapping[str, Any]) -> Dataset:
    name, mean, std = fields["normalize"]
    return Dataset(
        name=fields["name"],
        **{part: fields[part] for part in _TENSORS},
        num_classes=fields["num_classes"],
        normalize=Normalize(name, tuple(mean), tuple(std)),
        augment=fields["augment"],
    )
