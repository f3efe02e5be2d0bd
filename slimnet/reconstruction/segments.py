"""Segments of a recorded pass: one layer, and the layers before it whose outputs only it reads.

A layer's output can only be as good as its input. A segment holds a layer and every call whose
results are used for it alone: back to where other calls read as well, or through :data:`DEPTH`
further layers. It can be run again by itself, with other weights and with gradients: its calls are
as they were recorded, on values that :mod:`slimnet.reconstruction.lockstep` kept. Only calls whose
derivative is certain are in one (the column ``differentiable``); any other call ends the segment.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from slimnet.capture.graph import Call, DataflowGraph, Ref
from slimnet.capture.trace import Trace
from slimnet.operator import draws, of
from slimnet.reconstruction.consumers import Consumer

DEPTH = 2
"""Of layers one after the other, before the last."""


@dataclass(frozen=True, eq=False)
class Segment:
    """The calls of a pass from the segment's inputs to the output of its last layer, in order."""

    layers: tuple[Consumer, ...]  # the last one's output is the segment's
    calls: tuple[int, ...]
    inputs: frozenset[int]  # the tensors that its calls read and that are made elsewhere
    hidden: frozenset[int]  # the tensors made here that layers read: they change with the weights

    @property
    def before(self) -> Segment:
        """All but the last layer's own call: what makes that layer's input."""
        return replace(self, calls=self.calls[:-1])

    def run(
        self,
        recorded: Sequence[Call],
        values: Mapping[int, Tensor],
        tensors: Mapping[str, Tensor],
        constants: Mapping[int, Tensor],
        see: Callable[[Call, Tensor], None] | None = None,
    ) -> dict[int, Tensor]:
        """Every tensor that its calls make, by the tensors' numbers, and its inputs.

        Args:
            recorded: the pass over as many images as ``values`` are of.
            values: the segment's inputs, by number.
            tensors: parameters and buffers, by name.
            constants: added to the output of a layer, by the number of its call, [channels, 1, …].
            see: is shown each call's first result, before another call writes into it.
        """
        calls = [recorded[index] for index in self.calls]
        written = any(call.op._schema.is_mutable for call in calls)
        computed = {n: values[n].clone() if written else values[n] for n in self.inputs}

        def value(ref: Ref) -> Tensor:
            return tensors[ref.name] if ref.name is not None else computed[ref.id]

        for call in calls:
            args, kwargs = tree_map_only(Ref, value, (call.args, dict(call.kwargs)))
            results = call.op(*args, **kwargs)
            results = results if isinstance(results, (tuple, list)) else (results,)
            if call.index in constants:
                results = (results[0] + constants[call.index],)
            if see is not None:
                see(call, results[0])
            computed |= {ref.id: x for ref, x in zip(call.outputs, results, strict=False)}
        return computed


def segments_of(trace: Trace, layers: Mapping[int, Consumer]) -> dict[int, Segment]:
    """By the number of the last layer's call; ``layers`` by the number of theirs."""
    graph = trace.graph
    segments = {index: _segment(last, graph, layers) for index, last in layers.items()}
    return {index: segment for index, segment in segments.items() if len(segment.layers) > 1}


def whole_of(trace: Trace) -> Segment | None:
    """Everything that the outputs depend on; None where some call cannot be run again."""
    graph, needed = trace.graph, set[int]()
    waiting = [ref.id for ref in trace.outputs]
    while waiting:
        call = graph.made.get(waiting.pop())
        if call is not None and call.index not in needed:
            needed.add(call.index)
            waiting += [ref.id for ref in call.reads]
    if not all(can_run(graph.calls[index]) for index in needed):
        return None
    return Segment((), tuple(sorted(needed)), graph.sources(frozenset(needed)), frozenset())


def aligned(trace: Trace, other: Trace) -> list[Call] | None:
    """The calls of another pass on the tensors of this one; None where they are not the same calls.

    A pass over fewer images, or of a narrower network, states other sizes.
    """
    if len(trace.calls) != len(other.calls):
        return None
    pairs = zip(trace.calls, other.calls, strict=True)
    calls = [_on_tensors_of(call, its) for call, its in pairs]
    return [call for call in calls if call is not None] if None not in calls else None


def _on_tensors_of(call: Call, other: Call) -> Call | None:
    ours, _ = tree_flatten((call.args, dict(call.kwargs)))
    theirs, shape = tree_flatten((other.args, dict(other.kwargs)))
    names = [leaf.name if isinstance(leaf, Ref) else "" for leaf in ours]
    if call.op is not other.op or names != [x.name if isinstance(x, Ref) else "" for x in theirs]:
        return None
    pairs = zip(ours, theirs, strict=True)
    args, kwargs = tree_unflatten([a if isinstance(a, Ref) else b for a, b in pairs], shape)
    return replace(other, args=args, kwargs=kwargs, outputs=call.outputs)


def _segment(last: Consumer, graph: DataflowGraph, layers: Mapping[int, Consumer]) -> Segment:
    """The calls whose results only the last layer uses, and that depend on a layer among them."""
    calls = _needed(_only_for(last, graph, layers), graph, layers)
    inside = tuple(layers[i] for i in calls if i in layers)
    outputs = {ref.id for i in calls for ref in graph.calls[i].outputs}
    read = {layer.call.args[layer.place].id for layer in inside}
    return Segment(inside, calls, graph.sources(frozenset(calls)), frozenset(read & outputs))


def _only_for(last: Consumer, graph: DataflowGraph, layers: Mapping[int, Consumer]) -> list[int]:
    """Back from the last layer: a call is among them once all who read it are."""
    depth = {last.call.index: 0}
    queue = _makers(last.call, graph)
    while queue:
        call = graph.calls[-heapq.heappop(queue)]
        if call.index in depth or not can_run(call):
            continue
        outputs = {ref.id for ref in call.outputs}
        readers = {index for number in outputs for index in graph.users.get(number, ())}
        if (
            not readers <= depth.keys()
            or graph.leaving(frozenset({call.index, *readers})) & outputs
        ):
            continue
        deep = min(depth[index] + (index in layers) for index in readers)
        if deep <= DEPTH or call.index not in layers:
            depth[call.index] = deep
            queue = list(heapq.merge(queue, _makers(call, graph)))
    return sorted(depth)


def _needed(
    calls: Sequence[int], graph: DataflowGraph, layers: Mapping[int, Consumer]
) -> tuple[int, ...]:
    """Without the calls whose results do not depend on the layers' weights."""
    moved: set[int] = set()
    needed = []
    for index in calls:
        read = graph.calls[index].reads
        weights = all(ref.name is not None for ref in read)
        if index in layers or weights or any(ref.id in moved for ref in read):
            needed.append(index)
            moved |= {ref.id for ref in graph.calls[index].outputs}
    return tuple(needed)


def _makers(call: Call, graph: DataflowGraph) -> list[int]:
    """The numbers of the calls that make what this one reads, negated; a heap."""
    return sorted(-graph.made[r.id].index for r in call.reads if r.id in graph.made)


def can_run(call: Call) -> bool:
    """Whether it can be run again, alone, and differentiated."""
    smooth = of(call.op).differentiable and not draws(call.op)
    return smooth and all(ref.kind != "constant" for ref in call.reads)
