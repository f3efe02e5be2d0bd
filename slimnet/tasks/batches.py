"""Batches of samples that are read by number: in their order, or as a generator draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from slimnet.task import Batch, Split

Read: TypeAlias = Callable[[Tensor, "torch.Generator | None"], Batch]
"""(numbers int64, what draws changes, or None for none) → the batch of these samples."""


@dataclass(frozen=True, eq=False)
class Batches:
    """All samples of one split; each time they are gone through, the generator orders them anew."""

    read: Read
    count: int
    size: int
    generator: torch.Generator | None = None

    def __len__(self) -> int:
        return -(-self.count // self.size) - self._left_out

    def __iter__(self) -> Iterator[Batch]:
        order = torch.arange(self.count)
        if self.generator is not None:
            order = torch.randperm(self.count, generator=self.generator)
        for numbers in torch.split(order, self.size)[: len(self)]:
            yield self.read(numbers, self.generator)

    @property
    def _left_out(self) -> bool:
        """A last batch of one sits a training epoch out: batch norms cannot train on it."""
        single = self.count % self.size == 1 and self.count > self.size > 1
        return single and self.generator is not None


class Numbered(Protocol):
    """A task whose batches are read by number."""

    @property
    def name(self) -> str:
        """The name to print."""

    def batches(self, split: Split, size: int) -> Batches:
        """In their order."""


def counted(task: Numbered) -> dict[str, Any]:
    """The facts of a task: its name, and how many samples each split has."""
    return {
        "name": task.name,
        "train": task.batches("train", 1).count,
        "test": task.batches("test", 1).count,
    }
