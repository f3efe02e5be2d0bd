"""The inputs that a cut is proven on: the example's own values, in another order.

A network may take roots or logarithms of its inputs, or read them as boxes: no number may appear
that the example does not hold. Where all of a tensor's values are the same, another order shows
nothing more, and normal noise is tried first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


def variants(example: tuple[Any, ...], seed: int) -> Iterator[tuple[Any, ...]]:
    """Inputs to try, those that show most first, the example itself last."""
    two = stacked(example, seed)
    if two is not None:
        yield two
    yield permuted(example, seed)
    yield example


def permuted(example: tuple[Any, ...], seed: int) -> tuple[Any, ...]:
    """Floating point values in random places, or noise for constants; all else stays as it is."""
    generator = torch.Generator().manual_seed(seed)

    def shuffled(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or not leaf.numel():
            return leaf
        if bool((leaf == leaf.flatten()[0]).all()):
            return torch.randn(leaf.shape, generator=generator).to(leaf)
        order = torch.randperm(leaf.numel(), generator=generator)
        return leaf.flatten()[order.to(leaf.device)].reshape(leaf.shape)

    return tuple(tree_map(shuffled, entry) for entry in example)


def stacked(example: tuple[Any, ...], seed: int) -> tuple[Any, ...] | None:
    """Two samples where the example is a batch of one; None where it shows no such batch."""
    batched = [x for x in tree_leaves(example) if isinstance(x, Tensor) and x.dim() > 1]
    if not batched or any(x.shape[0] != 1 for x in batched):
        return None
    pair = zip(*(tree_leaves(permuted(example, seed + n)) for n in (0, 1)), strict=True)
    leaves = iter([_two(a, b) for a, b in pair])
    return tuple(tree_map(lambda _: next(leaves), entry) for entry in example)


def _two(first: Any, second: Any) -> Any:
    return torch.cat([first, second]) if isinstance(first, Tensor) and first.dim() > 1 else first
