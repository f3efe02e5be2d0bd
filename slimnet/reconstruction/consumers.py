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
from slimnet.reconstruction.forms import Convolution, Form


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
    norm: Norm | None = None  # the only reader of its output
    total: Call | None = None  # the sum that its (normed) output goes into
    other: Ref | None = None  # what it is added to there, where that is made before this call

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
    consumers = [c for call in trace.calls if (c := _consumer(call, graph)) is not None]
    return [c for c in consumers if all(graph.uses(n) == 1 for n in (c.weight, c.bias) if n)]


def _consumer(call: Call, graph: DataflowGraph) -> Consumer | None:
    read = of(call.op).layer
    layer: Layer | None = read(call, graph) if read else None
    if layer is None:
        return None
    bias = layer.bias
    if bias is not None and (bias.kind != "parameter" or len(bias.shape) != 1):
        return None
    name = bias.name if bias is not None else None
    after = _what_becomes(call, graph)
    return Consumer(call, layer.place, str(layer.weight.name), name, layer.form, *after)


def _what_becomes(call: Call, graph: DataflowGraph) -> tuple[Norm | None, Call | None, Ref | None]:
    """Follow the output through views and one batch norm to the sum that it goes into."""
    ref, norm = call.outputs[0], None
    while (reader := graph.only_reader(ref)) is not None:
        operator = of(reader.op)
        if operator.link is Link.SUM:
            return norm, *_added(reader, ref, call, graph)
        if reader.args[0] is not ref:
            break
        here: Norm | None = operator.norm(reader) if operator.norm and norm is None else None
        if here is None and operator.link is not Link.VIEW:
            break
        norm, ref = here or norm, reader.outputs[0]
    return norm, None, None


def _added(
    total: Call, ref: Ref, call: Call, graph: DataflowGraph
) -> tuple[Call | None, Ref | None]:
    """A sum of two tensors of one size, and the other operand if it is made before the call."""
    others = [r for r in refs_in(total.args[:2]) if r.id != ref.id]
    if len(others) != 1 or total.kwargs.get("alpha", 1) != 1 or others[0].shape != ref.shape:
        return None, None
    maker = graph.made.get(others[0].id)
    return total, others[0] if maker is not None and maker.index < call.index else None
