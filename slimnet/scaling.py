"""Which weights multiply a recorded tensor, so that a constant can be folded into them.

Takes a trace and an operand of one of its calls, gives for every parameter the indices of one of
its axes that have to be multiplied for the whole operand to be multiplied, and nothing that others
read. One walk backwards over the calls: what moves elements hands the demand on, a sum hands it to
both sides, a product to one side, and a convolution, matrix product or affine normalisation ends in
its weight and bias. Anything else: no answer. A demand is a box, one vector of flags for each axis:
the cost is that of the lengths, not of the elements.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from slimnet.labels import blocks
from slimnet.trace import Call, Ref, Trace

aten = torch.ops.aten

Flags: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
Box: TypeAlias = tuple[Flags, ...]
"""Per axis [length]: the elements whose place is flagged along every axis are multiplied."""
Slices: TypeAlias = "dict[str, tuple[int, tuple[int, ...]]]"
"""Parameter → one of its axes, and indices along it."""
_Demands: TypeAlias = "list[tuple[Ref, Box]]"
_Step: TypeAlias = "Callable[[_Walk, Call, Box, int], _Demands]"


class NotLinear(Exception):
    """The tensor cannot be multiplied by way of parameters alone."""


@dataclass(frozen=True)
class Path:
    """How to multiply a tensor: by way of which parameters, and past which recorded tensors."""

    slices: Slices
    tensors: frozenset[int]


def path_to(trace: Trace, call: Call, operand: Ref) -> Path | None:
    """How to multiply an operand of a call and nothing that others read; None where none is."""
    if trace not in _known:
        _known[trace] = _Graph(trace)
    graph = _known[trace]
    key = (call.index, operand.id)
    if key not in graph.answers:
        graph.answers[key] = graph.path(call, operand)
    return graph.answers[key]


class _Graph:
    """Who makes and who reads each tensor of a trace, and the answers given so far."""

    def __init__(self, trace: Trace) -> None:
        self.answers: dict[tuple[int, int], Path | None] = {}
        self.calls = trace.calls
        self.maker: dict[int, tuple[Call, int]] = {}
        self.readers: dict[int, list[Call]] = defaultdict(list)
        self.varies = {ref.id for ref in trace.inputs}
        for call in trace.calls:
            refs = list(_refs((call.args, call.kwargs)))
            for ref in refs:
                self.readers[ref.id].append(call)
            varies = any(ref.id in self.varies for ref in refs)
            for place, ref in enumerate(call.outputs):
                self.maker[ref.id] = (call, place)
                if varies:
                    self.varies.add(ref.id)

    def path(self, call: Call, operand: Ref) -> Path | None:
        """What :func:`path_to` gives."""
        argument = next(n for n, arg in enumerate(call.args) if arg is operand)
        alike = [c for c in self.calls if (c.op, c.site.module) == (call.op, call.site.module)]
        walks = ((calls, side) for calls in ([call], alike) for side in (0, 1))
        paths = (_Walk(self, side).path(calls, argument) for calls, side in walks)
        return next((path for path in paths if path is not None), None)


_known: WeakKeyDictionary[Trace, _Graph] = WeakKeyDictionary()


class _Walk:
    """From a tensor back to the parameters, the latest call first."""

    def __init__(self, graph: _Graph, side: int) -> None:
        self.graph = graph
        self.side = side
        self.boxes: dict[int, Box] = {}  # recorded tensor → what of it is multiplied
        self.parameters: dict[str, int] = {}  # name → recorded tensor
        self.queue: list[tuple[int, int]] = []

    def path(self, targets: Sequence[Call], argument: int) -> Path | None:
        """The parameters that multiply this argument of all these calls, and nothing else."""
        try:
            for target in targets:
                operand = target.args[argument]
                if not isinstance(operand, Ref):
                    return None
                self._demand(operand, _whole(operand.shape))
            while self.queue:
                _, number = heapq.heappop(self.queue)
                for ref, box in self._step(*self.graph.maker[number], self.boxes[number]):
                    self._demand(ref, box)
            self._check_alone(targets)
            slices = {name: _slice(self.boxes[n]) for name, n in self.parameters.items()}
        except NotLinear:
            return None
        return Path(slices, frozenset(self.boxes))

    def _step(self, call: Call, place: int, box: Box) -> _Demands:
        """What a call's operands must be for one of its results to be multiplied."""
        step = _STEPS.get(call.op)
        if step is None:
            raise NotLinear
        return step(self, call, box, place)

    def _demand(self, ref: Ref, box: Box) -> None:
        if not all(flags.any() for flags in box):
            return
        if ref.id in self.boxes:
            self.boxes[ref.id] = _union(self.boxes[ref.id], box)
            return
        self.boxes[ref.id] = box
        if ref.kind == "parameter" and ref.name is not None:
            self.parameters[ref.name] = ref.id
        elif ref.id in self.graph.maker:
            heapq.heappush(self.queue, (-self.graph.maker[ref.id][0].index, ref.id))
        else:
            raise NotLinear  # an input, a buffer or a constant

    def _check_alone(self, targets: Sequence[Call]) -> None:
        """Nothing but the targets may read what is multiplied, except on the way to it."""
        for number in list(self.boxes):
            for call in self.graph.readers[number]:
                if call not in targets:
                    self._check_reader(call, number)

    def _check_reader(self, call: Call, number: int) -> None:
        """Each result takes the tensor's factor along, or is made of its other elements."""
        moves = _STEPS.get(call.op) in _MOVEMENTS
        if not moves and not any(ref.id in self.boxes for ref in call.outputs):
            raise NotLinear
        for place, ref in enumerate(call.outputs):
            wanted = self.boxes.get(ref.id)
            if wanted is None and not moves:
                continue  # the mean and the deviation, which a norm gives as well
            demands = self._step(call, place, _whole(ref.shape) if wanted is None else wanted)
            mine = [box for operand, box in demands if operand.id == number]
            if wanted is not None and not mine:
                raise NotLinear
            if wanted is None and any(_meet(self.boxes[number], box) for box in mine):
                raise NotLinear


def _refs(tree: Any) -> Iterator[Ref]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Ref))


# ------------------------------------------------------------------------------------------- boxes


def _whole(shape: Sequence[int]) -> Box:
    return tuple(np.ones(length, bool) for length in shape)


def _meet(left: Box, right: Box) -> bool:
    return all((a & b).any() for a, b in zip(left, right, strict=True))


def _union(left: Box, right: Box) -> Box:
    """Both boxes as one; they may differ along one axis, or one holds the other."""
    joined = tuple(a | b for a, b in zip(left, right, strict=True))
    differ = [not np.array_equal(a, b) for a, b in zip(left, right, strict=True)]
    holds = any(all(map(np.array_equal, joined, box)) for box in (left, right))
    if sum(differ) > 1 and not holds:
        raise NotLinear
    return joined


def _along(box: Box, axis: int) -> Flags:
    """The flags of one axis, where every other is flagged all along."""
    axis %= len(box)
    if not all(flags.all() for d, flags in enumerate(box) if d != axis):
        raise NotLinear
    return box[axis]


def _slice(box: Box) -> tuple[int, tuple[int, ...]]:
    """A box as indices of the one axis that is not flagged all along."""
    axis = next((d for d, flags in enumerate(box) if not flags.all()), 0)
    return axis, tuple(np.flatnonzero(_along(box, axis)).tolist())


def _narrowed(box: Box, shape: Sequence[int]) -> Box:
    """The box of an operand that was broadcast."""
    inner = box[len(box) - len(shape) :]
    return tuple(
        np.ones(1, bool) if length == 1 else flags
        for flags, length in zip(inner, shape, strict=True)
    )


def _exchanged(box: Box, axis: int, flags: Flags) -> Box:
    return (*box[:axis], flags, *box[axis + 1 :])


def _marked(length: int, places: Any, flags: Any = True) -> Flags:
    """Flags [length] that are set at some places only."""
    marked = np.zeros(length, bool)
    marked[places] = flags
    return marked


# --------------------------------------------------------------------------------------- movements


def _same(_: _Walk, call: Call, box: Box, __: int) -> _Demands:
    return [(call.args[0], box)]


def _viewed(_: _Walk, call: Call, box: Box, place: int) -> _Demands:
    """Runs of axes are merged and split: flat flags, and flags per axis again."""
    old, new = call.args[0].shape, call.outputs[place].shape
    found = list(_whole(old))
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


def _permuted(_: _Walk, call: Call, box: Box, __: int) -> _Demands:
    x, dims = call.args[0], call.args[1]
    found = dict(zip((d % len(x.shape) for d in dims), box, strict=True))
    return [(x, tuple(found[d] for d in range(len(box))))]


def _transposed(_: _Walk, call: Call, box: Box, __: int) -> _Demands:
    a, b = call.args[1:] or (0, -1)
    axes = list(box)
    if axes:
        axes[a], axes[b] = axes[b], axes[a]
    return [(call.args[0], tuple(axes))]


def _expanded(_: _Walk, call: Call, box: Box, __: int) -> _Demands:
    return [(call.args[0], _narrowed(box, call.args[0].shape))]


def _selected(_: _Walk, call: Call, box: Box, __: int) -> _Demands:
    x, d, index = call.args
    return [(x, _inserted(box, d % len(x.shape), _marked(x.shape[d], index)))]


def _unbound(_: _Walk, call: Call, box: Box, place: int) -> _Demands:
    x, d = call.args[0], (*call.args[1:], 0)[0]
    return [(x, _inserted(box, d % len(x.shape), _marked(x.shape[d], place)))]


def _inserted(box: Box, axis: int, flags: Flags) -> Box:
    return (*box[:axis], flags, *box[axis:])


def _sliced(_: _Walk, call: Call, box: Box, __: int) -> _Demands:
    x, given = call.args[0], call.args[1:]
    d = given[0] % len(x.shape) if given else 0
    part = slice(*given[1:]) if given[1:] else slice(None)
    if len(given) == 2:
        part = slice(given[1], None)  # a start alone
    return [(x, _exchanged(box, d, _marked(x.shape[d], part, box[d])))]


def _split(_: _Walk, call: Call, box: Box, place: int) -> _Demands:
    x, d = call.args[0], (*call.args[2:], 0)[0] % len(call.args[0].shape)
    first = sum(out.shape[d] for out in call.outputs[:place])
    part = slice(first, first + call.outputs[place].shape[d])
    return [(x, _exchanged(box, d, _marked(x.shape[d], part, box[d])))]


def _joined(_: _Walk, call: Call, box: Box, __: int) -> _Demands:
    parts = [x for x in call.args[0] if x.shape != (0,)]
    d = (*call.args[1:], 0)[0] % len(box)
    ends = np.cumsum([x.shape[d] for x in parts])
    return [
        (x, _exchanged(box, d, box[d][end - x.shape[d] : end]))
        for x, end in zip(parts, ends, strict=True)
    ]


def _stacked(_: _Walk, call: Call, box: Box, __: int) -> _Demands:
    d = (*call.args[1:], 0)[0] % len(box)
    rest = (*box[:d], *box[d + 1 :])
    return [(x, rest) for x, flag in zip(call.args[0], box[d], strict=True) if flag]


def _rolled(_: _Walk, call: Call, box: Box, __: int) -> _Demands:
    for shift, d in zip(call.args[1], (*call.args[2:], [])[0], strict=True):
        box = _exchanged(box, d % len(box), np.roll(box[d], -shift))
    return [(call.args[0], box)]


def _flipped(_: _Walk, call: Call, box: Box, __: int) -> _Demands:
    for d in call.args[1]:
        box = _exchanged(box, d % len(box), box[d][::-1])
    return [(call.args[0], box)]


# -------------------------------------------------------------------------------- sums and products


def _summed(_: _Walk, call: Call, box: Box, __: int) -> _Demands:
    """Both sides of a sum; a number that is added cannot be multiplied."""
    left, right = call.args[:2]
    if not (isinstance(left, Ref) and isinstance(right, Ref)):
        raise NotLinear
    return [(side, _narrowed(box, side.shape)) for side in (left, right)]


def _factor(walk: _Walk, call: Call, box: Box, _: int) -> _Demands:
    """One side of a product: the one that depends on the network's input."""
    sides = [side for side in call.args[:2] if isinstance(side, Ref)]
    side = next((side for side in sides if side.id in walk.graph.varies), sides[0])
    return [(side, _narrowed(box, side.shape))]


def _dividend(_: _Walk, call: Call, box: Box, __: int) -> _Demands:
    if not isinstance(call.args[0], Ref):
        raise NotLinear
    return [(call.args[0], _narrowed(box, call.args[0].shape))]


def _convolved(_: _Walk, call: Call, box: Box, __: int) -> _Demands:
    """Output channels: rows of the weight, and the bias."""
    weight, bias, transposed = call.args[1], call.args[2], call.args[6]
    if transposed:
        raise NotLinear
    return _rows_and_bias(_along(box, len(box) - len(weight.shape) + 1), weight, 0, bias)


def _product(first: int) -> _Step:
    """[.., n, k] · [.., k, m], the operands from argument ``first`` on; a bias before them."""

    def step(walk: _Walk, call: Call, box: Box, _: int) -> _Demands:
        left, weight = call.args[first : first + 2]
        if not first and {left.id, weight.id} <= walk.graph.varies:
            return [_multiplicand(walk.side, (left, weight), box)]
        if weight.id in walk.graph.varies:
            raise NotLinear
        bias = call.args[0] if first else None
        return _rows_and_bias(_along(box, -1), weight, len(weight.shape) - 1, bias)

    return step


def _multiplicand(side: int, operands: tuple[Ref, Ref], box: Box) -> tuple[Ref, Box]:
    """Rows of the left operand or columns of the right one: queries, or keys."""
    summed = len(box) - 1 - side
    if not box[summed].all():
        raise NotLinear
    operand = operands[side]
    return operand, _exchanged(box, summed, np.ones(operand.shape[summed], bool))


def _rows_and_bias(channels: Flags, weight: Ref, axis: int, bias: Ref | None) -> _Demands:
    demands = [(weight, _exchanged(_whole(weight.shape), axis, channels))]
    if bias is not None:
        demands.append((bias, _exchanged(_whole(bias.shape), len(bias.shape) - 1, channels)))
    return demands


def _normalised(axis: int) -> _Step:
    """An affine normalisation: its weight and bias."""

    def step(_: _Walk, call: Call, box: Box, place: int) -> _Demands:
        given = (*call.args[1:5], *call.kwargs.values())
        vectors = [v for v in given if isinstance(v, Ref) and v.kind == "parameter"]
        if place or not vectors:
            raise NotLinear
        channels = _along(box, axis)
        return [(vector, (channels,)) for vector in vectors if vector.shape == channels.shape]

    return step


_RULES: dict[Any, _Step] = {
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
_MOVEMENTS = {
    *(_same, _viewed, _permuted, _transposed, _expanded, _selected, _unbound),
    *(_sliced, _split, _joined, _stacked, _rolled, _flipped),
}
_STEPS: dict[Any, _Step] = {
    getattr(packet, overload): step
    for packet, step in _RULES.items()
    for overload in packet.overloads()
}
