"""One step back per operator: what its operands must be for its result to be multiplied.

A step is called with the call, the box of one result that is multiplied, and which result it is; it
gives the operands that have to be multiplied, each with its box, or raises
:class:`~slimnet.coupling.scaling.boxes.NotLinear`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import torch

from slimnet.capture.graph import Call, Ref
from slimnet.coupling.labels import blocks
from slimnet.coupling.scaling.boxes import (
    Box,
    Flags,
    NotLinear,
    along,
    exchanged,
    marked,
    narrowed,
    whole,
)

aten = torch.ops.aten


@dataclass(frozen=True)
class Way:
    """Where a step may choose: what depends on the input, and which side of a product goes on."""

    varies: set[int]  # recorded tensors
    side: int


Demands: TypeAlias = list[tuple[Ref, Box]]
Step: TypeAlias = Callable[[Way, Call, Box, int], Demands]

# --------------------------------------------------------------------------------------- movements


def _same(_: Way, call: Call, box: Box, __: int) -> Demands:
    return [(call.args[0], box)]


def _viewed(_: Way, call: Call, box: Box, place: int) -> Demands:
    """Runs of axes are merged and split: flat flags, and flags per axis again."""
    old, new = call.args[0].shape, call.outputs[place].shape
    found = list(whole(old))
    for ins, outs in blocks(old, new):
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


def _permuted(_: Way, call: Call, box: Box, __: int) -> Demands:
    x, dims = call.args[0], call.args[1]
    found = dict(zip((d % len(x.shape) for d in dims), box, strict=True))
    return [(x, tuple(found[d] for d in range(len(box))))]


def _transposed(_: Way, call: Call, box: Box, __: int) -> Demands:
    a, b = call.args[1:] or (0, -1)
    axes = list(box)
    if axes:
        axes[a], axes[b] = axes[b], axes[a]
    return [(call.args[0], tuple(axes))]


def _expanded(_: Way, call: Call, box: Box, __: int) -> Demands:
    return [(call.args[0], narrowed(box, call.args[0].shape))]


def _selected(_: Way, call: Call, box: Box, __: int) -> Demands:
    x, d, index = call.args
    return [(x, _inserted(box, d % len(x.shape), marked(x.shape[d], index)))]


def _unbound(_: Way, call: Call, box: Box, place: int) -> Demands:
    x, d = call.args[0], (*call.args[1:], 0)[0]
    return [(x, _inserted(box, d % len(x.shape), marked(x.shape[d], place)))]


def _inserted(box: Box, axis: int, flags: Flags) -> Box:
    return (*box[:axis], flags, *box[axis:])


def _sliced(_: Way, call: Call, box: Box, __: int) -> Demands:
    x, given = call.args[0], call.args[1:]
    d = given[0] % len(x.shape) if given else 0
    part = slice(*given[1:]) if given[1:] else slice(None)
    if len(given) == 2:
        part = slice(given[1], None)  # a start alone
    return [(x, exchanged(box, d, marked(x.shape[d], part, box[d])))]


def _split(_: Way, call: Call, box: Box, place: int) -> Demands:
    x, d = call.args[0], (*call.args[2:], 0)[0] % len(call.args[0].shape)
    first = sum(out.shape[d] for out in call.outputs[:place])
    part = slice(first, first + call.outputs[place].shape[d])
    return [(x, exchanged(box, d, marked(x.shape[d], part, box[d])))]


def _joined(_: Way, call: Call, box: Box, __: int) -> Demands:
    parts = [x for x in call.args[0] if x.shape != (0,)]
    d = (*call.args[1:], 0)[0] % len(box)
    ends = np.cumsum([x.shape[d] for x in parts])
    return [
        (x, exchanged(box, d, box[d][end - x.shape[d] : end]))
        for x, end in zip(parts, ends, strict=True)
    ]


def _stacked(_: Way, call: Call, box: Box, __: int) -> Demands:
    d = (*call.args[1:], 0)[0] % len(box)
    rest = (*box[:d], *box[d + 1 :])
    return [(x, rest) for x, flag in zip(call.args[0], box[d], strict=True) if flag]


def _rolled(_: Way, call: Call, box: Box, __: int) -> Demands:
    for shift, d in zip(call.args[1], (*call.args[2:], [])[0], strict=True):
        box = exchanged(box, d % len(box), np.roll(box[d], -shift))
    return [(call.args[0], box)]


def _flipped(_: Way, call: Call, box: Box, __: int) -> Demands:
    for d in call.args[1]:
        box = exchanged(box, d % len(box), box[d][::-1])
    return [(call.args[0], box)]


# -------------------------------------------------------------------------------- sums and products


def _summed(_: Way, call: Call, box: Box, __: int) -> Demands:
    """Both sides of a sum; a number that is added cannot be multiplied."""
    left, right = call.args[:2]
    if not (isinstance(left, Ref) and isinstance(right, Ref)):
        raise NotLinear
    return [(side, narrowed(box, side.shape)) for side in (left, right)]


def _factor(way: Way, call: Call, box: Box, _: int) -> Demands:
    """One side of a product: the one that depends on the network's input."""
    sides = [side for side in call.args[:2] if isinstance(side, Ref)]
    side = next((side for side in sides if side.id in way.varies), sides[0])
    return [(side, narrowed(box, side.shape))]


def _dividend(_: Way, call: Call, box: Box, __: int) -> Demands:
    if not isinstance(call.args[0], Ref):
        raise NotLinear
    return [(call.args[0], narrowed(box, call.args[0].shape))]


def _convolved(_: Way, call: Call, box: Box, __: int) -> Demands:
    """Output channels: rows of the weight, and the bias."""
    weight, bias, transposed = call.args[1], call.args[2], call.args[6]
    if transposed:
        raise NotLinear
    return _rows_and_bias(along(box, len(box) - len(weight.shape) + 1), weight, 0, bias)


def _product(first: int) -> Step:
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


def _rows_and_bias(channels: Flags, weight: Ref, axis: int, bias: Ref | None) -> Demands:
    demands = [(weight, exchanged(whole(weight.shape), axis, channels))]
    if bias is not None:
        demands.append((bias, exchanged(whole(bias.shape), len(bias.shape) - 1, channels)))
    return demands


def _normalised(axis: int) -> Step:
    """An affine normalisation: its weight and bias."""

    def step(_: Way, call: Call, box: Box, place: int) -> Demands:
        given = (*call.args[1:5], *call.kwargs.values())
        vectors = [v for v in given if isinstance(v, Ref) and v.kind == "parameter"]
        if place or not vectors:
            raise NotLinear
        channels = along(box, axis)
        return [(vector, (channels,)) for vector in vectors if vector.shape == channels.shape]

    return step


_RULES: dict[Any, Step] = {
    **dict.fromkeys((aten.clone, aten.detach, aten.alias, aten._to_copy, aten.neg), _same),
    **dict.fromkeys((aten.view, aten._unsafe_view, aten._reshape_alias), _viewed),
    **dict.fromkeys((aten.unsqueeze, aten.squeeze), _viewed),
    **dict.fromkeys((aten.transpose, aten.t), _transposed),
    **dict.fromkeys((aten.split, aten.split_with_sizes), _split),
    **dict.fromkeys((aten.add, aten.sub), _summed),
    **dict.fromkeys((aten.native_layer_norm, aten.rms_norm), _normalised(-1)),
    **dict.fromkeys(
        (aten.native_batch_norm, aten._native_batch_norm_legit_no_training), _normalised(1)
    ),
    aten.permute: _permuted,
    aten.expand: _expanded,
    aten.select: _selected,
    aten.unbind: _unbound,
    aten.slice: _sliced,
    aten.cat: _joined,
    aten.stack: _stacked,
    aten.roll: _rolled,
    aten.flip: _flipped,
    aten.mul: _factor,
    aten.div: _dividend,
    aten.convolution: _convolved,
    aten.mm: _product(0),
    aten.bmm: _product(0),
    aten.addmm: _product(1),
}
MOVEMENTS = {
    *(_same, _viewed, _permuted, _transposed, _expanded, _selected, _unbound),
    *(_sliced, _split, _joined, _stacked, _rolled, _flipped),
}
STEPS: dict[Any, Step] = {
    getattr(packet, overload): step
    for packet, step in _RULES.items()
    for overload in packet.overloads()
}
