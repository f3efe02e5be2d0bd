"""Operators that only move elements: their rules move the labels in the same way."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from slimnet.capture.sizes import Source
from slimnet.capture.trace import source
from slimnet.coupling.labels import Axis, Labelled
from slimnet.coupling.rules import At, Axes, concatenate, dim, frozen, replaced, rule

aten = torch.ops.aten


@rule(aten.flip)
def flip(at: At, x: Labelled, dims: list[int]) -> Axes:
    """Reversed labels."""
    turned = {dim(x, d) for d in dims}
    return tuple(
        axis[::-1] if axis is not None and d in turned else axis for d, axis in enumerate(x.axes)
    )


@rule(aten.roll)
def roll(at: At, x: Labelled, shifts: list[int], dims: list[int] = []) -> Axes:  # noqa: B006
    """Rolled labels; as many slots as are carried around the end must stay."""
    if not dims:
        return frozen(at, x, "rolls the flattened tensor")
    axes = list(x.axes)
    for shift, d in zip(shifts, dims, strict=True):
        axis = axes[dim(x, d)]
        if axis is not None:
            asked = at.number("roll", place=1, key="shifts")
            carried = (
                axis[len(axis) - shift % len(axis) :] if shift > 0 else axis[: -shift % len(axis)]
            )
            at.need(asked if asked is not None else int(shift), carried, len(carried))
            axes[dim(x, d)] = np.roll(axis, shift)
    return tuple(axes)


@rule(aten.permute)
def permute(at: At, x: Labelled, dims: list[int]) -> Axes:
    """Axes in another order."""
    return tuple(x.axes[d] for d in dims)


@rule(aten.t, aten.t_)
def transposed(at: At, x: Labelled) -> Axes:
    """The last two axes exchanged."""
    return (*x.axes[:-2], *x.axes[-2:][::-1])


@rule(aten.transpose, aten.transpose_)
def transpose(at: At, x: Labelled, a: int, b: int) -> Axes:
    """Two axes exchanged."""
    axes = list(x.axes)
    if axes:
        axes[a], axes[b] = axes[b], axes[a]
    return tuple(axes)


@rule(aten.unsqueeze, aten.unsqueeze_)
def unsqueeze(at: At, x: Labelled, d: int) -> Axes:
    """A new axis of length one."""
    place = d % (len(x.shape) + 1)
    return (*x.axes[:place], None, *x.axes[place:])


@rule(aten.squeeze, aten.squeeze_)
def squeeze(at: At, x: Labelled, dims: int | list[int] | None = None) -> Axes:
    """Axes of length one disappear."""
    asked = range(len(x.shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {dim(x, d) for d in asked if x.shape[d] == 1}
    for d in gone:
        at.pin(x.axes[d], "drops this axis")
    return tuple(axis for d, axis in enumerate(x.axes) if d not in gone)


@rule(aten.cat)
def cat(at: At, tensors: list[Labelled], d: int = 0) -> Axes:
    """Labels end to end; the other axes are tied."""
    parts = [x for x in tensors if x.shape != (0,)]
    first, place = parts[0], dim(parts[0], d)
    for other in parts[1:]:
        for axis in range(len(first.shape)):
            if axis != place:
                at.tie(first.axes[axis], other.axes[axis])
    joined = concatenate(
        at, [(x.axes[place], x.shape[place]) for x in parts], "puts slots of fixed number there"
    )
    kept = [
        next((x.axes[k] for x in parts if x.axes[k] is not None), None)
        for k in range(len(first.shape))
    ]
    return (*kept[:place], joined, *kept[place + 1 :])


@rule(aten.stack)
def stack(at: At, tensors: list[Labelled], d: int = 0) -> Axes:
    """A new axis; all others are tied."""
    first = tensors[0]
    for other in tensors[1:]:
        for left, right in zip(first.axes, other.axes, strict=True):
            at.tie(left, right)
    place = d % (len(first.shape) + 1)
    return (*first.axes[:place], None, *first.axes[place:])


@rule(aten.constant_pad_nd)
def pad(at: At, x: Labelled, amounts: list[int], value: float = 0) -> Axes:
    """Slots that padding fills stay where their number is a literal; otherwise they may go too."""
    at.vanish(x.vanishes and value == 0)
    stated = _stated_amounts(at, amounts)
    axes = list(x.axes)
    for k in range(len(amounts) // 2):
        before, after = amounts[2 * k : 2 * k + 2]
        d = len(axes) - 1 - k
        axis = axes[d]
        if axis is None or (before == 0 and after == 0):
            continue
        at.pin(axis[: max(-before, 0)], "crops it")
        at.pin(axis[len(axis) + min(after, 0) :], "crops it")
        middle = axis[max(-before, 0) : len(axis) + min(after, 0)]
        sides = [_padded(at, amounts[side], stated[side]) for side in (2 * k, 2 * k + 1)]
        axes[d] = concatenate(
            at, [sides[0], (middle, len(middle)), sides[1]], "fills these slots by padding"
        )
    return tuple(axes)


def _padded(at: At, amount: int, stated: Source | int) -> tuple[Axis, int]:
    """Slots that are filled: labels of their own where the code computes how many there are."""
    if amount <= 0 or isinstance(stated, int):
        return None, max(amount, 0)
    labels = at.fresh(amount)
    at.need(stated, labels, amount)
    return labels, amount


def _stated_amounts(at: At, amounts: list[int]) -> list[Source | int]:
    """What the user's own call says; literals where it cannot be told."""
    asked = at.asked("pad", "constant_pad_nd") or ()
    given = next((list(entry) for entry in asked if isinstance(entry, (list, tuple))), [])
    if given != amounts:
        return list(amounts)
    return [source(amount) or int(amount) for amount in given]


@rule(aten.repeat)
def repeat(at: At, x: Labelled, repeats: list[int]) -> Axes:
    """Labels again and again; a single slot repeated is a new axis of that length."""
    new = len(repeats) - len(x.shape)
    stated = at.sizes(repeats)
    axes: list[Axis] = [None] * new
    for d, times in enumerate(repeats[new:]):
        axis = x.axes[d]
        if x.shape[d] == 1 and times > 1:
            axes.append(_spread(at, axis, times, stated[new + d]))
        else:
            axes.append(np.tile(axis, times) if axis is not None else None)
    return tuple(axes)


@rule(aten.expand, aten.expand_copy)
def expand(at: At, x: Labelled, size: list[int], implicit: bool = False) -> Axes:
    """An axis of length one becomes a new one; the others pass."""
    shape = at.call.outputs[0].shape
    new = len(shape) - len(x.shape)
    stated = at.sizes(shape)
    axes: list[Axis] = [None] * new
    for d, length in enumerate(shape[new:]):
        axis = x.axes[d]
        if x.shape[d] == length:
            at.need(stated[new + d], axis, length)
            axes.append(axis)
        else:
            axes.append(_spread(at, axis, length, stated[new + d]))
    return tuple(axes)


_LIKE_ANOTHER = ("expand", "expand_as", "normalize", "broadcast_to", "broadcast_tensors")
"""Functions that take a length they were not given from another tensor, and so follow it."""


def _spread(at: At, axis: Axis, length: int, stated: Source | int | None) -> Axis:
    """One slot copied along a new axis, whose length is free unless the code states it."""
    at.pin(axis, "spreads it over an axis")
    if isinstance(stated, int) or (stated is None and at.asked(*_LIKE_ANOTHER) is None):
        return None
    labels = at.fresh(length)
    at.need(stated, labels, length)
    at.vanish(False)  # every copy holds what the one slot holds
    return labels


@rule(aten.unfold)
def unfold(at: At, x: Labelled, d: int, size: int, step: int) -> Axes:
    """Windows along one axis."""
    place = dim(x, d)
    at.pin(x.axes[place], "takes windows along it")
    return (*replaced(x, place, None), None)


@rule(aten.im2col)
def im2col(at: At, x: Labelled, kernel: list[int], *_: Any) -> Axes:
    """[.., C, H, W] → [.., C·k, L]: each channel's patches follow each other."""
    for axis in x.axes[-2:]:
        at.pin(axis, "takes windows along it")
    channels = x.axes[-3]
    patches = int(np.prod(kernel))
    return (*x.axes[:-3], None if channels is None else np.repeat(channels, patches), None)


@rule(aten.col2im)
def col2im(at: At, x: Labelled, size: list[int], kernel: list[int], *_: Any) -> Axes:
    """[.., C·k, L] → [.., C, H, W]."""
    at.pin(x.axes[-1], "takes windows along it")
    return (*x.axes[:-2], _first_of(at, x.axes[-2], int(np.prod(kernel))), None, None)


@rule(aten.pixel_shuffle)
def pixel_shuffle(at: At, x: Labelled, factor: int) -> Axes:
    """[.., C·r², H, W] → [.., C, H·r, W·r]: r² neighbours leave together."""
    _flat_map(at, x)
    return (*x.axes[:-3], _first_of(at, x.axes[-3], factor * factor), None, None)


def _flat_map(at: At, x: Labelled) -> None:
    for axis in x.axes[-2:]:
        at.pin(axis, "folds it")


def _first_of(at: At, axis: Axis, size: int) -> Axis:
    """Runs of ``size`` neighbours become one slot: they are tied."""
    if axis is None:
        return None
    runs = axis.reshape(-1, size)
    at.tie(np.repeat(runs[:, 0], size - 1), runs[:, 1:].reshape(-1))
    return runs[:, 0]


@rule(aten.pixel_unshuffle)
def pixel_unshuffle(at: At, x: Labelled, factor: int) -> Axes:
    """[.., C, H, W] → [.., C·r², H/r, W/r]."""
    _flat_map(at, x)
    axis = x.axes[-3]
    spread = None if axis is None else np.repeat(axis, factor * factor)
    return (*x.axes[:-3], spread, None, None)


@rule(aten.channel_shuffle)
def channel_shuffle(at: At, x: Labelled, groups: int) -> Axes:
    """[g, C/g] read column by column; the same positions leave every group."""
    axis = x.axes[1]
    if axis is None:
        return x.axes
    at.tie_blocks(axis, groups)
    return replaced(x, 1, axis.reshape(groups, -1).T.reshape(-1))


@rule(aten.glu)
def glu(at: At, x: Labelled, d: int = -1) -> Axes:
    """The first half gated by the second: the same positions leave both."""
    place = dim(x, d)
    axis = x.axes[place]
    at.tie_blocks(axis, 2)
    return replaced(x, place, None if axis is None else axis[: len(axis) // 2])


@rule(aten.as_strided_)
def as_strided(at: At, x: Labelled, size: list[int], *_: Any) -> Axes:
    """As pooling to one position calls it: another layout of the same elements."""
    if tuple(size) != x.shape or at.asked("as_strided", "as_strided_") is not None:
        raise ValueError("strides say nothing about channels")
    return x.axes


@rule(aten.tril, aten.triu, aten.tril_, aten.triu_)
def triangle(at: At, x: Labelled, *_: Any) -> Axes:
    """The part below (above) a diagonal: where a slot of the last two axes is, matters."""
    for axis in x.axes[-2:]:
        at.pin(axis, "keeps one side of its diagonal")
    at.vanish(x.vanishes)
    return x.axes
