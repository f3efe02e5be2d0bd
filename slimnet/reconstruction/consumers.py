"""The calls of a pass that mix channels: convolutions and linear maps, as least squares sees them.

Each is a matrix: an output is a weight's rows times what the kernel reads. A :class:`Consumer`
says which parameter that is, cuts the input into those rows, and knows what becomes of the output:
the batch norm over it, and the tensor that it is added to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from slimnet.capture.graph import Call, DataflowGraph, Ref, refs_in
from slimnet.capture.trace import Trace
from slimnet.reconstruction.forms import Convolution, Form, Matrix

aten = torch.ops.aten


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
    graph = trace.graph
    found = [made for call in trace.calls if (made := _consumer(call, graph)) is not None]
    return [
        c for c in found if graph.uses(c.weight) == 1 and (not c.bias or graph.uses(c.bias) == 1)
    ]


_Found: TypeAlias = "tuple[int, Ref, Ref | None, Form] | None"
"""Where the input is, weight, bias, form."""


def _consumer(call: Call, graph: DataflowGraph) -> Consumer | None:
    read = _READ.get(call.op)
    found = read(call, graph) if read is not None else None
    if found is None:
        return None
    place, weight, bias, form = found
    if bias is not None and (bias.kind != "parameter" or len(bias.shape) != 1):
        return None
    name = bias.name if bias is not None else None
    return Consumer(call, place, str(weight.name), name, form, *_what_becomes(call, graph))


def _convolution(call: Call, graph: DataflowGraph) -> _Found:
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


def _addmm(call: Call, graph: DataflowGraph) -> _Found:
    found = _parameter(call.args[2], graph)
    return None if found is None or call.kwargs else (1, found[0], call.args[0], Matrix(found[1]))


def _mm(call: Call, graph: DataflowGraph) -> _Found:
    found = _parameter(call.args[1], graph)
    return None if found is None else (0, found[0], None, Matrix(found[1]))


def _parameter(matrix: Ref, graph: DataflowGraph) -> tuple[Ref, bool] | None:
    """The parameter behind a matrix, and whether it is turned."""
    if matrix.kind == "parameter":
        return matrix, False
    maker = graph.made.get(matrix.id)
    if maker is None or maker.op not in _TURNS or maker.args[0].kind != "parameter":
        return None
    return maker.args[0], True


def _what_becomes(call: Call, graph: DataflowGraph) -> tuple[Norm | None, Call | None, Ref | None]:
    """Follow the output through views and one batch norm to the sum that it goes into."""
    ref, norm = call.outputs[0], None
    while (reader := graph.only_reader(ref)) is not None:
        if reader.op in _SUMS:
            return norm, *_added(reader, ref, call, graph)
        found = _norm(reader, ref) if norm is None else None
        if found is None and (reader.op not in _VIEWS or reader.args[0] is not ref):
            break
        norm, ref = found or norm, reader.outputs[0]
    return norm, None, None


def _added(
    total: Call, ref: Ref, call: Call, graph: DataflowGraph
) -> tuple[Call | None, Ref | None]:
    """A sum of two tensors of one size, and the other operand if it is made before the call."""
    others = [r for r in refs_in(total.args[:2]) if r.id != ref.id]
    if len(others) != 1 or total.kwargs.get("alpha", 1) != 1 or others[0].shape != ref.shape:
        return None, None
    made = graph.made.get(others[0].id)
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


_READ: dict[Any, Callable[[Call, DataflowGraph], _Found]] = {
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
