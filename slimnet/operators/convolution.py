"""Convolutions of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from slimnet.capture.graph import Call, DataflowGraph
from slimnet.capture.sizes import SizeSource
from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Axis, Labelled
from slimnet.coupling.scaling.boxes import Box, NotLinear, along
from slimnet.coupling.scaling.steps import Demands, Way
from slimnet.operator import Products, Reading, Sums, register
from slimnet.operators import bands
from slimnet.operators.contraction import contract, rows_and_bias, summing
from slimnet.operators.families import is_parameter, present
from slimnet.reconstruction.consumers import Layer
from slimnet.reconstruction.forms import Convolution


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


def _stated_groups(at: At) -> SizeSource | int | None:
    names = ("conv1d", "conv2d", "conv3d")
    transposed = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
    stated = at.number(*names, *transposed, place=6, key="groups")
    return stated if stated is not None else at.number("convolution", place=8, key="groups")


def _without_weight(call: Call) -> list[list[Any]]:
    return [present(*call.args[1:3])]


def _convolved(_: Way, call: Call, box: Box, __: int) -> Demands:
    """Output channels: rows of the weight, and the bias."""
    weight, bias, transposed = call.args[1], call.args[2], call.args[6]
    if transposed:
        raise NotLinear
    return rows_and_bias(along(box, len(box) - len(weight.shape) + 1), weight, 0, bias)


def _slid(call: Call) -> Products:
    """Output positions × kernel × output channels × input channels of each group."""
    weight, out, transposed = call.args[1], call.outputs[0], call.args[6]
    spatial = len(weight.shape) - 2
    channel = len(out.shape) - spatial - 1
    kernel = prod(weight.shape[2:])
    if transposed:  # every input element meets the kernel of each output of its group
        x = call.args[0]
        positions = prod(x.shape) // x.shape[channel]
        return [(positions * kernel, [(x, channel), (weight, 1)])]
    positions = prod(out.shape) // out.shape[channel]
    return [(positions * kernel, [(out, channel), (weight, 1)])]


def _read_by_kernel(x: Tensor, weight: Tensor, *rest: Any) -> Sums:
    transposed: bool = rest[4]
    return [(x, x.dim() - weight.dim() + 1, weight, 0 if transposed else 1)]


def _as_convolution(call: Call, graph: DataflowGraph) -> Layer | None:
    x, weight, bias, stride, padding, dilation, transposed, further, groups = call.args[:9]
    if not is_parameter(weight) or len(x.shape) != len(weight.shape):
        return None
    dims = len(weight.shape) - 2

    def each(given: Sequence[int]) -> tuple[int, ...]:
        return tuple(map(int, given)) * (dims if len(given) == 1 else 1)

    form = Convolution(
        kernel=tuple(weight.shape[2:]),
        stride=each(stride),
        padding=each(padding),
        dilation=each(dilation),
        transposed=bool(transposed),
        further=each(further),
        groups=int(groups),
    )
    return Layer(0, weight, bias, form)


def _reading(call: Call) -> Reading:
    """Where each group has one channel, channels do not mix."""
    return Reading.EACH if call.args[8] > 1 and call.args[1].shape[1] == 1 else Reading.ALL


def _in_bands(*args: Any, **kwargs: Any) -> Tensor:
    """The first nine arguments say what is computed, the others how."""
    return bands.convolution(*args[:9], **kwargs)


convolving = partial(
    summing,
    labels=convolution,
    reading=_reading,
    zeros=_without_weight,
    added=(2,),
    scaling=_convolved,
    costs={"macs": _slid},
    reads=_read_by_kernel,
    layer=_as_convolution,
    differentiable=True,
    double=_in_bands,
)
register(convolving(names=("aten.convolution", "aten._convolution")))
register(convolving(names=("aten.convolution_overrideable",), permitted="of other devices"))
