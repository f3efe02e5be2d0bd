"""Operators that sum products over an axis: convolutions of every kind and matrix products.

Removing a slot of the summed axis is exact where one side is zero there in the zeroed original.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from slimnet.capture.passes import Pass
from slimnet.capture.sizes import Source
from slimnet.capture.trace import Call, Ref
from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Axis, Labelled
from slimnet.coupling.scaling.boxes import Box, Flags, NotLinear, along, exchanged, whole
from slimnet.coupling.scaling.steps import Demands, Way
from slimnet.operator import (
    Formula,
    Link,
    Nothing,
    Products,
    Reading,
    Step,
    Sums,
    Whole,
    of,
    register,
)
from slimnet.operators import bands
from slimnet.operators.families import NO_LINK, NO_PRODUCT, NOT_LINEAR, is_parameter, plain, present
from slimnet.reconstruction.consumers import Layer
from slimnet.reconstruction.forms import Convolution, Matrix

summing = partial(plain, moves=False, link=NO_LINK, permitted=True)


def contract(at: At, left: Labelled, a: Axis, right: Labelled, b: Axis) -> None:
    """Sum over axis ``a`` of ``left`` and ``b`` of ``right``."""
    at.tie(a, b)
    if not (left.vanishes or right.vanishes):
        at.statistic(a if a is not None else b, "sums over slots that are not zero when removed")


def vanish_beside(at: At, *sides: tuple[Labelled, Axis]) -> None:
    """Products vanish in each slot of an outer axis in which the operand that has it does."""
    at.vanish(all(x.vanishes for x, axis in sides if axis is not None))


# ------------------------------------------------------------------------------------ convolutions


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


def _without_weight(call: Call) -> list[list[Any]]:
    return [present(*call.args[1:3])]


def _convolved(_: Way, call: Call, box: Box, __: int) -> Demands:
    """Output channels: rows of the weight, and the bias."""
    weight, bias, transposed = call.args[1], call.args[2], call.args[6]
    if transposed:
        raise NotLinear
    return _rows_and_bias(along(box, len(box) - len(weight.shape) + 1), weight, 0, bias)


def _rows_and_bias(channels: Flags, weight: Ref, axis: int, bias: Ref | None) -> Demands:
    demands = [(weight, exchanged(whole(weight.shape), axis, channels))]
    if bias is not None:
        demands.append((bias, exchanged(whole(bias.shape), len(bias.shape) - 1, channels)))
    return demands


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


def _as_convolution(call: Call, graph: Pass) -> Layer | None:
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

# --------------------------------------------------------------------------------- matrix products


def mm(at: At, a: Labelled, b: Labelled) -> Axes:
    """[n, k] · [k, m]."""
    contract(at, a, a.axes[1], b, b.axes[0])
    vanish_beside(at, (a, a.axes[0]), (b, b.axes[1]))
    return (a.axes[0], b.axes[1])


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


def bmm(at: At, a: Labelled, b: Labelled) -> Axes:
    """[B, n, k] · [B, k, m]."""
    at.tie(a.axes[0], b.axes[0])
    contract(at, a, a.axes[2], b, b.axes[1])
    at.attend(a.axes[2], b.axes[2])
    batched = a if a.vanishes else b
    vanish_beside(at, (batched, a.axes[0]), (a, a.axes[1]), (b, b.axes[2]))
    return (a.axes[0] if a.axes[0] is not None else b.axes[0], a.axes[1], b.axes[2])


def baddbmm(
    at: At, bias: Labelled, a: Labelled, b: Labelled, *, beta: Any = 1, alpha: Any = 1
) -> Axes:
    """bias + [B, n, k] · [B, k, m]."""
    return _with_bias(at, bias, bmm(at, a, b))


def mv(at: At, a: Labelled, b: Labelled) -> Axes:
    """[n, k] · [k]."""
    contract(at, a, a.axes[1], b, b.axes[0])
    vanish_beside(at, (a, a.axes[0]))
    return (a.axes[0],)


def dot(at: At, a: Labelled, b: Labelled) -> Axes:
    """[k] · [k]."""
    contract(at, a, a.axes[0], b, b.axes[0])
    return ()


def _either(call: Call) -> list[list[Any]]:
    """Zero where one side is; a parameter first: it ends the walk."""
    first, second = call.args[:2]
    return [[first], [second]] if is_parameter(first) else [[second], [first]]


def _sum_and_either(call: Call) -> list[list[Any]]:
    return [[call.args[0], call.args[2]], [call.args[0], call.args[1]]]


def _multiplied(first: int) -> Step:
    """[.., n, k] · [.., k, m], the operands from argument ``first`` on; a bias before them."""

    def step(way: Way, call: Call, box: Box, _: int) -> Demands:
        left, weight = call.args[first : first + 2]
        if not first and {left.id, weight.id} <= way.varies:
            return [_multiplicand(way.side, (left, weight), box)]
        if weight.id in way.varies:
            raise NotLinear
        bias = call.args[0] if first else None
        return _rows_and_bias(along(box, -1), weight, len(weight.shape) - 1, bias)

    return step


def _multiplicand(side: int, operands: tuple[Ref, Ref], box: Box) -> tuple[Ref, Box]:
    """Rows of the left operand or columns of the right one: queries, or keys."""
    summed = len(box) - 1 - side
    if not box[summed].all():
        raise NotLinear
    operand = operands[side]
    return operand, exchanged(box, summed, np.ones(operand.shape[summed], bool))


def _counted(first: int) -> Formula:
    """[.., n, k] · [.., k, m], the operands starting at argument ``first``."""

    def formula(call: Call) -> Products:
        a, b = call.args[first], call.args[first + 1]
        left = [(a, d) for d in range(len(a.shape))]
        return [(1, left + ([(b, len(b.shape) - 1)] if len(b.shape) > 1 else []))]

    return formula


def _read_by_rows(a: Tensor, b: Tensor) -> Sums:
    """[.., n, k] · [.., k, m]: the weight may stand on either side."""
    return [(a, -1, b, -2), (b, -2, a, -1)]


def _with_addend(_: Tensor, a: Tensor, b: Tensor) -> Sums:
    return _read_by_rows(a, b)


def _as_addmm(call: Call, graph: Pass) -> Layer | None:
    found = _parameter(call.args[2], graph)
    return None if found is None or call.kwargs else Layer(1, found[0], call.args[0], found[1])


def _as_mm(call: Call, graph: Pass) -> Layer | None:
    found = _parameter(call.args[1], graph)
    return None if found is None else Layer(0, found[0], None, found[1])


def _parameter(matrix: Ref, graph: Pass) -> tuple[Ref, Matrix] | None:
    """The parameter behind a matrix, as it is or turned."""
    if is_parameter(matrix):
        return matrix, Matrix(turned=False)
    maker = graph.made.get(matrix.id)
    if maker is None or not is_parameter(maker.args[0]) or len(maker.args[0].shape) != 2:
        return None
    link = of(maker.op).link
    turned = (link(maker) if callable(link) else link) is Link.TURN
    return (maker.args[0], Matrix(turned=True)) if turned else None


BATCHED = Nothing("each image has a matrix of its own: no weight decides")
multiplying = partial(summing, reading=Reading.ALL, zeros=_either)
adding = partial(multiplying, zeros=_sum_and_either, added=(0,), costs={"macs": _counted(1)})
register(
    multiplying(
        names=("aten.mm",),
        labels=mm,
        scaling=_multiplied(0),
        costs={"macs": _counted(0)},
        reads=_read_by_rows,
        layer=_as_mm,
        differentiable=True,
    )
)
register(
    adding(
        names=("aten.addmm",),
        labels=addmm,
        scaling=_multiplied(1),
        reads=_with_addend,
        layer=_as_addmm,
        differentiable=True,
    )
)
register(
    multiplying(
        names=("aten.bmm",),
        labels=bmm,
        scaling=_multiplied(0),
        costs={"macs": _counted(0)},
        reads=_read_by_rows,
        layer=BATCHED,
        differentiable=True,
    )
)
register(
    adding(
        names=("aten.baddbmm",),
        labels=baddbmm,
        scaling=NOT_LINEAR,
        reads=_with_addend,
        layer=BATCHED,
        differentiable=False,
    )
)
register(
    multiplying(
        names=("aten.mv",),
        labels=mv,
        scaling=NOT_LINEAR,
        costs={"macs": _counted(0)},
        reads=Nothing("a vector is no batch of images"),
        layer=Nothing("a vector is no batch of images"),
        differentiable=False,
    )
)
register(
    multiplying(
        names=("aten.dot", "aten.vdot"),
        labels=dot,
        scaling=NOT_LINEAR,
        costs={"macs": lambda call: [(1, [(call.args[0], 0)])]},
        reads=Nothing("a vector is no batch of images"),
        layer=Nothing("a vector is no batch of images"),
        differentiable=False,
    )
)

# ----------------------------------------------------------------------------- tables, and bilinear


def embedding(at: At, weight: Labelled, where: Labelled, *_: Any) -> Axes:
    """Rows of a table: the vocabulary stays, the features may go."""
    at.pin(weight.axes[0], "looks up its rows by number")
    at.vanish(weight.vanishes)
    return (*(None,) * len(where.shape), weight.axes[1])


register(
    summing(
        names=("aten.embedding",),
        labels=embedding,
        reading=Reading.ALL,
        zeros=lambda call: [[call.args[0]]],
        scaling=Nothing("rows are looked up: which ones, the input says"),
        costs=NO_PRODUCT,
        reads=NO_PRODUCT,
        layer=NO_PRODUCT,
        differentiable=False,
    )
)


def bilinear(at: At, a: Labelled, weight: Labelled, b: Labelled, *expand: Any) -> Axes:
    """As ``F.bilinear`` calls it: [n, i], [o, i, j], [n, j] → [n, o]."""
    if list(map(list, expand[:4])) != [[1, 3], [0], [1, 2], [2, 3]]:
        raise ValueError("only bilinear is known")
    at.tie_if_live(a.axes[0], b.axes[0])
    contract(at, a, a.axes[1], weight, weight.axes[1])
    contract(at, b, b.axes[1], weight, weight.axes[2])
    vanish_beside(at, (a if a.vanishes else b, a.axes[0]), (weight, weight.axes[0]))
    return (a.axes[0], weight.axes[0])


def _met_once(call: Call) -> Products:
    """Each element of the weight is used once for each pair of rows."""
    a, weight = call.args[:2]
    return [(1, [(a, 0), (weight, 0), (weight, 1), (weight, 2)])]


register(
    summing(
        names=("aten._trilinear",),
        labels=bilinear,
        reading=Reading.ALL,
        zeros=lambda call: [[call.args[1]], [call.args[2]], [call.args[0]]],
        scaling=NOT_LINEAR,
        costs={"macs": _met_once},
        reads=Nothing("what it sums over is a product of two inputs"),
        layer=Nothing("what it sums over is a product of two inputs"),
        differentiable=False,
    )
)

# --------------------------------------------------------------------------------------- attention


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
        differentiable=False,
        restate=_by_own_width,
        whole=Whole((scaled_dot_product_attention,)),
        permitted=_attended,
    )
)
