"""What a command is given to choose with: training images, and the network before training.

Images also tell whether a network that was recognised by its weights alone is that network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimnet.capture.modules import evaluation_mode
from slimnet.criteria import load_criteria
from slimnet.errors import InputError
from slimnet.example import tensors_of
from slimnet.files.access import Opened, open_network
from slimnet.network import Network
from slimnet.networks.checkpoint import UNSEEN
from slimnet.samples import Samples
from slimnet.task import Task, outputs_read, samples_from
from slimnet.tasks.classification import Dataset
from slimnet.tasks.data import load_task


@dataclass(frozen=True)
class Calibration:
    """What ``--data``, ``--normalize`` and ``--samples`` name, for networks of such inputs."""

    data: str
    normalize: str | None
    count: int
    example: tuple[Any, ...]

    def samples(self, seed: int, model: nn.Module) -> Samples:
        """Training samples, images as large as the example; the seed decides which."""
        return samples_from(self.task, self.count, seed, model)

    def test_samples(self, model: nn.Module) -> Samples:
        """At most so many test samples with their labels, always the same ones."""
        task = self.task
        if isinstance(task, Dataset):
            batches = list(task.limited(test=self.count).batches("test", 256))
            return Samples(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))
        return samples_from(task, self.count, 0, model, "test")

    @cached_property
    def task(self) -> Task:
        """Read once."""
        return task_called(self.data, self.normalize, self.example)


def task_called(data: str, normalize: str | None, example: tuple[Any, ...]) -> Task:
    """The task that ``--data`` names, its images as large as the example."""
    return load_task(data, normalize, size=size_of(example))


def size_of(example: tuple[Any, ...]) -> int:
    """Height and width of the images of an example."""
    return next((int(x.shape[-1]) for x in tensors_of(example) if x.dim() == 4), 224)


def calibration_of(
    data: str | None, normalize: str | None, count: int, example: tuple[Any, ...]
) -> Calibration | None:
    """None where no data are named."""
    return None if data is None else Calibration(data, normalize, count, example)


def outputs_asked(told: Sequence[str], drawn: Calibration | None) -> Sequence[str]:
    """The outputs that somebody reads: those that the user names, else those of the task."""
    return told or (() if drawn is None else outputs_read(drawn.task))


def read_images(criteria: Iterable[str]) -> bool:
    """Whether one of the criteria reads images."""
    registry = load_criteria()
    return any(need != "initial" for name in criteria for need in registry[name].needs)


def network_before(
    path: Path | None, opened: Opened, *, allow_pickle: bool = False
) -> Network | None:
    """The network before training, from a file of the same architecture."""
    if path is None:
        return None
    return Network.of(open_network(path, opened.arch, allow_pickle=allow_pickle).model)


def check_recognised(path: Path, opened: Opened, samples: Samples | None) -> str | None:
    """Say how often a network that nobody named is right on the given images.

    None where its architecture was named, and where there are no labels. Raises
    :class:`InputError` where it is hardly better than one answer for all images: then it is likely
    to have other strides or activations than the one that its names and shapes are of.
    """
    if not opened.recognised or samples is None or samples.labels is None or samples.loss:
        return None
    some = samples.first(_CHECKED)
    right = _share_right(opened.model, some)
    if right is None or some.labels is None:
        return None
    constant = float(some.labels.bincount().max()) / len(some)
    sentence = f"as {opened.arch} is built, it is right on {right:.1%} of {len(some)} images"
    if len(some) < _ENOUGH or right - constant > _BETTER * (1 - constant):
        return sentence
    raise InputError(
        f"{path} was recognised as {opened.arch}, and {sentence}, where one answer for all of them "
        f"is right on {constant:.1%}: {UNSEEN}, so say what built it with --arch, or see whether "
        "--data and --normalize are those that it was trained with"
    )


_CHECKED = 512  # images; the standard error of a share is at most 2.2 %
_ENOUGH = 200  # images; at 10 % right, its standard error is 2.1 %
_BETTER = 0.1
"""Of the way from one answer to always right. A ResNet-18 for CIFAR-10, right on 88.4 %, came to
16.6 % when it was built with torchvision's strides: 7 % of the way from 10 %."""


def _share_right(model: nn.Module, samples: Samples) -> float | None:
    """[0, 1]; None for a network that gives no score for each class [N, classes]."""
    right = 0
    network = Network.of(model)
    with torch.no_grad(), evaluation_mode(network):
        for batch in samples.to(network.device).batches(64):
            try:
                scores = model(*batch.inputs)
            except Exception:  # whatever the network raises: what comes next says it better
                return None
            if not isinstance(scores, torch.Tensor) or scores.dim() != 2 or batch.labels is None:
                return None
            right += int((scores.argmax(1) == batch.labels).sum())
    return right / len(samples)
