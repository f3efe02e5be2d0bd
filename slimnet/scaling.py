"""Which parameters a recorded tensor is linear in, so that a constant can be folded into them.

Takes a trace and one tensor of it, gives for every parameter the indices of one of its axes that
have to be multiplied for the whole tensor to be multiplied. One sweep backwards over the calls with
a mask of elements: what moves elements hands the mask on, a sum hands it to both sides, a product
to one side, and a convolution, matrix product or affine normalisation ends in its weight and bias.
Anything else: no answer.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from slimnet.trace import Call, Ref, Trace

aten = torch.ops.aten

Slices: TypeAlias = "dict[str, tuple[int, tuple[int, ...]]]"
"""Parameter → one of its axes, and indices along it."""
_Demands: TypeAlias = "list[tuple[Ref, Tensor]]"
_Step: TypeAlias = "Callable[[_Sweep, Call, Tensor, int], _Demands]"


class NotLinear(Exception):
    """The tensor cannot be multiplied by way of parameters alone."""


@dataclass(frozen=True)
class Path:
    """How to multiply a tensor: by way of which parameters, and past which recorded tensors."""

    slices: Slices
    tensors: frozenset[int]


def path_to(trace: Trace, call: Call, operand: Ref) -> Path | None:
    """How to multiply an operand of a call and nothing that others read; None where none is."""
    if trace not in _asked:
        _asked[trace] = _Linearity(trace)
    known = _asked[trace]
    key = (call.index, operand.id)
    if key not in known.answers:
        known.answers[key] = known.path(call, operand)
    return known.answers[key]


class _Linearity:
    """Answers for one trace; asked about many tensors of it, some more than once."""

    def __init__(self, trace: Trace) -> None:
        self.answers: dict[tuple[int, int], Path | None] = {}
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
        sweep = _Sweep(self)
        try:
            with _disable_current_modes(), torch.enable_grad():
                sweep.back(operand)
                sweep.check_alone(call)
            slices = {name: _slice(sweep.masks[n]) for name, n in sweep.parameters.items()}
        except NotLinear:
            return None
        return Path(slices, frozenset(sweep.masks))


_asked: WeakKeyDictionary[Trace, _Linearity] = WeakKeyDictionary()


class _Sweep:
    """One walk from a tensor back to the parameters, the latest call first."""

    def __init__(self, trace: _Linearity) -> None:
        self.trace = trace
        self.masks: dict[int, Tensor] = {}  # recorded tensor → which elements are multiplied
        self.parameters: dict[str, int] = {}  # name → recorded tensor
        self.queue: list[tuple[int, int]] = []

    def back(self, operand: Ref) -> None:
        """Walk; raises :class:`NotLinear` where there is no way."""
        self.demand(operand, torch.ones(operand.shape, dtype=torch.bool))
        while self.queue:
            _, number = heapq.heappop(self.queue)
            call, place = self.trace.maker[number]
            step = _STEPS.get(call.op)
            if step is None:
                raise NotLinear
            for ref, mask in step(self, call, self.masks[number], place):
                self.demand(ref, mask)

    def demand(self, ref: Ref, mask: Tensor) -> None:
        """These elements of a tensor have to be multiplied."""
        if not mask.any():
            return
        if ref.id in self.masks:
            self.masks[ref.id] = self.masks[ref.id] | mask
            return
        self.masks[ref.id] = mask
        if ref.kind == "parameter" and ref.name is not None:
            self.parameters[ref.name] = ref.id
        elif ref.id in self.trace.maker:
            heapq.heappush(self.queue, (-self.trace.maker[ref.id][0].index, ref.id))
        else:
            raise NotLinear  # an input, a buffer or a constant

    def check_alone(self, target: Call) -> None:
        """Raise :class:`NotLinear` where something else than the target reads these elements."""
        readers = {c.index: c for number in self.masks for c in self.trace.readers[number]}
        for call in readers.values():
            known = [self.masks.get(ref.id) for ref in call.outputs]
            if call is target or (_STEPS.get(call.op) is not _moved and known[0] is not None):
                continue
            if _STEPS.get(call.op) is not _moved:
                raise NotLinear
            for mask, expected in zip(self._forward(call), known, strict=True):
                if bool((mask if expected is None else mask & ~expected).any()):
                    raise NotLinear

    def _forward(self, call: Call) -> list[Tensor]:
        """Which elements of a movement's results are multiplied ones."""

        def leaf(value: Any) -> Any:
            if not isinstance(value, Ref):
                return value
            mask = self.masks.get(value.id)
            return _leaf(value).detach() if mask is None else mask.float()

        args, kwargs = tree_map(leaf, (call.args, dict(call.kwargs)))
        result = call.op(*args, **kwargs)
        return [x != 0 for x in tree_leaves(result) if isinstance(x, Tensor)]


def _refs(tree: Any) -> Iterator[Ref]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Ref))


def _moved(_: _Sweep, call: Call, mask: Tensor, place: int) -> _Demands:
    """Elements that only move: their mask is the gradient of the movement."""
    args, kwargs = tree_map(_leaf, (call.args, dict(call.kwargs)))
    leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.requires_grad]
    result = call.op(*args, **kwargs)
    outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
    gradients = torch.autograd.grad(outputs[place], leaves, mask.float(), allow_unused=True)
    refs = [ref for ref in _refs((call.args, call.kwargs)) if ref.values is None]
    return [
        (ref, gradient != 0)
        for ref, gradient in zip(refs, gradients, strict=True)
        if gradient is not None
    ]


def _leaf(value: Any) -> Any:
    """Zeros in place of a tensor; an index keeps its values."""
    if not isinstance(value, Ref):
        return value
    if value.values is not None:
        return torch.from_numpy(value.values)
    return torch.zeros(value.shape, requires_grad=True)


def _summed(_: _Sweep, call: Call, mask: Tensor, __: int) -> _Demands:
    """Both sides of a sum; a number that is added cannot be multiplied."""
    left, right = call.args[:2]
    if not (isinstance(left, Ref) and isinstance(right, Ref)):
        raise NotLinear
    return [(side, _narrowed(mask, side.shape)) for side in (left, right)]


def _factor(sweep: _Sweep, call: Call, mask: Tensor, _: int) -> _Demands:
    """One side of a product: the one that depends on the network's input."""
    sides = [side for side in call.args[:2] if isinstance(side, Ref)]
    side = next((side for side in sides if side.id in sweep.trace.varies), sides[0])
    return [(side, _narrowed(mask, side.shape))]


def _dividend(_: _Sweep, call: Call, mask: Tensor, __: int) -> _Demands:
    if not isinstance(call.args[0], Ref):
        raise NotLinear
    return [(call.args[0], _narrowed(mask, call.args[0].shape))]


def _narrowed(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mask of an operand that was broadcast."""
    extra = mask.dim() - len(shape)
    mask = mask.flatten(0, extra - 1).any(0) if extra > 0 else mask
    for d, length in enumerate(shape):
        if length == 1 and mask.shape[d] != 1:
            mask = mask.any(d, keepdim=True)
    return mask


def _convolved(_: _Sweep, call: Call, mask: Tensor, __: int) -> _Demands:
    """Output channels: rows of the weight, and the bias."""
    weight, bias, transposed = call.args[1], call.args[2], call.args[6]
    if transposed:
        raise NotLinear
    rows = _along(mask, mask.dim() - len(weight.shape) + 1)
    return _rows_and_bias(rows, weight, 0, bias)


def _product(first: int) -> _Step:
    """[.., n, k] · [.., k, m], the operands from argument ``first`` on; a bias before them."""

    def step(sweep: _Sweep, call: Call, mask: Tensor, _: int) -> _Demands:
        weight = call.args[first + 1]
        columns = _along(mask, mask.dim() - 1)
        bias = call.args[0] if first else None
        if weight.id in sweep.trace.varies:
            raise NotLinear
        return _rows_and_bias(columns, weight, len(weight.shape) - 1, bias)

    return step


def _along(mask: Tensor, axis: int) -> Tensor:
    """[length of the axis]: which of its slices are masked; a part of one has no answer."""
    flat = mask.movedim(axis, 0).reshape(mask.shape[axis], -1)
    if not torch.equal(flat.any(1), flat.all(1)):
        raise NotLinear
    return flat.all(1)


def _slice(mask: Tensor) -> tuple[int, tuple[int, ...]]:
    """A mask as indices of the one axis that it lies along."""
    for axis in range(mask.dim()):
        with suppress(NotLinear):
            return axis, tuple(torch.nonzero(_along(mask, axis)).flatten().tolist())
    raise NotLinear


def _rows_and_bias(channels: Tensor, weight: Ref, axis: int, bias: Ref | None) -> _Demands:
    shape = [-1 if d == axis else 1 for d in range(len(weight.shape))]
    demands = [(weight, channels.reshape(shape).expand(weight.shape))]
    if bias is not None:
        demands.append((bias, channels.expand(bias.shape)))
    return demands


def _normalised(axis: Callable[[Call], int]) -> _Step:
    """An affine normalisation: its weight and bias."""

    def step(_: _Sweep, call: Call, mask: Tensor, place: int) -> _Demands:
        vectors = [v for v in call.args[1:5] if isinstance(v, Ref) and v.kind == "parameter"]
        if place or not vectors:
            raise NotLinear
        channels = _along(mask, axis(call) % mask.dim())
        return [(vector, channels) for vector in vectors if vector.shape == channels.shape]

    return step


_MOVEMENTS = (
    *(aten.view, aten._unsafe_view, aten._reshape_alias, aten.permute, aten.transpose, aten.t),
    *(aten.unsqueeze, aten.squeeze, aten.slice, aten.select, aten.split, aten.split_with_sizes),
    *(aten.unbind, aten.expand, aten.clone, aten.cat, aten.stack, aten.roll, aten.flip),
    *(aten.constant_pad_nd, aten.detach, aten.alias, aten._to_copy, aten.index_select, aten.repeat),
    *(aten.im2col, aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle, aten.neg),
    *(aten.avg_pool2d, aten._adaptive_avg_pool2d),
)
_RULES: dict[Any, _Step] = {
    aten.add: _summed,
    aten.sub: _summed,
    aten.mul: _factor,
    aten.div: _dividend,
    aten.convolution: _convolved,
    aten.mm: _product(0),
    aten.bmm: _product(0),
    aten.addmm: _product(1),
    aten.native_layer_norm: _normalised(lambda call: -1),
    aten.rms_norm: _normalised(lambda call: -1),
    aten.native_batch_norm: _normalised(lambda call: 1),
    aten._native_batch_norm_legit_no_training: _normalised(lambda call: 1),
    **dict.fromkeys(_MOVEMENTS, _moved),
}
_STEPS: dict[Any, _Step] = {
    getattr(packet, overload): step
    for packet, step in _RULES.items()
    for overload in packet.overloads()
}
