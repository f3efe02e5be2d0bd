"""Operators that reorder elements or axes: their rules reorder the labels in the same way."""

from __future__ import annotations

from typing import Any

import numpy as np

from slimnet.capture.graph import Call
from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Labelled
from slimnet.coupling.scaling.boxes import Box, NotLinear, exchanged
from slimnet.coupling.scaling.steps import Demands, Way
from slimnet.operator import Link, Nothing, register
from slimnet.operators.axes import dim, frozen
from slimnet.operators.families import NO_LINK, UNFOLLOWED, moving
from slimnet.operators.views import viewed


def flip(at: At, x: Labelled, dims: list[int]) -> Axes:
    """Reversed labels."""
    turned = {dim(x, d) for d in dims}
    return tuple(
        axis[::-1] if axis is not None and d in turned else axis for d, axis in enumerate(x.axes)
    )


def _flipped(_: Way, call: Call, box: Box, __: int) -> Demands:
    for d in call.args[1]:
        box = exchanged(box, d % len(box), box[d][::-1])
    return [(call.args[0], box)]


register(moving(names=("aten.flip",), labels=flip, scaling=_flipped, differentiable=False))


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


def _rolled(_: Way, call: Call, box: Box, __: int) -> Demands:
    shifts, dims = call.args[1], (*call.args[2:], [])[0]
    if not dims:
        raise NotLinear  # the flattened tensor
    for shift, d in zip(shifts, dims, strict=True):
        box = exchanged(box, d % len(box), np.roll(box[d], -shift))
    return [(call.args[0], box)]


register(moving(names=("aten.roll",), labels=roll, scaling=_rolled, differentiable=False))


def permute(at: At, x: Labelled, dims: list[int]) -> Axes:
    """Axes in another order."""
    return tuple(x.axes[d] for d in dims)


def _permuted(_: Way, call: Call, box: Box, __: int) -> Demands:
    x, dims = call.args[0], call.args[1]
    found = dict(zip((d % len(x.shape) for d in dims), box, strict=True))
    return [(x, tuple(found[d] for d in range(len(box))))]


def _turns(call: Call) -> Link | Nothing:
    """Whether it is a matrix that stands on its side."""
    return Link.TURN if list(call.args[1]) in ([1, 0], [-1, -2], [1, -2], [-1, 0]) else NO_LINK


register(
    moving(
        names=("aten.permute",),
        labels=permute,
        scaling=_permuted,
        link=_turns,
        differentiable=True,
    )
)


def transposed(at: At, x: Labelled) -> Axes:
    """The last two axes exchanged."""
    return (*x.axes[:-2], *x.axes[-2:][::-1])


def transpose(at: At, x: Labelled, a: int, b: int) -> Axes:
    """Two axes exchanged."""
    axes = list(x.axes)
    if axes:
        axes[a], axes[b] = axes[b], axes[a]
    return tuple(axes)


def _transposed(_: Way, call: Call, box: Box, __: int) -> Demands:
    a, b = call.args[1:] or (0, -1)
    axes = list(box)
    if axes:
        axes[a], axes[b] = axes[b], axes[a]
    return [(call.args[0], tuple(axes))]


register(
    moving(
        names=("aten.t", "aten.t_"),
        labels=transposed,
        scaling=_transposed,
        link=Link.TURN,
        differentiable=True,
    )
)
register(
    moving(
        names=("aten.transpose", "aten.transpose_"),
        labels=transpose,
        scaling=_transposed,
        link=Link.TURN,
        differentiable=True,
    )
)


def unsqueeze(at: At, x: Labelled, d: int) -> Axes:
    """A new axis of length one."""
    place = d % (len(x.shape) + 1)
    return (*x.axes[:place], None, *x.axes[place:])


def squeeze(at: At, x: Labelled, dims: int | list[int] | None = None) -> Axes:
    """Axes of length one disappear."""
    asked = range(len(x.shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {dim(x, d) for d in asked if x.shape[d] == 1}
    for d in gone:
        at.pin(x.axes[d], "drops this axis")
    return tuple(axis for d, axis in enumerate(x.axes) if d not in gone)


register(
    moving(
        names=("aten.unsqueeze", "aten.unsqueeze_"),
        labels=unsqueeze,
        scaling=viewed,
        differentiable=True,
    )
)
register(
    moving(
        names=("aten.squeeze", "aten.squeeze_"),
        labels=squeeze,
        scaling=viewed,
        differentiable=True,
    )
)


def as_strided(at: At, x: Labelled, size: list[int], *_: Any) -> Axes:
    """As pooling to one position calls it: another layout of the same elements."""
    if tuple(size) != x.shape or at.asked("as_strided", "as_strided_") is not None:
        raise ValueError("strides say nothing about channels")
    return x.axes


register(
    moving(
        names=("aten.as_strided_",),
        labels=as_strided,
        scaling=UNFOLLOWED,
        differentiable=False,
        permitted="an export holds the view that it came from",
    )
)
