"""Operators that sum products over an axis: convolutions of every kind and matrix products.

Removing a slot of the summed axis is exact where one side is zero there in the zeroed original.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from slimnet.capture.sizes import Source
from slimnet.coupling.labels import Axis, Labelled
from slimnet.coupling.rules import At, Axes, rule

aten = torch.ops.aten


def contract(at: At, left: Labelled, a: Axis, right: Labelled, b: Axis) -> None:
    """Sum over axis ``a`` of ``left`` and ``b`` of ``right``."""
    at.tie(a, b)
    if not (left.vanishes or right.vanishes):
        at.statistic(a if a is not None else b, "sums over slots that are not zero when removed")


def vanish_beside(at: At, *sides: tuple[Labelled, Axis]) -> None:
    """Products vanish in each slot of an outer axis in which the operand that has it does."""
    at.vanish(all(x.vanishes for x, axis in sides if axis is not None))


@rule(aten.convolution, aten._convolution, aten.convolution_overrideable)
def convolution(
    at: At,
    x: Labelled,
    weight: Labelled,
    bias: Labelled | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    *_: Any,
) -> Axes:
    """x [B, C, *], weight [O, C/g, *] (transposed: [C, O/g, *]) → [B, O, *]."""
    for axis in weight.axes[2:]:
        at.pin(axis, "slides over it")
    places = _places(at, x, weight, stride, padding)
    channels = x.axes[-len(weight.shape) + 1] if len(x.shape) == len(weight.shape) else x.axes[0]
    out = _grouped(at, x, channels, weight, transposed, groups)
    if bias is not None:
        at.tie(bias.axes[0], out)
    if out is not None and len(x.shape) > 3 and set(x.shape[2:]) == {1}:
        at.constraints.squeezed.append(out)
    batch = x.axes[:1] if len(x.shape) == len(weight.shape) else ()
    kept = all(axis is None for axis in (*batch, *places)) or (bias is None and x.vanishes)
    at.vanish(kept and weight.vanishes and (bias is None or bias.vanishes))
    return (*batch, out, *places)


def _places(at: At, x: Labelled, weight: Labelled, stride: Any, padding: Any) -> list[Axis]:
    """Positions that the kernel slides over stay; a kernel of one treats each by itself."""
    spatial = len(weight.shape) - 2
    axes = list(x.axes[-spatial:])
    for k, axis in enumerate(axes):
        steps = (weight.shape[2 + k], stride[k % len(stride)], padding[k % len(padding)])
        if axis is not None and steps != (1, 1, 0):
            at.pin(axis, "slides over it")
            axes[k] = None
    return axes


def _grouped(
    at: At, x: Labelled, channels: Axis, weight: Labelled, transposed: bool, groups: int
) -> Axis:
    """Tie input channels to the weight's input axis; give the labels of the output channels."""
    inner, outer = (0, 1) if transposed else (1, 0)
    w_in, w_out = weight.axes[inner], weight.axes[outer]
    if groups == 1:
        contract(at, x, channels, weight, w_in)
        return w_out
    full, part = (w_in, w_out) if transposed else (w_out, w_in)
    if _one_channel_each(weight, transposed, groups):
        return _depthwise(at, channels, full, part, weight, groups, transposed)
    at.need(_stated_groups(at), None, groups)
    at.tie_blocks(full, groups)
    if not transposed and at.divides(channels, groups):
        contract(at, x, channels, weight, part)  # which has a label for each input channel
        return full
    at.tie_blocks(channels, groups)
    if transposed:  # weight [C, O/g, *]: full is the input axis, part repeats for every group
        contract(at, x, channels, weight, full)
        return None if part is None else np.tile(part, groups)
    first = None if channels is None else channels[: len(channels) // groups]
    contract(at, x, first, weight, part)
    return full


def _one_channel_each(weight: Labelled, transposed: bool, groups: int) -> bool:
    """Whether every group reads one input channel."""
    return (weight.shape[0] == groups) if transposed else (weight.shape[1] == 1)


def _depthwise(
    at: At,
    channels: Axis,
    full: Axis,
    part: Axis,
    weight: Labelled,
    groups: int,
    transposed: bool,
) -> Axis:
    """Groups of one input channel: whole groups leave, and their number follows."""
    if transposed:  # weight [C, m, *]: output channel i·m + j belongs to group i
        at.tie(channels, full)
        at.pin(part, "makes this many outputs of each channel")
        multiplier, out = (
            weight.shape[1],
            None if full is None else np.repeat(full, weight.shape[1]),
        )
    else:
        multiplier, out = weight.shape[0] // groups, full
        at.pin(part, "reads one channel in each group")
        if channels is not None and full is not None:
            at.tie(np.repeat(channels, multiplier), full)
        else:
            at.tie(channels, full)
    if channels is not None:
        at.need(_stated_groups(at), channels, groups)
    return out


def _stated_groups(at: At) -> Source | int | None:
    names = ("conv1d", "conv2d", "conv3d")
    transposed = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
    stated = at.number(*names, *transposed, place=6, key="groups")
    return stated if stated is not None else at.number("convolution", place=8, key="groups")


@rule(aten.mm)
def mm(at: At, a: Labelled, b: Labelled) -> Axes:
    """[n, k] · [k, m]."""
    contract(at, a, a.axes[1], b, b.axes[0])
    vanish_beside(at, (a, a.axes[0]), (b, b.axes[1]))
    return (a.axes[0], b.axes[1])


@rule(aten.addmm)
def addmm(
    at: At, bias: Labelled, a: Labelled, b: Labelled, *, beta: Any = 1, alpha: Any = 1
) -> Axes:
    """bias + [n, k] · [k, m]."""
    return _with_bias(at, bias, mm(at, a, b))


def _with_bias(at: At, bias: Labelled, out: Axes) -> Axes:
    alike = {d for d in range(-len(bias.shape), 0) if bias.shape[d] == at.call.outputs[0].shape[d]}
    for d in range(-len(bias.shape), 0):
        if d in alike:
            at.tie(bias.axes[d], out[d])
        else:
            at.pin(bias.axes[d], "spreads it over another axis")
    live = {d for d, axis in enumerate(out, -len(out)) if axis is not None}
    at.vanish(at.constraints.vanishing and bias.vanishes and live <= alike)
    return out


@rule(aten.bmm)
def bmm(at: At, a: Labelled, b: Labelled) -> Axes:
    """[B, n, k] · [B, k, m]."""
    at.tie(a.axes[0], b.axes[0])
    contract(at, a, a.axes[2], b, b.axes[1])
    at.attend(a.axes[2], b.axes[2])
    batched = a if a.vanishes else b
    vanish_beside(at, (batched, a.axes[0]), (a, a.axes[1]), (b, b.axes[2]))
    return (a.axes[0] if a.axes[0] is not None else b.axes[0], a.axes[1], b.axes[2])


@rule(aten.baddbmm)
def baddbmm(
    at: At, bias: Labelled, a: Labelled, b: Labelled, *, beta: Any = 1, alpha: Any = 1
) -> Axes:
    """bias + [B, n, k] · [B, k, m]."""
    return _with_bias(at, bias, bmm(at, a, b))


@rule(aten.mv)
def mv(at: At, a: Labelled, b: Labelled) -> Axes:
    """[n, k] · [k]."""
    contract(at, a, a.axes[1], b, b.axes[0])
    vanish_beside(at, (a, a.axes[0]))
    return (a.axes[0],)


@rule(aten.dot, aten.vdot)
def dot(at: At, a: Labelled, b: Labelled) -> Axes:
    """[k] · [k]."""
    contract(at, a, a.axes[0], b, b.axes[0])
    return ()


@rule(aten.embedding)
def embedding(at: At, weight: Labelled, where: Labelled, *_: Any) -> Axes:
    """Rows of a table: the vocabulary stays, the features may go."""
    at.pin(weight.axes[0], "looks up its rows by number")
    at.vanish(weight.vanishes)
    return (*(None,) * len(where.shape), weight.axes[1])


@rule(aten._trilinear)
def bilinear(at: At, a: Labelled, weight: Labelled, b: Labelled, *expand: Any) -> Axes:
    """As ``F.bilinear`` calls it: [n, i], [o, i, j], [n, j] → [n, o]."""
    if list(map(list, expand[:4])) != [[1, 3], [0], [1, 2], [2, 3]]:
        raise ValueError("only bilinear is known")
    at.tie_if_live(a.axes[0], b.axes[0])
    contract(at, a, a.axes[1], weight, weight.axes[1])
    contract(at, b, b.axes[1], weight, weight.axes[2])
    vanish_beside(at, (a if a.vanishes else b, a.axes[0]), (weight, weight.axes[0]))
    return (a.axes[0], weight.axes[0])


@rule(aten.scaled_dot_product_attention)
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
