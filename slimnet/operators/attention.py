"""Attention, whole: softmax(q · kᵀ / √d) · v."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.nn.functional import scaled_dot_product_attention

from slimnet.capture.graph import Call
from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Axis, Labelled
from slimnet.operator import Nothing, Products, Reading, Whole, register
from slimnet.operators.contraction import contract, summing
from slimnet.operators.families import NOT_LINEAR


def attention(
    at: At,
    q: Labelled,
    k: Labelled,
    v: Labelled,
    attn_mask: Labelled | None = None,
    *_: Any,
    scale: float | None = None,
    **__: Any,
) -> Axes:
    """softmax(q · kᵀ / √d) · v: [.., n, d], [.., m, d], [.., m, e] → [.., n, e].

    Without a scale of its own it divides by the root of a length that shrinks: this is folded into
    the weights where that is possible.
    """
    contract(at, q, q.axes[-1], k, k.axes[-1])
    at.attend(q.axes[-1], v.axes[-1])
    if scale is None:
        at.fold(q.axes[-1], "divides by the root of its length")
    for axis in (k.axes[-2], v.axes[-2]):
        at.pin(axis, "normalises over it")
    axes = list(q.axes)
    for d in range(len(q.shape) - 2):
        for other in (k, v):
            axes[d] = _batched(at, axes[d], q.shape[d], other, d)
    if attn_mask is not None:
        _masked(at, attn_mask, axes, q.shape)
    at.vanish(v.vanishes and q.axes[-2] is None)
    return (*axes[:-1], v.axes[-1])


def _batched(at: At, axis: Axis, length: int, other: Labelled, d: int) -> Axis:
    """Heads meet one to one, or several query heads share one of keys and values."""
    theirs = other.axes[d]
    if other.shape[d] == length or axis is None or theirs is None:
        at.tie_if_live(axis, theirs)
        return axis if axis is not None else theirs
    at.tie(axis, np.repeat(theirs, length // other.shape[d]))
    return axis


def _masked(at: At, mask: Labelled, axes: list[Axis], shape: tuple[int, ...]) -> None:
    """A mask or bias that is added before the softmax."""
    for axis in mask.axes[-2:]:
        at.pin(axis, "normalises over it")
    for d in range(-len(mask.shape), -2):
        if mask.shape[d] == shape[d]:
            at.tie_if_live(mask.axes[d], axes[d])
        else:
            at.pin(mask.axes[d], "spreads it over another axis")


def _queried(call: Call) -> Products:
    """q · kᵀ, then the weights · v."""
    q, k, v = call.args[:3]
    last = len(q.shape) - 1
    rows = [(q, d) for d in range(last)]
    return [(1, [*rows, (q, last), (k, last - 1)]), (1, [*rows, (v, last - 1), (v, last)])]


def _scale(call: Call) -> list[tuple[Any, int]]:
    """1/√d, unless the code gives a scale of its own."""
    given = call.kwargs.get("scale")
    return [(float(call.args[0].shape[-1] ** -0.5 if given is None else given), 1)]


def _by_own_width(original: Sequence[Any], cut: list[Any], named: dict[str, Any]) -> list[Any]:
    """The original divides by the root of its own width."""
    named["scale"] = named.get("scale") or original[0].shape[-1] ** -0.5
    return cut


def _attended(args: Sequence[Any]) -> str | None:
    """Attention: as many values as keys, and queries as wide as these."""
    queries, keys, values = args[:3]
    if keys.shape[:-1] != values.shape[:-1] or queries.shape[-1:] != keys.shape[-1:]:
        return "keys that are not those of its queries and values"
    return None


register(
    summing(
        names=("aten.scaled_dot_product_attention",),
        labels=attention,
        reading=Reading.ALL,
        zeros=lambda call: [[call.args[2]]],
        scaling=NOT_LINEAR,
        factors=_scale,
        costs={"macs": _queried},
        reads=Nothing("its operands are no weights"),
        layer=Nothing("its operands are no weights"),
        differentiable=True,
        restate=_by_own_width,
        whole=Whole((scaled_dot_product_attention,)),
        permitted=_attended,
    )
)
