"""The calls of a pass that mix channels: convolutions and linear maps, as least squares sees them.

Each is a matrix product: the weight times what the kernel reads. A :class:`Consumer` names the
weight and the bias, holds the form of the product, and says what becomes of the output: the batch
norm over it, and the tensor that it is added to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from slimnet.capture.graph import Call, DataflowGraph, Ref, refs_in
from slimnet.capture.trace import Trace
from slimnet.operator import Link, of
from slimnet.reconstruction.forms import Convolution, Form, Matrix


@dataclass(frozen=True, eq=False)
class Layer:
    """A call as least squares: what the column ``layer`` of its operator gives."""

    place: int  # of its input among the call's arguments
    weight: Ref
    bias: Ref | None
    form: Form


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
    later: str | None = None  # the bias, where another call adds it to the output
    norm: Norm | None = None  # the only reader of its output
    total: Call | None = None  # the sum that its (normed) output goes into
    other: Ref | None = None  # what it is added to there, where that is made before this call

    @property
    def constants(self) -> str | None:
        """The parameter [channels] that is added to its output, by itself or right after it."""
        return self.bias or self.later

    @property
    def shifts(self) -> bool:
        """Whether a constant can be added to its output."""
        return self.constants is not None or self.norm is not None

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
    consumers = [c for call in trace.calls if (c := _consumer(call, graph)) is not None]
    return [
        c for c in consumers if all(graph.uses(n) == 1 for n in (c.weight, c.bias, c.later) if n)
    ]


def _consumer(call: Call, graph: DataflowGraph) -> Consumer | None:
    read = of(call.op).layer
    layer: Layer | None = read(call, graph) if read else None
    if layer is None:
        return None
    bias = layer.bias
    if bias is not None and (bias.kind != "parameter" or len(bias.shape) != 1):
        return None
    name = bias.name if bias is not None else None
    consumer = Consumer(call, layer.place, str(layer.weight.name), name, layer.form)
    return _with_what_follows(consumer, graph)


def _with_what_follows(layer: Consumer, graph: DataflowGraph) -> Consumer:
    """Follow the output through views, its bias and one batch norm to the sum that it goes into."""
    ref, norm, later = layer.call.outputs[0], None, None
    while (reader := graph.only_reader(ref)) is not None:
        operator = of(reader.op)
        added = later_bias(reader, ref, layer.form) if layer.bias is None else None
        if added is not None and norm is None and later is None:
            later, ref = added, reader.outputs[0]
            continue
        if operator.link is Link.SUM:
            total, other = _added(reader, ref, layer.call, graph)
            return replace(layer, later=later, norm=norm, total=total, other=other)
        if reader.args[0] is not ref:
            break
        here: Norm | None = operator.norm(reader) if operator.norm and norm is None else None
        if here is None and operator.link is not Link.VIEW:
            break
        norm, ref = here or norm, reader.outputs[0]
    return replace(layer, later=later, norm=norm)


def later_bias(call: Call, output: Ref, form: Form) -> str | None:
    """The parameter [channels] that a call adds to a matrix product, its output in any shape."""
    others = [r for r in refs_in(call.args[:2]) if r.id != output.id]
    plain = of(call.op).link is Link.SUM and call.kwargs.get("alpha", 1) == 1
    if not plain or not isinstance(form, Matrix) or len(others) != 1:
        return None
    (bias,) = others
    fits = bias.kind == "parameter" and bias.shape == output.shape[-1:]
    return bias.name if fits else None


def _added(
    total: Call, ref: Ref, call: Call, graph: DataflowGraph
) -> tuple[Call | None, Ref | None]:
    """A sum of two tensors of one size, and the other operand if it is made before the call."""
    others = [r for r in refs_in(total.args[:2]) if r.id != ref.id]
    if len(others) != 1 or total.kwargs.get("alpha", 1) != 1 or others[0].shape != ref.shape:
        return None, None
    maker = graph.made.get(others[0].id)
    return total, others[0] if maker is not None and maker.index < call.index else None
