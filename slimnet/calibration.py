"""What a command is given to choose with: training images, and the network before training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn

from slimnet.criteria import load_criteria
from slimnet.example import tensors_of
from slimnet.files import Opened, open_network
from slimnet.samples import Samples

if TYPE_CHECKING:
    from slimnet.train import Dataset


@overload
def read_samples(
    data: str, normalize: str | None, count: int, example: tuple[Any, ...], seed: int
) -> Samples: ...
@overload
def read_samples(
    data: str | None, normalize: str | None, count: int, example: tuple[Any, ...], seed: int
) -> Samples | None: ...
def read_samples(
    data: str | None, normalize: str | None, count: int, example: tuple[Any, ...], seed: int
) -> Samples | None:
    """Training images of the data that ``--data`` names, as large as the example."""
    if data is None:
        return None
    return _read(data, normalize, example).samples(count, seed)


def read_test_images(
    data: str | None, normalize: str | None, count: int, example: tuple[Any, ...]
) -> Samples | None:
    """At most so many test images with their labels, always the same ones."""
    if data is None:
        return None
    batches = list(_read(data, normalize, example).limited(test=count).test_batches(256))
    return Samples(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))


def _read(data: str, normalize: str | None, example: tuple[Any, ...]) -> Dataset:
    from slimnet.train import load_data  # data sets take a second to import

    size = next((int(x.shape[-1]) for x in tensors_of(example) if x.dim() == 4), 224)
    return load_data(data, normalize, size=size)


def read_images(criteria: Iterable[str]) -> bool:
    """Whether one of the criteria reads images."""
    known = load_criteria()
    return any(need != "initial" for name in criteria for need in known[name].needs)


def network_before(
    path: Path | None, opened: Opened, *, allow_pickle: bool = False
) -> nn.Module | None:
    """The network before training, from a file of the same architecture."""
    if path is None:
        return None
    return open_network(path, opened.arch, allow_pickle=allow_pickle).model
