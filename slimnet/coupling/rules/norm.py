"""Normalisations. Per channel they are exact; over channels they are a statistic: approximate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from slimnet.capture.sizes import AttributeOf
from slimnet.coupling.labels import Axis, Labelled
from slimnet.coupling.rules import At, Axes, dim, replaced, rule

aten = torch.ops.aten

_BATCH_NORMS = (
    *("aten.native_batch_norm", "aten.cudnn_batch_norm", "aten.miopen_batch_norm"),
    *("aten._native_batch_norm_legit", "aten._native_batch_norm_legit_no_training"),
    *("aten._native_batch_norm_legit_functional", "aten.batch_norm_with_update"),
    *("aten._batch_norm_with_update", "aten._batch_norm_no_update"),
)


@rule(*_BATCH_NORMS)
def batch_norm(
    at: At, x: Labelled, weight: Labelled | None, bias: Labelled | None, *rest: Any
) -> list[Axes]:
    """Every vector belongs to axis 1."""
    vectors = [v for v in (weight, bias, *rest) if isinstance(v, Labelled)]
    for vector in vectors:
        at.tie(vector.axes[0], x.axes[1])
    running = any(isinstance(v, Labelled) for v in rest)
    others = [axis for axis in (x.axes[0], *x.axes[2:]) if axis is not None]
    if _takes_statistics(at, running, rest):  # say, of weights that are standardised before use
        for axis in others:
            at.statistic(axis, "takes its statistics over it")
    _instance_norm(at, x)
    affine = weight is not None and weight.vanishes and bias is not None and bias.vanishes
    centred = x.vanishes and not running and (bias is None or bias.vanishes)
    at.vanish((affine or centred) and not others)
    outputs = at.call.outputs
    return [x.axes, *((None,) * len(out.shape) for out in outputs[1:])]


def _takes_statistics(at: At, running: bool, rest: tuple[Any, ...]) -> bool:
    """Whether the call looks at what it is given, and not at the running statistics."""
    flags = [value for value in rest if isinstance(value, bool)]
    return not running or (flags[0] if flags else at.name.endswith("with_update"))


def _instance_norm(at: At, x: Labelled) -> None:
    """torch runs it as a batch norm over [1, B·C, *]; the module checks its number of features."""
    request = at.call.request
    by_module = request is not None and request.name == "instance_norm" and not request.overload
    if request is not None and by_module and x.axes[1] is not None:
        channels = request.args[0].shape[1]
        features = AttributeOf(at.call.site.module, "num_features", channels)
        at.need(features, x.axes[1][:channels], channels)


@rule(aten.native_group_norm)
def group_norm(
    at: At,
    x: Labelled,
    weight: Labelled | None,
    bias: Labelled | None,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
    *_: Any,
) -> list[Axes]:
    """Groups of channels are normalised together; the same positions leave every group."""
    axis = x.axes[1]
    for vector in (weight, bias):
        if vector is not None:
            at.tie(vector.axes[0], axis)
    stated = at.number("group_norm", place=1, key="num_groups")
    if stated is None:  # a program calls this operator itself, and states both lengths
        stated = at.number("native_group_norm", place=6, key="group")
        at.need(at.number("native_group_norm", place=4, key="C"), axis, channels)
    if groups == channels:  # one channel each: whole groups leave
        at.need(stated if stated is not None else groups, axis, groups)
    else:
        at.need(stated, None, groups)
        at.tie_blocks(axis, groups)
        at.statistic(axis, "normalises over it: its mean and variance change")
    for other in x.axes[2:]:
        at.statistic(other, "normalises over it: its mean and variance change")
    _affine(at, x, (x.axes[1],), (x.axes[0], *x.axes[2:]), weight, bias)
    small = (x.axes[0], None)
    return [x.axes, small, small]


@rule(aten.native_layer_norm)
def layer_norm(
    at: At, x: Labelled, shape: list[int], weight: Labelled | None, bias: Labelled | None, *_: Any
) -> list[Axes]:
    """The last axes are normalised together."""
    first = len(x.shape) - len(shape)
    _over(at, x, first, weight, bias, shape)
    outer = (*x.axes[:first], *(None,) * len(shape))
    return [x.axes, outer, outer]


@rule("aten.rms_norm")
def rms_norm(
    at: At, x: Labelled, shape: list[int], weight: Labelled | None = None, *_: Any, **__: Any
) -> Axes:
    """The last axes are scaled together."""
    first = len(x.shape) - len(shape)
    _over(at, x, first, weight, None, shape)
    return x.axes


def _over(
    at: At,
    x: Labelled,
    first: int,
    weight: Labelled | None,
    bias: Labelled | None,
    shape: list[int],
) -> None:
    stated = at.sizes(shape)
    for k, axis in enumerate(x.axes[first:]):
        for vector in (weight, bias):
            if vector is not None:
                at.tie(vector.axes[k], axis)
        at.need(stated[k], axis, shape[k])
        at.statistic(axis, "normalises over it: its mean and variance change")
    _affine(at, x, x.axes[first:], x.axes[:first], weight, bias)


def _affine(
    at: At,
    x: Labelled,
    scaled: Sequence[Axis],
    others: Sequence[Axis],
    weight: Labelled | None,
    bias: Labelled | None,
) -> None:
    """Zero where scale and shift are zero; along the other axes, zeros get the whole shift."""
    by_scale = weight is not None and weight.vanishes and (bias is None or bias.vanishes)
    inside = by_scale or all(axis is None for axis in scaled)
    outside = (x.vanishes and bias is None) or all(axis is None for axis in others)
    at.vanish(inside and outside)


@rule("aten._weight_norm")
def weight_norm(at: At, v: Labelled, g: Labelled, d: int = 0) -> Axes:
    """w = v · g / ‖v‖ over all axes but one (-1: over all); a zeroed row would be 0/0."""
    if d >= 0:
        at.tie(v.axes[d], g.axes[d])
    for k, axis in enumerate(g.axes):
        if k != d:
            at.pin(axis, "spreads it over another axis")
    at.survivors_only(v.axes[d : d + 1] if d >= 0 else ())
    return v.axes


@rule(aten._weight_norm_interface)
def weight_norm_fused(at: At, v: Labelled, g: Labelled, d: int = 0) -> list[Axes]:
    """The same over the first or the last axis, and the norms."""
    place = dim(v, d)
    kept: list[Axis] = [axis if k == place else None for k, axis in enumerate(v.axes)]
    return [weight_norm(at, v, g, place), tuple(kept)]


@rule(aten._softmax, aten._log_softmax, "aten._safe_softmax")
def softmax(at: At, x: Labelled, d: int, *_: Any, **__: Any) -> Axes:
    """Normalised along one axis."""
    at.statistic(x.axes[d], "normalises over it")
    at.vanish(False)
    return x.axes


@rule(aten.cumsum)
def cumsum(at: At, x: Labelled, d: int, **_: Any) -> Axes:
    """Running sums: exact where the removed slots are zero."""
    if not x.vanishes:
        at.statistic(x.axes[d], "sums over slots that are not zero when removed")
    at.vanish(x.axes[d] is None and x.vanishes)
    return replaced(x, d % len(x.shape), x.axes[d])
