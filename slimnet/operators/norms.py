"""Normalisations. Per channel they are exact; over channels they are a statistic: approximate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn.functional import rms_norm as public_rms_norm

from slimnet.capture.graph import Call, Ref
from slimnet.capture.sizes import AttributeOf
from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Axis, Labelled
from slimnet.coupling.scaling.boxes import Box, NotLinear, along
from slimnet.coupling.scaling.steps import Demands, Way
from slimnet.operator import Nothing, Reading, Step, Whole, ZeroArguments, register
from slimnet.operators.axes import dim
from slimnet.operators.families import NO_LINK, NOT_LINEAR, plain_sum_free, present
from slimnet.reconstruction.consumers import Norm

normalising = partial(
    plain_sum_free, reading=Reading.EACH, moves=False, link=NO_LINK, permitted=True
)

Affine: TypeAlias = "tuple[Ref | None, Ref | None]"
"""The scale and the shift of a call, where they are given."""


def _affine_at(place: int) -> Callable[[Call], Affine]:
    """The scale at this place of the arguments, and the shift after it."""

    def read(call: Call) -> Affine:
        scale, shift = (*call.args[place : place + 2], None, None)[:2]
        return scale, shift

    return read


def _silent_by_affine(affine: Callable[[Call], Affine], *, of_zeros: bool) -> ZeroArguments:
    """Zero where scale and shift are, and (where ``of_zeros``) where input and shift are.

    Zero over the square root of something positive is zero, and so is zero times anything.
    """

    def needed(call: Call) -> list[list[Any]]:
        scale, shift = affine(call)
        by_scale = [present(scale, shift)] if scale is not None else []
        return [*by_scale, present(call.args[0], shift)] if of_zeros else by_scale

    return needed


def _scaled_by_affine(affine: Callable[[Call], Affine], axis: int) -> Step:
    """The scale and the shift, vectors along this axis."""

    def step(_: Way, call: Call, box: Box, place: int) -> Demands:
        scale, shift = affine(call)
        channels = along(box, axis)
        vectors = present(scale, shift)
        if place or scale is None or any(v.shape != channels.shape for v in vectors):
            raise NotLinear
        return [(vector, (channels,)) for vector in vectors]

    return step


# ------------------------------------------------------------------------------- of each channel


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


def _in_evaluation(call: Call) -> Norm | None:
    """A batch norm by running statistics, all by name."""
    weight, _, mean, var, *rest = call.args[1:]
    training = next((value for value in rest if isinstance(value, bool)), False)
    if training or not (isinstance(mean, Ref) and isinstance(var, Ref)):
        return None
    names = [ref.name for ref in (mean, var, *present(weight))]
    if None in names:
        return None
    eps = [value for value in rest if isinstance(value, float)][-1]
    return Norm(None if weight is None else weight.name, str(mean.name), str(var.name), eps)


def _per_channel(args: Sequence[Any]) -> str | None:
    """Batch norm: the input [N, C, …], then vectors of C numbers."""
    x, *vectors = args[:5]
    count = x.shape[1] if x.dim() > 1 else 0
    if any(v is not None and v.shape != (count,) for v in vectors):
        return f"other vectors than of {count} numbers"
    return None


_at_once = _affine_at(1)
of_channels = partial(
    normalising,
    labels=batch_norm,
    zeros=_silent_by_affine(_at_once, of_zeros=False),
    added=(2,),
    scaling=_scaled_by_affine(_at_once, 1),
    norm=_in_evaluation,
    differentiable=True,
)
TRUSTING = "trusts the lengths of its vectors; exports hold batch_norm"
register(
    of_channels(
        names=("aten.native_batch_norm", "aten._native_batch_norm_legit_no_training"),
        permitted=_per_channel,
    )
)
register(
    of_channels(
        names=(
            *("aten.cudnn_batch_norm", "aten.miopen_batch_norm"),
            *("aten._native_batch_norm_legit", "aten._batch_norm_no_update"),
            "aten._native_batch_norm_legit_functional",
        ),
        permitted=TRUSTING,
    )
)
register(
    of_channels(
        names=("aten.batch_norm_with_update", "aten._batch_norm_with_update"),
        norm=Nothing("takes the statistics of the batch"),
        differentiable=False,
        permitted=TRUSTING,
    )
)

# --------------------------------------------------------------------------------- over channels


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


def layer_norm(
    at: At, x: Labelled, shape: list[int], weight: Labelled | None, bias: Labelled | None, *_: Any
) -> list[Axes]:
    """The last axes are normalised together."""
    first = len(x.shape) - len(shape)
    _over(at, x, first, weight, bias, shape)
    outer = (*x.axes[:first], *(None,) * len(shape))
    return [x.axes, outer, outer]


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


def _rms_affine(call: Call) -> Affine:
    """It has no shift, and its scale may be given by name."""
    return (*call.args[2:3], call.kwargs.get("weight"))[0], None


def _shape_that_is_left(_: Sequence[Any], cut: list[Any], named: dict[str, Any]) -> list[Any]:
    return [cut[0], list(cut[0].shape[-len(cut[1]) :]), *cut[2:]]


def _channels_that_are_left(_: Sequence[Any], cut: list[Any], named: dict[str, Any]) -> list[Any]:
    batch, channels, *positions = cut[0].shape
    return [*cut[:3], batch, channels, int(np.prod(positions)), *cut[6:]]


register(
    normalising(
        names=("aten.native_group_norm",),
        labels=group_norm,
        zeros=_silent_by_affine(_at_once, of_zeros=True),
        added=(2,),
        scaling=_scaled_by_affine(_at_once, 1),
        differentiable=True,
        restate=_channels_that_are_left,
    )
)
_after_shape = _affine_at(2)
register(
    normalising(
        names=("aten.native_layer_norm",),
        labels=layer_norm,
        sizes=("layer_norm", "native_layer_norm"),
        zeros=_silent_by_affine(_after_shape, of_zeros=True),
        added=(3,),
        scaling=_scaled_by_affine(_after_shape, -1),
        differentiable=True,
        restate=_shape_that_is_left,
    )
)
register(
    normalising(
        names=("aten.rms_norm",),
        labels=rms_norm,
        sizes=("rms_norm",),
        zeros=_silent_by_affine(_rms_affine, of_zeros=True),
        scaling=_scaled_by_affine(_rms_affine, -1),
        differentiable=False,
        restate=_shape_that_is_left,
        whole=Whole((public_rms_norm,)),
    )
)

# ------------------------------------------------------------------------------------ of weights


def weight_norm(at: At, v: Labelled, g: Labelled, d: int = 0) -> Axes:
    """w = v · g / ‖v‖ over all axes but one (-1: over all); a zeroed row would be 0/0."""
    if d >= 0:
        at.tie(v.axes[d], g.axes[d])
    for k, axis in enumerate(g.axes):
        if k != d:
            at.pin(axis, "spreads it over another axis")
    at.survivors_only(v.axes[d : d + 1] if d >= 0 else ())
    return v.axes


def weight_norm_fused(at: At, v: Labelled, g: Labelled, d: int = 0) -> list[Axes]:
    """The same over the first or the last axis, and the norms."""
    place = dim(v, d)
    kept: list[Axis] = [axis if k == place else None for k, axis in enumerate(v.axes)]
    return [weight_norm(at, v, g, place), tuple(kept)]


def _by_lengths(call: Call) -> list[list[Any]]:
    return [[call.args[1]]]


def _per_slice(args: Sequence[Any]) -> str | None:
    """Weight norm: directions, and as many lengths as they have slices of an axis."""
    directions, lengths, *axis = args
    kept = axis[0] if axis else 0
    shape = [n if d == kept else 1 for d, n in enumerate(directions.shape)]
    if list(lengths.shape) == ([] if kept == -1 else shape):
        return None
    return "lengths that are not those of its directions"


def _per_packed_slice(args: Sequence[Any]) -> str | None:
    """The same for a kernel that reads both as they lie in memory, and divides by their number."""
    if not all(tensor.is_contiguous() and tensor.numel() for tensor in args[:2]):
        return "numbers that do not lie one after the other"
    return _per_slice(args)


of_weights = partial(normalising, zeros=_by_lengths, scaling=NOT_LINEAR, differentiable=False)
register(
    of_weights(
        names=("aten._weight_norm",),
        labels=weight_norm,
        whole=Whole((torch._weight_norm,)),
        permitted=_per_slice,
    )
)
register(
    of_weights(
        names=("aten._weight_norm_interface",),
        labels=weight_norm_fused,
        permitted=_per_packed_slice,
    )
)
