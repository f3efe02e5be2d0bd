"""Fake quantisation: numbers rounded to a grid that a scale and a zero point state.

Zero lies on every such grid, so what vanishes stays zero, and a scale per channel leaves with its
channel. A range that is still being observed depends on every slot: it keeps them all.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Labelled
from slimnet.operator import Double, register
from slimnet.operators.axes import dim
from slimnet.operators.families import slot_by_slot

rounding = partial(slot_by_slot, double=Double.SINGLE, permitted="training only")


def whole(at: At, x: Labelled, *_: Any) -> list[Axes]:
    """One grid for all: rounded numbers, and which of them the grid reaches."""
    at.vanish(x.vanishes)
    return [x.axes, x.axes]


def whole_learned(at: At, x: Labelled, *_: Any) -> Axes:
    """The same with a grid that is trained."""
    at.vanish(x.vanishes)
    return x.axes


def each(at: At, x: Labelled, scale: Labelled, zero: Labelled, axis: int, *_: Any) -> list[Axes]:
    """A grid for each channel."""
    return [each_learned(at, x, scale, zero, axis), x.axes]


def each_learned(at: At, x: Labelled, scale: Labelled, zero: Labelled, axis: int, *_: Any) -> Axes:
    """A grid for each channel that is trained."""
    for vector in (scale, zero):
        at.tie_if_live(x.axes[dim(x, axis)], vector.axes[0])
    if scale.vanishes:
        at.survivors_only(scale.axes)  # a parameter: zero in the reference, and divided by
    at.vanish(x.vanishes)
    return x.axes


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


register(
    rounding(
        names=("aten.fake_quantize_per_tensor_affine_cachemask",), labels=whole, permitted=True
    )
)
register(
    rounding(
        names=("aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams",), labels=whole
    )
)
register(rounding(names=("aten._fake_quantize_learnable_per_tensor_affine",), labels=whole_learned))
register(
    rounding(
        names=("aten.fake_quantize_per_channel_affine_cachemask",), labels=each, permitted=True
    )
)
register(rounding(names=("aten._fake_quantize_learnable_per_channel_affine",), labels=each_learned))
register(
    rounding(
        names=("aten._fused_moving_avg_obs_fq_helper",),
        labels=observed,
        values=True,  # whether it observes
        permitted="training only, and trusts its vectors",
    )
)
