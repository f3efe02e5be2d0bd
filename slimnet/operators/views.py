"""Views: axes merged, split, or both.

A merged axis repeats the labels of its one live part. A split hands the labels to exactly one
factor; the slots that share a place of that factor are tied. Which factor: one that undoes an
earlier merge, else one whose length the code computes, else one that an attribute holds; of equal
ones the innermost, unless that ends up pinned and another does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
from torch import Tensor

from slimnet.capture.graph import Call
from slimnet.capture.sizes import AttributeOf, SizeSource, leaves
from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Axis, Flags, Labelled, Labels, matching_runs
from slimnet.coupling.scaling.boxes import Box, NotLinear, whole
from slimnet.coupling.scaling.steps import Demands, Way
from slimnet.operator import Layout, Link, register
from slimnet.operators.families import moving


def view(at: At, x: Labelled, *_: Any) -> Axes:
    """The labels of every output axis, run of axes by run."""
    shape = at.call.outputs[0].shape
    if not x.live and not _tracks(at):
        return (None,) * len(shape)
    stated = at.sizes(shape)
    axes: list[Axis] = [None] * len(shape)
    for ins, outs in matching_runs(x.shape, shape):
        axis = _merged(at, x, ins)
        for d, labels in _split(at, axis, outs, shape, stated).items():
            axes[d] = labels
    for d, length in enumerate(shape):
        at.need(stated[d], axes[d], length)
    return tuple(axes)


def _tracks(at: At) -> bool:
    """Whether the user's call states sizes at all."""
    return at.call.request is not None and at.call.request.name in _STATED


_STATED = ("view", "reshape", "unflatten", "_unsafe_view", "view_copy")


def _merged(at: At, x: Labelled, ins: list[int]) -> Axis:
    """One axis for a run of axes; of several live ones only the longest stays prunable."""
    live = sorted((d for d in ins if x.axes[d] is not None), key=lambda d: x.shape[d])
    for d in live[:-1]:
        at.pin(x.axes[d], "merges it with another prunable axis")
    axes = tuple(axis if d == (live or [-1])[-1] else None for d, axis in enumerate(x.axes))
    return Labelled(x.shape, axes, x.storage).flat(ins)


def _split(
    at: At, axis: Axis, outs: list[int], shape: Sequence[int], stated: list[SizeSource | int | None]
) -> dict[int, Labels]:
    """Hand the labels of a merged axis to one of the output axes."""
    if axis is None:
        return {}
    lengths = [shape[d] for d in outs]
    tables = {d: _rows(axis, lengths, k) for k, d in enumerate(outs)}
    inverse = [d for d, rows in tables.items() if (rows == rows[:, :1]).all()]
    ranked = sorted(outs, key=lambda d: (_rank(stated[d]), -d))
    carrier = inverse[-1] if inverse else at.choose({d: tables[d][:, 0] for d in ranked})
    rows = tables[carrier]
    at.tie(np.repeat(rows[:, 0], rows.shape[1] - 1), rows[:, 1:].reshape(-1))
    return {carrier: np.ascontiguousarray(rows[:, 0])}


def _rows(axis: Labels, lengths: list[int], k: int) -> Labels:
    """[length of factor k, everything else]"""
    return np.moveaxis(axis.reshape(lengths), k, 0).reshape(lengths[k], -1)


def _rank(stated: SizeSource | int | None) -> int:
    """How easily a length can shrink: computed by the code, held by an attribute, literal."""
    if stated is None:
        return 0
    if isinstance(stated, int):
        return 2
    return 1 if all(isinstance(leaf, AttributeOf) for leaf in leaves(stated)) else 0


def viewed(_: Way, call: Call, box: Box, place: int) -> Demands:
    """Runs of axes are merged and split: flat flags, and flags per axis again."""
    old, new = call.args[0].shape, call.outputs[place].shape
    found = list(whole(old))
    for ins, outs in matching_runs(old, new):
        flat = reduce(np.logical_and.outer, (box[d] for d in outs)).reshape([old[d] for d in ins])
        sides = [_any_but(flat, k) for k in range(len(ins))]
        if not np.array_equal(reduce(np.logical_and.outer, sides), flat):
            raise NotLinear
        for d, side in zip(ins, sides, strict=True):
            found[d] = side
    return [(call.args[0], tuple(found))]


def _any_but(flags: Flags, axis: int) -> Flags:
    """[length of the axis]: where anything of a slice is flagged."""
    rows = np.moveaxis(flags, axis, 0).reshape(flags.shape[axis], -1)
    return np.asarray(rows.any(axis=1), bool)


def viewed_as(x: Tensor, shape: Sequence[int], *_: Any) -> Tensor:
    """A view in float64, of what a convolution may lay out in another way than in float32.

    A cut makes no view impossible: lengths only shrink, and every tensor is a new one.
    """
    try:
        return x.view(shape)
    except RuntimeError:
        return x.reshape(shape)


viewing = partial(
    moving,
    labels=view,
    sizes=_STATED,
    scaling=viewed,
    double=viewed_as,
    link=Link.VIEW,
    layout=Layout.LAYS,
    differentiable=True,
)
register(viewing(names=("aten.view.default", "aten._unsafe_view", "aten.view_copy.default")))
register(viewing(names=("aten._reshape_alias",), permitted="trusts its sizes and strides"))
