"""Random inputs that look like an example, at any batch size.

Every tensor of the example whose first axis is as long as the batch follows the batch; the others,
and everything that is no tensor, stay as they are in shape or value. Of a network that takes one
list of images, as torchvision's detectors do, the batch is the list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from slimnet.errors import InputError
from slimnet.example import check_numbers, tensors_of

Example = tuple[Any, ...]


def batch_of(example: Example) -> int:
    """The batch size: the length of the first axis of the first tensor that has axes."""
    if not isinstance(example, tuple):
        raise InputError(
            f"the example is a {type(example).__name__}: give a tuple of the model's inputs, "
            "for instance (images,)"
        )
    if images := images_of(example):
        return len(images)
    for tensor in tensors_of(example):
        if tensor.ndim:
            return tensor.shape[0]
    raise InputError("the example holds no tensor with a batch axis")


def images_of(example: Example) -> list[Tensor]:
    """The images [C, H, W] of an example that is one list of them; none of any other."""
    if len(example) != 1 or not isinstance(example[0], list):
        return []
    images = example[0]
    fits = all(isinstance(x, Tensor) and x.ndim == 3 and x.is_floating_point() for x in images)
    return images if fits else []


def is_picture(leaf: Any) -> bool:
    """Whether the last two axes of this input are height and width: [N, C, H, W], say."""
    return isinstance(leaf, Tensor) and leaf.ndim in (4, 5)


def resized(example: Example, size: Callable[[int, int], tuple[int, int]]) -> Example:
    """The example with pictures of another height and width, of numbers that are its own."""

    def of(leaf: Any) -> Any:
        if not is_picture(leaf):
            return leaf
        before = leaf.shape[-2:]
        rows, columns = (torch.arange(n) % m for n, m in zip(size(*before), before, strict=True))
        return leaf[..., rows, :][..., columns]

    return tree_map(of, example)  # type: ignore[no-any-return]


def follows_batch(leaf: Any, batch: int) -> bool:
    """Whether this input grows with the batch."""
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == batch


def check_batch(example: Example, batch: int) -> None:
    """Raise :class:`InputError` for a batch that no machine should be asked to make."""
    old = batch_of(example)
    if images := images_of(example):
        check_numbers((batch, *images[0].shape))
        return
    for leaf in tensors_of(example):
        check_numbers((batch, *leaf.shape[1:]) if follows_batch(leaf, old) else leaf.shape)


def random_inputs(example: Example, batch: int, seed: int = 0) -> Example:
    """New CPU inputs whose values are drawn from the example's own, so that their range fits.

    A float tensor of one value only (zeros, ones) is filled with normal noise instead.
    """
    check_batch(example, batch)
    generator = torch.Generator().manual_seed(seed)
    if images := images_of(example):
        drawn_from = [images[n % len(images)].detach().cpu() for n in range(batch)]
        return ([_drawn(image, tuple(image.shape), generator) for image in drawn_from],)
    old = batch_of(example)

    def drawn(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        rows = (batch, *leaf.shape[1:]) if follows_batch(leaf, old) else leaf.shape
        return _drawn(leaf.detach().cpu(), tuple(rows), generator)

    return tree_map(drawn, example)  # type: ignore[no-any-return]


def _drawn(tensor: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    values = tensor.flatten()
    if values.numel() == 0:
        return torch.zeros(shape, dtype=tensor.dtype)
    if tensor.is_floating_point() and bool((values == values[0]).all()):
        return torch.randn(shape, generator=generator).to(tensor.dtype)
    return values[torch.randint(values.numel(), shape, generator=generator)]
