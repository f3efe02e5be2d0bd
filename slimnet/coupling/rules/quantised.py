"""Fake quantisation: numbers rounded to a grid that a scale and a zero point state.

Zero lies on every such grid, so what vanishes stays zero, and a scale per channel leaves with its
channel. A range that is still being observed depends on every slot: it keeps them all.
"""

from __future__ import annotations

from typing import Any

import torch

from slimnet.coupling.labels import Labelled
from slimnet.coupling.rules import At, Axes, dim, rule

aten = torch.ops.aten


@rule("aten.fake_quantize_per_tensor_affine_cachemask")
@rule("aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams")
def whole(at: At, x: Labelled, *_: Any) -> list[Axes]:
    """One grid for all: rounded numbers, and which of them the grid reaches."""
    at.vanish(x.vanishes)
    return [x.axes, x.axes]


@rule("aten._fake_quantize_learnable_per_tensor_affine")
def whole_learned(at: At, x: Labelled, *_: Any) -> Axes:
    """The same with a grid that is trained."""
    at.vanish(x.vanishes)
    return x.axes


@rule("aten.fake_quantize_per_channel_affine_cachemask")
def each(at: At, x: Labelled, scale: Labelled, zero: Labelled, axis: int, *_: Any) -> list[Axes]:
    """A grid for each channel."""
    return [each_learned(at, x, scale, zero, axis), x.axes]


@rule("aten._fake_quantize_learnable_per_channel_affine")
def each_learned(at: At, x: Labelled, scale: Labelled, zero: Labelled, axis: int, *_: Any) -> Axes:
    """A grid for each channel that is trained."""
    for vector in (scale, zero):
        at.tie_if_live(x.axes[dim(x, axis)], vector.axes[0])
    if scale.vanishes:
        at.survivors_only(scale.axes)  # a parameter: zero in the reference, and divided by
    at.vanish(x.vanishes)
    return x.axes


@rule("aten._fused_moving_avg_obs_fq_helper")
def observed(
    at: At,
    x: Labelled,
    observing: Labelled,
    rounding: Labelled,
    low: Labelled,
    high: Labelled,
    scale: Labelled,
    zero: Labelled,
    momentum: float,
    least: int,
    most: int,
    axis: int,
    per_channel: bool = False,
    *_: Any,
) -> list[Axes]:
    """Observes a range, where that is switched on, and rounds to the grid that follows from it."""
    on = at.constraints.values.get(id(observing))
    if on is None or on.any():
        for labels in x.axes:
            at.pin(labels, _OBSERVES)
    channels = dim(x, axis)
    for vector in (low, high, scale, zero):
        if per_channel and vector.shape == (x.shape[channels],):
            at.tie_if_live(x.axes[channels], vector.axes[0])
    at.vanish(x.vanishes)
    return [x.axes, x.axes]


_OBSERVES = (
    "observes its range, which depends on every slot; to prune, switch observers off: "
    "model.apply(torch.ao.quantization.disable_observer)"
)
