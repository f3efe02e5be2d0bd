"""Operators that make axes longer: parts end to end, padding, copies."""

from __future__ import annotations

from typing import Any

import numpy as np

from slimnet.capture.graph import Call
from slimnet.capture.sizes import SizeSource
from slimnet.capture.trace import source
from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Axis, Labelled
from slimnet.coupling.scaling.boxes import Box, exchanged, narrowed
from slimnet.coupling.scaling.steps import Demands, Way
from slimnet.operator import Layout, register
from slimnet.operators.axes import concatenate, dim
from slimnet.operators.families import UNFOLLOWED, listed, moving


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


def _joined(_: Way, call: Call, box: Box, __: int) -> Demands:
    parts = [x for x in call.args[0] if x.shape != (0,)]
    d = (*call.args[1:], 0)[0] % len(box)
    ends = np.cumsum([x.shape[d] for x in parts])
    return [
        (x, exchanged(box, d, box[d][end - x.shape[d] : end]))
        for x, end in zip(parts, ends, strict=True)
    ]


register(
    moving(names=("aten.cat",), labels=cat, zeros=listed, scaling=_joined, differentiable=True)
)


def stack(at: At, tensors: list[Labelled], d: int = 0) -> Axes:
    """A new axis; all others are tied."""
    first = tensors[0]
    for other in tensors[1:]:
        for left, right in zip(first.axes, other.axes, strict=True):
            at.tie(left, right)
    place = d % (len(first.shape) + 1)
    return (*first.axes[:place], None, *first.axes[place:])


def _stacked(_: Way, call: Call, box: Box, __: int) -> Demands:
    d = (*call.args[1:], 0)[0] % len(box)
    rest = (*box[:d], *box[d + 1 :])
    return [(x, rest) for x, flag in zip(call.args[0], box[d], strict=True) if flag]


register(
    moving(
        names=("aten.stack",), labels=stack, zeros=listed, scaling=_stacked, differentiable=False
    )
)


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


def _padded(at: At, amount: int, stated: SizeSource | int) -> tuple[Axis, int]:
    """Slots that are filled: labels of their own where the code computes how many there are."""
    if amount <= 0 or isinstance(stated, int):
        return None, max(amount, 0)
    labels = at.fresh(amount)
    at.need(stated, labels, amount)
    return labels, amount


def _stated_amounts(at: At, amounts: list[int]) -> list[SizeSource | int]:
    """What the user's own call says; literals where it cannot be told."""
    asked = at.asked("pad", "constant_pad_nd") or ()
    given = next((list(entry) for entry in asked if isinstance(entry, (list, tuple))), [])
    if given != amounts:
        return list(amounts)
    return [source(amount) or int(amount) for amount in given]


def _by_zeros(call: Call) -> list[list[Any]]:
    return [[call.args[0]]] if not any(call.args[2:3]) else []


register(
    moving(
        names=("aten.constant_pad_nd",),
        labels=pad,
        zeros=_by_zeros,
        scaling=UNFOLLOWED,
        differentiable=True,
    )
)


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


register(
    moving(
        names=("aten.repeat",),
        labels=repeat,
        sizes=("repeat", "tile"),
        scaling=UNFOLLOWED,
        differentiable=False,
    )
)


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


def _spread(at: At, axis: Axis, length: int, stated: SizeSource | int | None) -> Axis:
    """One slot copied along a new axis, whose length is free unless the code states it."""
    at.pin(axis, "spreads it over an axis")
    if isinstance(stated, int) or (stated is None and at.asked(*_LIKE_ANOTHER) is None):
        return None
    labels = at.fresh(length)
    at.need(stated, labels, length)
    at.vanish(False)  # every copy holds what the one slot holds
    return labels


def _expanded(_: Way, call: Call, box: Box, __: int) -> Demands:
    return [(call.args[0], narrowed(box, call.args[0].shape))]


register(
    moving(
        names=("aten.expand", "aten.expand_copy"),
        labels=expand,
        sizes=("expand", "broadcast_to", "expand_copy"),
        scaling=_expanded,
        layout=Layout.LAYS,
        differentiable=True,
    )
)
