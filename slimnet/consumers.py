"""The calls of a pass that mix channels: convolutions and linear maps, as least squares sees them.

Each is a matrix: an output is a weight's rows times what the kernel reads. A :class:`Consumer`
says which parameter that is, cuts the input into those rows, and knows what becomes of the output:
the batch norm over it, and the tensor that it is added to.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from slimnet.trace import Call, Ref, Trace, refs_in

aten = torch.ops.aten

Places: TypeAlias = "tuple[Tensor, ...] | None"
"""Indices along each spatial axis of an output; their grid is looked at. None: everywhere."""


class Form(Protocol):
    """How one kind of call is a matrix product, in G blocks (1 unless grouped) of O × D."""

    def rows(self, x: Tensor, places: Places) -> Tensor:
        """[n, G, D]: what the kernel reads at these places of the output."""

    def outputs(self, y: Tensor, places: Places) -> Tensor:
        """[n, G·O]: the output there; also of another tensor that is laid out like the output."""

    def matrix(self, weight: Tensor) -> Tensor:
        """[G, O, D]: the weight."""

    def weight(self, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        """The inverse of :meth:`matrix`."""

    def answers(self, shape: Sequence[int]) -> Tensor:
        """For each element of a weight of this shape: the output channel that it adds to."""


@dataclass(frozen=True)
class Matrix:
    """``x @ weight``, or ``x @ weight.T`` where the parameter is stored [out, in]."""

    turned: bool  # stored [out, in]

    def rows(self, x: Tensor, places: Places) -> Tensor:
        """[n, 1, D]."""
        return x.reshape(-1, 1, x.shape[-1])

    def outputs(self, y: Tensor, places: Places) -> Tensor:
        """[n, O]."""
        return y.reshape(-1, y.shape[-1])

    def matrix(self, weight: Tensor) -> Tensor:
        """[1, O, D]."""
        return (weight if self.turned else weight.mT)[None]

    def weight(self, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        """As it is stored."""
        return matrix[0] if self.turned else matrix[0].mT

    def answers(self, shape: Sequence[int]) -> Tensor:
        """The row, or the column."""
        return _along(shape, 0 if self.turned else 1)


@dataclass(frozen=True)
class Convolution:
    """A convolution of any number of dimensions, grouped, strided, dilated or transposed.

    A transposed one is an ordinary one of stride 1 with a flipped kernel, over an input whose
    pixels stand ``stride`` apart.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    further: tuple[int, ...]  # output_padding
    groups: int

    def rows(self, x: Tensor, places: Places) -> Tensor:
        """[n, G, D]: columns go channel by channel, and within one through the kernel."""
        read: tuple[Any, ...] = (slice(None), slice(None), *self._read(x, places))
        patches = self._widened(x)[read]  # [N, C, place 0, kernel 0, place 1, kernel 1, …]
        spatial = range(2, patches.dim(), 2)
        patches = patches.permute(0, *spatial, 1, *(d + 1 for d in spatial))
        return patches.reshape(-1, self.groups, x.shape[1] // self.groups * prod(self.kernel))

    def outputs(self, y: Tensor, places: Places) -> Tensor:
        """[n, G·O]."""
        for d, chosen in enumerate(places or ()):
            y = y.index_select(2 + d, chosen.to(y.device))
        return y.movedim(1, -1).reshape(-1, y.shape[1])

    def matrix(self, weight: Tensor) -> Tensor:
        """[G, O, D]."""
        split: Tensor = weight.unflatten(0, (self.groups, -1))
        if self.transposed:  # stored [in, out / groups, *kernel]
            split = split.transpose(1, 2).flip(self._flipped)
        return split.flatten(2)

    def weight(self, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        """As it is stored."""
        split: Tensor = matrix.unflatten(2, (-1, *self.kernel))
        if self.transposed:
            split = split.flip(self._flipped).transpose(1, 2)
        return split.reshape(tuple(shape))

    def answers(self, shape: Sequence[int]) -> Tensor:
        """The row; of a transposed one, the column within the group of the row."""
        if not self.transposed:
            return _along(shape, 0)
        group = _along(shape, 0) // (shape[0] // self.groups)
        return group * shape[1] + _along(shape, 1)

    @property
    def _flipped(self) -> tuple[int, ...]:
        return tuple(range(3, 3 + len(self.kernel)))

    def _widened(self, x: Tensor) -> Tensor:
        """The input with its border; of a transposed one also with the gaps between its pixels."""
        if not self.transposed:
            return _padded(x, [(p, p) for p in self.padding])
        apart = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], self.stride, strict=True)]
        spread = x.new_zeros(*x.shape[:2], *apart)
        there: tuple[Any, ...] = (..., *(slice(None, None, s) for s in self.stride))
        spread[there] = x
        before = [
            d * (k - 1) - p
            for k, p, d in zip(self.kernel, self.padding, self.dilation, strict=True)
        ]
        return _padded(spread, [(b, b + f) for b, f in zip(before, self.further, strict=True)])

    def _read(self, x: Tensor, places: Places) -> list[Tensor]:
        """Along each spatial axis the indices that are read, [places, kernel], shaped as a grid."""
        count = len(self.kernel)
        found = []
        for d, (length, gap) in enumerate(zip(self.kernel, self.dilation, strict=True)):
            step = 1 if self.transposed else self.stride[d]
            at = torch.arange(self._length(x, d)) if places is None else places[d]
            index = at.cpu()[:, None] * step + torch.arange(length) * gap
            shape = [1] * (2 * count)
            shape[2 * d : 2 * d + 2] = index.shape
            found.append(index.reshape(shape).to(x.device))
        return found

    def _length(self, x: Tensor, d: int) -> int:
        """Of one spatial axis of the output."""
        n, step = x.shape[2 + d], self.stride[d]
        reach = self.dilation[d] * (self.kernel[d] - 1) + 1
        if self.transposed:
            return (n - 1) * step - 2 * self.padding[d] + reach + self.further[d]
        return (n + 2 * self.padding[d] - reach) // step + 1


def _padded(x: Tensor, borders: Sequence[tuple[int, int]]) -> Tensor:
    amounts = [amount for border in reversed(borders) for amount in border]
    return pad(x, amounts) if any(amounts) else x


def _along(shape: Sequence[int], axis: int) -> Tensor:
    """Of each element of a tensor, its place along an axis."""
    view = [-1 if d == axis else 1 for d in range(len(shape))]
    return torch.arange(shape[axis]).reshape(view).expand(tuple(shape))


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm in evaluation, by the names of its tensors: (x − mean)·scale + …."""

    weight: str | None
    mean: str
    var: str
    eps: float

    def scale(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """[channels] float64: what it multiplies with."""
        scale = (tensors[self.var].double() + self.eps).rsqrt()
        return scale if self.weight is None else scale * tensors[self.weight].double()


@dataclass(frozen=True, eq=False)
class Consumer:
    """One call that mixes channels, and what becomes of its output."""

    call: Call
    place: int  # of its input among the call's arguments
    weight: str
    bias: str | None
    form: Form
    norm: Norm | None = None  # the only reader of its output
    total: Call | None = None  # the sum that its (normed) output goes into
    other: Ref | None = None  # what it is added to there, where that is known by then

    @property
    def shifts(self) -> bool:
        """Whether a constant can be added to its output."""
        return self.bias is not None or self.norm is not None

    def form_of(self, args: Sequence[Any]) -> Form:
        """The form of this call in a network as cut: it may have fewer groups."""
        if isinstance(self.form, Convolution):
            return replace(self.form, groups=int(args[8]))
        return self.form


def consumers_of(trace: Trace) -> list[Consumer]:
    """Every convolution and linear map by a parameter of its own, in the order of the pass.

    A parameter that is used more than once is left out: no single call may decide on it.
    """
    known = _Flow(trace)
    found = [made for call in trace.calls if (made := _consumer(call, known)) is not None]
    return [c for c in found if known.uses[c.weight] == 1 and known.uses[c.bias] <= 1]


class _Flow:
    """Who makes a tensor, and who reads it."""

    def __init__(self, trace: Trace) -> None:
        self.maker: dict[int, Call] = {}
        self.readers: dict[int, list[Call]] = defaultdict(list)
        self.uses: Counter[str | None] = Counter()
        self._returned = {ref.id for ref in trace.outputs}
        for call in trace.calls:
            for ref in refs_in([*call.args, *call.kwargs.values()]):
                self.readers[ref.id].append(call)
                self.uses[ref.name] += ref.name is not None
            for ref in call.outputs:
                self.maker[ref.id] = call

    def only_reader(self, ref: Ref) -> Call | None:
        """The one call that reads a tensor; None where there are several, or it is an output."""
        readers = self.readers[ref.id]
        return readers[0] if len(readers) == 1 and ref.id not in self._returned else None


_Found: TypeAlias = "tuple[int, Ref, Ref | None, Form] | None"
"""Where the input is, weight, bias, form."""


def _consumer(call: Call, known: _Flow) -> Consumer | None:
    read = _READ.get(call.op)
    found = read(call, known) if read is not None else None
    if found is None:
        return None
    place, weight, bias, form = found
    if bias is not None and (bias.kind != "parameter" or len(bias.shape) != 1):
        return None
    name = bias.name if bias is not None else None
    return Consumer(call, place, str(weight.name), name, form, *_what_becomes(call, known))


def _convolution(call: Call, known: _Flow) -> _Found:
    x, weight, bias, stride, padding, dilation, transposed, further, groups = call.args
    if weight.kind != "parameter" or len(x.shape) != len(weight.shape):
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
    return 0, weight, bias, form


def _addmm(call: Call, known: _Flow) -> _Found:
    found = _parameter(call.args[2], known)
    return None if found is None or call.kwargs else (1, found[0], call.args[0], Matrix(found[1]))


def _mm(call: Call, known: _Flow) -> _Found:
    found = _parameter(call.args[1], known)
    return None if found is None else (0, found[0], None, Matrix(found[1]))


def _parameter(matrix: Ref, known: _Flow) -> tuple[Ref, bool] | None:
    """The parameter behind a matrix, and whether it is turned."""
    if matrix.kind == "parameter":
        return matrix, False
    maker = known.maker.get(matrix.id)
    if maker is None or maker.op not in _TURNS or maker.args[0].kind != "parameter":
        return None
    return maker.args[0], True


def _what_becomes(call: Call, known: _Flow) -> tuple[Norm | None, Call | None, Ref | None]:
    """Follow the output through views and one batch norm to the sum that it goes into."""
    ref, norm = call.outputs[0], None
    while (reader := known.only_reader(ref)) is not None:
        if reader.op in _SUMS:
            return norm, *_added(reader, ref, call, known)
        found = _norm(reader, ref) if norm is None else None
        if found is None and (reader.op not in _VIEWS or reader.args[0] is not ref):
            break
        norm, ref = found or norm, reader.outputs[0]
    return norm, None, None


def _added(total: Call, ref: Ref, call: Call, known: _Flow) -> tuple[Call | None, Ref | None]:
    """A sum of two tensors of one size, and the other operand if it is made before the call."""
    others = [r for r in refs_in(total.args[:2]) if r.id != ref.id]
    if len(others) != 1 or total.kwargs.get("alpha", 1) != 1 or others[0].shape != ref.shape:
        return None, None
    made = known.maker.get(others[0].id)
    return total, others[0] if made is not None and made.index < call.index else None


def _norm(call: Call, x: Ref) -> Norm | None:
    if call.op not in _NORMS or call.args[0] is not x:
        return None
    weight, _, mean, var, *rest = call.args[1:]
    training = next((value for value in rest if isinstance(value, bool)), False)
    named = [ref.name for ref in (weight, mean, var) if ref is not None]
    if training or mean is None or var is None or None in named:
        return None
    eps = [value for value in rest if isinstance(value, float)][-1]
    return Norm(None if weight is None else weight.name, mean.name, var.name, eps)


_READ: dict[Any, Callable[[Call, _Flow], _Found]] = {
    aten.convolution.default: _convolution,
    aten.addmm.default: _addmm,
    aten.mm.default: _mm,
}
_TURNS = {aten.t.default, aten.transpose.int, aten.numpy_T.default}
_SUMS = {aten.add.Tensor, aten.add_.Tensor}
_VIEWS = {aten.view.default, aten._unsafe_view.default, aten.clone.default}
_NORMS = {
    aten.native_batch_norm.default,
    aten.cudnn_batch_norm.default,
    aten.miopen_batch_norm.default,
    aten._native_batch_norm_legit.default,
    aten._native_batch_norm_legit_no_training.default,
    aten._batch_norm_no_update.default,
}


def grid(sizes: Sequence[int], wanted: int, generator: torch.Generator) -> Places:
    """About ``wanted`` places of an output, as a random grid; None where all are wanted."""
    total = prod(sizes)
    if wanted >= total:
        return None
    part = (wanted / total) ** (1 / len(sizes))
    return tuple(
        torch.randperm(n, generator=generator)[: max(round(part * n), 1)].sort().values
        for n in sizes
    )
