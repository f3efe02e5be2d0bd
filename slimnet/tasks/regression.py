"""``task:regression:FILE.npz``: numbers to be told from inputs of any shape."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimnet.errors import InputError
from slimnet.networks.payload import check_file
from slimnet.task import (
    Measured,
    Metric,
    Split,
    call,
    compute_metrics,
    first_tensor,
    relative_error,
)
from slimnet.tasks.batches import Batches, counted
from slimnet.tasks.kind import TASKS, Kind
from slimnet.tasks.sources import KEYS, channels_first, read_arrays

_Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Regression:
    """Inputs [N, …] and what is to be told of them, [N] or [N, K], both floating point."""

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            x, y = self._split(split)
            if not len(x) or len(x) != len(y):
                raise InputError(
                    f"{self.name}: {len(x)} inputs and {len(y)} targets to {split} on: give as "
                    "many of both, at least one"
                )
            if not bool(x.isfinite().all()) or not bool(y.isfinite().all()):
                raise InputError(f"{self.name}: NaN or infinite numbers in x_{split} or y_{split}")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean squared and mean absolute error."""
        return Metric("mse", best="lowest"), Metric("mae", best="lowest")

    def batches(self, split: Split, size: int, generator: torch.Generator | None = None) -> Batches:
        """Inputs and targets.

        Raises ``InputError`` where all targets to train on are alike.
        """
        x, y = self._split(split)
        if generator is not None and split == "train" and bool((y == y[:1]).all()):
            raise InputError(
                f"{self.name}: all {len(y)} targets to train on are {y[0].tolist()}: give some "
                "that differ, or more of them"
            )
        return Batches(lambda numbers, _: (x[numbers], y[numbers]), len(x), size, generator)

    def inputs(self, batch: _Pair) -> Tensor:
        """The inputs."""
        return batch[0]

    def loss(self, model: nn.Module, batch: _Pair) -> Tensor:
        """The mean squared error."""
        told, target = _alike(call(model, batch[0]), batch[1])
        return nn.functional.mse_loss(told, target)

    def measure(self, model: nn.Module, batches: Iterable[_Pair]) -> dict[str, float]:
        """Both errors."""
        from torchmetrics import MeanAbsoluteError, MeanSquaredError

        rows = {
            "mse": Measured(MeanSquaredError, _update),
            "mae": Measured(MeanAbsoluteError, _update),
        }
        return compute_metrics(rows, model, self.inputs, batches)

    def teacher_loss(self, outputs: Any, targets: Any) -> Tensor:
        """Mean squared difference of the numbers, in parts of the variance of the teacher's."""
        ours, theirs = (first_tensor(each).float() for each in (outputs, targets))
        return relative_error(ours, theirs)

    def facts(self) -> dict[str, Any]:
        """Its name, and how many samples there are."""
        return counted(self)

    def fingerprint(self) -> str:
        """A digest of all numbers."""
        digest = hashlib.blake2b(digest_size=8)
        for tensor in (self.x_train, self.y_train, self.x_test, self.y_test):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _split(self, split: str) -> _Pair:
        return (self.x_train, self.y_train) if split == "train" else (self.x_test, self.y_test)


def _update(metric: nn.Module, outputs: object, batch: _Pair) -> None:
    metric.update(*_alike(outputs, batch[1]))  # type: ignore[operator]


def _alike(outputs: object, target: Tensor) -> _Pair:
    """What the network tells and the targets, of one shape: [N] and [N, 1] are the same."""
    told = first_tensor(outputs)
    if told.numel() != target.numel():
        raise InputError(
            f"the network gives {list(told.shape)} and the targets are {list(target.shape)}: a "
            "regression needs as many numbers of both"
        )
    return told.float().flatten(), target.float().flatten()


def read(file: str, size: int) -> Regression:
    """A NumPy archive; uint8 images [N, H, W, C] become floating point [N, C, H, W] in 0..1."""
    check_file(Path(file))
    arrays = read_arrays(file, KEYS)
    inputs = [_inputs(file, key, arrays[key]) for key in ("x_train", "x_test")]
    targets = [_targets(file, key, arrays[key]) for key in ("y_train", "y_test")]
    return Regression(file, inputs[0], targets[0], inputs[1], targets[1])


def _inputs(file: str, key: str, array: np.ndarray) -> Tensor:
    if array.dtype == np.uint8 and array.ndim == 4:
        return channels_first(array).float() / 255
    if array.dtype.kind != "f" or array.ndim < 2:
        raise InputError(
            f"{file}: {key} is {array.dtype} of shape {list(array.shape)}: give floating point "
            "[N, …], or uint8 images [N, H, W, C]"
        )
    return torch.from_numpy(array.astype(np.float32))


def _targets(file: str, key: str, array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2):
        raise InputError(
            f"{file}: {key} is {array.dtype} of shape {list(array.shape)}: give numbers [N] or "
            "[N, K]"
        )
    return torch.from_numpy(array.astype(np.float32))


TASKS.add("regression", Kind("task:regression:FILE.npz", "numbers, by their squared error", read))
