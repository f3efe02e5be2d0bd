"""What stands for the weights while a cut is proven.

The original computes with the removed elements zeroed; both networks also with random weights,
because real ones can hide a wrong cut (a removed channel may be near zero anyway). Values are made
at the moment of use, in float64, so that no second copy of the weights is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from slimnet.coupling.removal import Removal
from slimnet.plan.plan import Plan
from slimnet.plan.rebuild import cut, scaled, zero_removed

Values: TypeAlias = Callable[[str, Tensor], Tensor]
"""(name, stored tensor) → what is computed with."""
Draw: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]


def weights_of(
    kind: str, originals: Mapping[str, Tensor], plan: Plan, seed: int
) -> tuple[Values, Values]:
    """Which values the original, of these tensors, and the slim network compute with, in float64.

    "real": as they are; "random": drawn anew, with both signs; "positive": the same, but without
    signs in vectors, which may be a logarithm's or a root's; "perturbed": each changed by up to a
    half.
    """
    parameters = {name for name, t in originals.items() if isinstance(t, nn.Parameter)}

    def zeroed(name: str, values: Tensor) -> Tensor:
        return zero_removed(name, values, plan) if name in parameters else values

    if kind == "real":
        return (
            lambda name, tensor: zeroed(name, _widened_copy(tensor)),
            lambda name, tensor: _unrounded(name, tensor, originals, plan),
        )

    @cache
    def signed(name: str) -> bool:
        """Parameters are; a buffer (a variance, a mask) keeps to what its own numbers show."""
        return name in parameters or bool((x := originals[name]).lt(0).any()) or not bool(x.any())

    def drawn(name: str) -> Draw:
        if kind == "perturbed" or _is_grid(name, originals):
            return _perturbed
        if kind == "positive" or not signed(name):
            return _positive
        return _small if _is_added(name) else _drawn

    def random(name: str, tensor: Tensor) -> Tensor:
        return zeroed(name, _random(name, tensor, seed, Removal(), drawn(name)))

    def random_cut(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.clone()
        values = _random(name, originals[name], seed, plan.of(name), drawn(name))
        return scaled(name, values, plan)

    return random, random_cut


def _is_grid(name: str, originals: Mapping[str, Tensor]) -> bool:
    """Whether it is the step that fake quantisation rounds to: a large one rounds all to zero."""
    path, _, leaf = name.rpartition(".")
    return leaf == "scale" and f"{path}.zero_point".lstrip(".") in originals


def _is_added(name: str) -> bool:
    """Whether it is called what torch calls vectors that are added, or taken away."""
    leaf = name.rpartition(".")[2]
    return "bias" in leaf or leaf == "running_mean"


def _unrounded(name: str, tensor: Tensor, originals: Mapping[str, Tensor], plan: Plan) -> Tensor:
    """A slim network's weight in float64.

    Folding a constant into a weight rounds it to the weight's own type. Where the stored numbers
    are just that, the product is used before it was rounded.
    """
    if name in plan.scaled and torch.equal(cut(name, originals[name], plan), tensor):
        return cut(name, originals[name].double(), plan)
    return widened(tensor) if tensor.is_floating_point() else tensor.clone()


def _widened_copy(tensor: Tensor) -> Tensor:
    kind = torch.float64 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(kind, copy=True)


def _drawn(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Fresh numbers in place of these rows: of a size that keeps signals alive, half negative."""
    numbers = _positive(rows, generator)
    if rows.dim() < 2:
        numbers[torch.randperm(len(rows), generator=generator)[: len(rows) // 2]] *= -1
    return numbers


def _small(rows: Tensor, generator: torch.Generator) -> Tensor:
    """The same, vectors a fifth as large: a large bias would keep a channel below its ReLU."""
    return _drawn(rows, generator) * (0.2 if rows.dim() < 2 else 1.0)


def _positive(rows: Tensor, generator: torch.Generator) -> Tensor:
    """The same without signs in vectors: variances are none below zero, and none near it."""
    if rows.dim() < 2:
        return torch.rand(rows.shape, generator=generator) + 0.5
    fan_in = max(int(np.prod(rows.shape[1:])), 1)
    return torch.randn(rows.shape, generator=generator).mul_(fan_in**-0.5)


def _perturbed(rows: Tensor, generator: torch.Generator) -> Tensor:
    """These rows, each number times something between a half and one and a half."""
    return rows.cpu().double() * (torch.rand(rows.shape, generator=generator) + 0.5)


def _random(
    name: str,
    tensor: Tensor,
    seed: int,
    removal: Removal,
    drawn: Draw,
) -> Tensor:
    """Numbers that depend on the name and the seed (and on what is perturbed).

    Drawn and cut a few rows at a time: of the largest layer no more than one copy is ever held.
    """
    if not tensor.is_floating_point():
        return tensor.clone()  # an operator may write into it
    if removal.groups > 1:  # all columns of its groups are no more than one
        return removal.select(_random(name, tensor, seed, Removal(), drawn))
    kept = [removal.kept(d, tensor.shape) for d in range(tensor.dim())]  # indices, per axis
    result = torch.empty([len(k) for k in kept], dtype=torch.float64, device=tensor.device)
    if tensor.dim() == 0:
        return result.fill_(0.7)
    generator = torch.Generator().manual_seed(seed + crc32(name.encode()))
    step = max(_DRAWN // max(int(np.prod(tensor.shape[1:])), 1), 1)
    for first in range(0, tensor.shape[0], step):
        rows = drawn(tensor.detach()[first : first + step], generator)
        low, high = torch.searchsorted(kept[0], torch.tensor([first, first + len(rows)])).tolist()
        rows = rows[kept[0][low:high] - first]
        for d in removal.axes.keys() - {0}:
            rows = rows.index_select(d, kept[d])
        result[low:high] = rows.to(tensor.device)
    return result


_DRAWN = 1 << 18  # random numbers drawn at a time


def widened(leaf: Any) -> Any:
    """A float tensor in float64; anything else as it is."""
    if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dtype != torch.float64:
        return leaf.double()
    return leaf
