"""Operators that put channels and positions in each other's place, or take parts of a map."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Axis, Labelled
from slimnet.operator import register
from slimnet.operators.axes import dim, replaced
from slimnet.operators.families import NOT_LINEAR, UNFOLLOWED, moving

cutting = partial(moving, scaling=UNFOLLOWED, differentiable=False)


def unfold(at: At, x: Labelled, d: int, size: int, step: int) -> Axes:
    """Windows along one axis."""
    place = dim(x, d)
    at.pin(x.axes[place], "takes windows along it")
    return (*replaced(x, place, None), None)


register(cutting(names=("aten.unfold",), labels=unfold))


def im2col(at: At, x: Labelled, kernel: list[int], *_: Any) -> Axes:
    """[.., C, H, W] → [.., C·k, L]: each channel's patches follow each other."""
    for axis in x.axes[-2:]:
        at.pin(axis, "takes windows along it")
    channels = x.axes[-3]
    patches = int(np.prod(kernel))
    return (*x.axes[:-3], None if channels is None else np.repeat(channels, patches), None)


def col2im(at: At, x: Labelled, size: list[int], kernel: list[int], *_: Any) -> Axes:
    """[.., C·k, L] → [.., C, H, W]."""
    at.pin(x.axes[-1], "takes windows along it")
    return (*x.axes[:-2], _first_of(at, x.axes[-2], int(np.prod(kernel))), None, None)


register(cutting(names=("aten.im2col",), labels=im2col))
register(cutting(names=("aten.col2im",), labels=col2im, moves=False))  # windows that meet are added


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


def pixel_unshuffle(at: At, x: Labelled, factor: int) -> Axes:
    """[.., C, H, W] → [.., C·r², H/r, W/r]."""
    _flat_map(at, x)
    axis = x.axes[-3]
    spread = None if axis is None else np.repeat(axis, factor * factor)
    return (*x.axes[:-3], spread, None, None)


register(cutting(names=("aten.pixel_shuffle",), labels=pixel_shuffle))
register(cutting(names=("aten.pixel_unshuffle",), labels=pixel_unshuffle))


def channel_shuffle(at: At, x: Labelled, groups: int) -> Axes:
    """[g, C/g] read column by column; the same positions leave every group."""
    axis = x.axes[1]
    if axis is None:
        return x.axes
    at.tie_blocks(axis, groups)
    return replaced(x, 1, axis.reshape(groups, -1).T.reshape(-1))


register(cutting(names=("aten.channel_shuffle",), labels=channel_shuffle))


def glu(at: At, x: Labelled, d: int = -1) -> Axes:
    """The first half gated by the second: the same positions leave both."""
    place = dim(x, d)
    axis = x.axes[place]
    at.tie_blocks(axis, 2)
    return replaced(x, place, None if axis is None else axis[: len(axis) // 2])


register(cutting(names=("aten.glu",), labels=glu, scaling=NOT_LINEAR, moves=False))


def triangle(at: At, x: Labelled, *_: Any) -> Axes:
    """The part below (above) a diagonal: where a slot of the last two axes is, matters."""
    for axis in x.axes[-2:]:
        at.pin(axis, "keeps one side of its diagonal")
    at.vanish(x.vanishes)
    return x.axes


register(cutting(names=("aten.tril", "aten.triu", "aten.tril_", "aten.triu_"), labels=triangle))
