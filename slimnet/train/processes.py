"""One training in several processes, as ``torchrun`` starts them: the single process's result.

Every process draws the same batches and trains on its part of each. What a batch has in common is
then of the whole batch: the gradients are summed, each loss weighted by its share of the samples,
and the statistics of batch norms are taken over all parts. So the weights are those of one process,
up to rounding, for losses that are means over samples; dropout draws alike in every process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from slimnet.errors import InputError
from slimnet.task import Batch, samples_in

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; one alone by default."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def share(self, value: Value) -> Value:
        """What the first process has, in all of them."""
        if self.count == 1:
            return value
        values: list[Any] = [value]
        dist.broadcast_object_list(values, src=0)
        shared: Value = values[0]
        return shared

    def part(self, batch: Batch) -> tuple[Batch, float]:
        """The samples of a batch that this process trains on, and their share of it.

        Tensors and lists are split that are as long as the batch has samples. All processes train
        on all of a batch that is too small to be split, or of which that cannot be told.
        """
        total = samples_in(batch)
        if total < self.count or self.count == 1 or _is_unclear(batch, total):
            return batch, 1 / self.count
        first, last = (total * n // self.count for n in (self.rank, self.rank + 1))
        mine = tree_map(lambda leaf: _rows(leaf, total, first, last), batch, is_leaf=_is_rows)
        return mine, (last - first) / total

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Each gradient becomes the sum over the processes; none stays none where all have none."""
        if self.count == 1:
            return
        given = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        has = torch.tensor([float(p.grad is not None) for p in parameters]).to(given[0].device)
        self.sum(has)
        for kind in sorted({p.dtype for p in parameters}, key=str):
            alike = [g for g in given if g.dtype == kind]
            flat = torch.cat([g.reshape(-1) for g in alike])
            self.sum(flat)
            for gradient, summed in zip(alike, flat.split([g.numel() for g in alike]), strict=True):
                gradient.copy_(summed.view_as(gradient))
        for parameter, gradient, number in zip(parameters, given, has.tolist(), strict=True):
            parameter.grad = gradient if number else None

    def start_alike(self, model: nn.Module) -> None:
        """Every process gets the tensors that the first one has."""
        for tensor in (*model.parameters(), *model.buffers()) if self.count > 1 else ():
            dist.broadcast(tensor.detach(), src=0)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    @contextmanager
    def normalising(self, model: nn.Module) -> Iterator[None]:
        """Batch norms in training mode take their statistics over the parts of all processes.

        Raises :class:`InputError` for one that computes in a way of its own.
        """
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and self.count > 1]
        for norm in norms:
            if type(norm).forward is not _BatchNorm.forward:
                raise InputError(
                    f"{type(norm).__name__} normalises batches in a way of its own, "
                    "and how several processes share the statistics is not known: train in one"
                )
        for norm in norms:
            norm.forward = partial(_normalised, norm)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for norm in norms:
                del norm.forward


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that ``torchrun`` started, connected; this one alone where it did not."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or dist.is_initialized():
        yield ALONE if count == 1 else Processes(dist.get_rank(), count)
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def _is_unclear(part: Any, total: int) -> bool:
    """Whether a list is as long as a part of it: of two samples, a list of images and labels."""
    if not isinstance(part, (Mapping, tuple, list)):
        return False
    inside = list(part.values()) if isinstance(part, Mapping) else list(part)
    if isinstance(part, list) and len(part) == total:
        return any(samples_in(each) == total for each in inside)
    return any(_is_unclear(each, total) for each in inside)


def _is_rows(value: Any) -> bool:
    """Lists of samples, such as pictures of different sizes, are split as tensors are."""
    return isinstance(value, list)


def _rows(leaf: Any, total: int, first: int, last: int) -> Any:
    if isinstance(leaf, list) and len(leaf) != total:
        return [tree_map(lambda x: _rows(x, total, first, last), x) for x in leaf]
    splits = isinstance(leaf, list) or (isinstance(leaf, Tensor) and leaf.dim() > 0)
    return leaf[first:last] if splits and len(leaf) == total else leaf


def _normalised(norm: _BatchNorm, x: Tensor) -> Tensor:
    """What a batch norm gives: the formula of its documentation, over all processes."""
    if not norm.training:  # the first process alone measures while the others wait
        return type(norm).forward(norm, x)
    axes = [d for d in range(x.dim()) if d != 1]
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    number = wide.new_tensor([x.numel() / x.shape[1]])
    sums = _Sum.apply(torch.cat([wide.sum(axes), number]))
    mean, number = sums[:-1] / sums[-1], sums[-1].detach()
    apart = wide - mean.view(_along(x))
    variance = _Sum.apply(apart.square().sum(axes)) / number
    if norm.training and norm.running_mean is not None:
        _remember(norm, mean.detach(), (variance * number / (number - 1)).detach())
    made: Tensor = apart * (variance + norm.eps).rsqrt().view(_along(x))
    if norm.affine:
        made = made * norm.weight.view(_along(x)) + norm.bias.view(_along(x))
    return made.to(x.dtype)


def _along(x: Tensor) -> list[int]:
    return [-1 if d == 1 else 1 for d in range(x.dim())]


class _Sum(torch.autograd.Function):
    """The sum over the processes; the gradient of it is the sum of their gradients."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        return _summed(tensor)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(tensor: Tensor) -> Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def _remember(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics as torch does."""
    if norm.num_batches_tracked is None or norm.running_mean is None or norm.running_var is None:
        return
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum
    share = 1 / float(norm.num_batches_tracked) if momentum is None else momentum
    for kept, new in ((norm.running_mean, mean), (norm.running_var, variance)):
        kept.lerp_(new.to(kept.dtype), share)
