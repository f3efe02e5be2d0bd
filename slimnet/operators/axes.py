"""What rules of several families do with axes: find one, exchange one, let operands meet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Axis, Labelled


def dim(x: Labelled, d: int) -> int:
    """A dimension counted from the front."""
    return d % max(len(x.shape), 1)


def replaced(x: Labelled, d: int, axis: Axis) -> Axes:
    """The axes of ``x`` with one of them exchanged."""
    return (*x.axes[:d], axis, *x.axes[d + 1 :])


def meet(at: At, operands: Sequence[Labelled], d: int, length: int) -> Axis:
    """The labels of dimension ``d`` (counted from the back) of operands that are broadcast."""
    found: Axis = None
    fixed = False
    for operand in operands:
        if len(operand.shape) < -d:
            continue
        axis = operand.axes[d]
        if operand.shape[d] != length:
            at.pin(axis, "spreads it over another axis")
        elif axis is None:
            fixed = True
        elif found is None:
            found = axis
        else:
            at.tie(found, axis)
    if fixed:
        at.tie(found, None)
        return None  # it stays, and is in nobody's way
    return found


def concatenate(at: At, parts: Sequence[tuple[Axis, int]], because: str) -> Axis:
    """Labels of parts put end to end; inert slots amid live ones are fixed ``because``."""
    if all(axis is None for axis, _ in parts):
        return None
    return np.concatenate([axis if axis is not None else at.fixed(n, because) for axis, n in parts])


def frozen(at: At, x: Labelled, because: str) -> Axes:
    """Every axis of ``x`` stays, and the output is inert."""
    for axis in x.axes:
        at.pin(axis, because)
    return (None,) * len(at.call.outputs[0].shape)
