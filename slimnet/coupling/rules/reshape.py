"""Views: axes merged, split, or both.

A merged axis repeats the labels of its one live part. A split hands the labels to exactly one
factor; the slots that share a place of that factor are tied. Which factor: one that undoes an
earlier merge, else one whose length the code computes, else one that an attribute holds; of equal
ones the innermost, unless that ends up pinned and another does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from slimnet.capture.sizes import AttributeOf, Source, leaves
from slimnet.coupling.labels import Axis, Labelled, Labels, blocks
from slimnet.coupling.rules import At, Axes, rule

aten = torch.ops.aten


@rule(aten.view.default, aten._unsafe_view, aten._reshape_alias, aten.view_copy.default)
def view(at: At, x: Labelled, *_: Any) -> Axes:
    """The labels of every output axis, block by block."""
    shape = at.call.outputs[0].shape
    if not x.live and not _tracks(at):
        return (None,) * len(shape)
    stated = at.sizes(shape)
    axes: list[Axis] = [None] * len(shape)
    for ins, outs in blocks(x.shape, shape):
        axis = _merged(at, x, ins)
        for d, labels in _split(at, axis, outs, shape, stated).items():
            axes[d] = labels
    for d, length in enumerate(shape):
        at.need(stated[d], axes[d], length)
    return tuple(axes)


def _tracks(at: At) -> bool:
    """Whether the user's call states sizes at all."""
    names = ("view", "reshape", "unflatten", "_unsafe_view", "view_copy")
    return at.call.request is not None and at.call.request.name in names


def _merged(at: At, x: Labelled, ins: list[int]) -> Axis:
    """One axis for a run of axes; of several live ones only the longest stays prunable."""
    live = sorted((d for d in ins if x.axes[d] is not None), key=lambda d: x.shape[d])
    for d in live[:-1]:
        at.pin(x.axes[d], "merges it with another prunable axis")
    axes = tuple(axis if d == (live or [-1])[-1] else None for d, axis in enumerate(x.axes))
    return Labelled(x.shape, axes, x.storage).flat(ins)


def _split(
    at: At, axis: Axis, outs: list[int], shape: Sequence[int], stated: list[Source | int | None]
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


def _rank(stated: Source | int | None) -> int:
    """How easily a length can shrink: computed by the code, held by an attribute, literal."""
    if stated is None:
        return 0
    if isinstance(stated, int):
        return 2
    return 1 if all(isinstance(leaf, AttributeOf) for leaf in leaves(stated)) else 0
