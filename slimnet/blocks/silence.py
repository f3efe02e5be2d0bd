"""Which parameters, all zero, make a tensor exactly zero.

Walks back from the end of a branch, through operators that keep zeros, to the last affine layers:
the scale and bias of a norm, the weight and bias of a convolution or product, a layer scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from slimnet.capture.graph import Call, Calls, DataflowGraph, Ref
from slimnet.operator import of

Alternatives: TypeAlias = "list[list[Any]]"
"""Arguments, in each of several ways, that must all be zero for the result to be."""


def silencers(graph: DataflowGraph, ref: Ref, calls: Calls) -> tuple[str, ...] | None:
    """Parameters read by these calls alone that silence ``ref``; None where there are none."""
    if ref.kind == "parameter" and ref.name:
        return (ref.name,) if graph.readers_of(ref.name) <= calls else None
    call = graph.made.get(ref.id)
    if call is None or call.index not in calls:
        return None
    for needed in needed_by(call):
        each = [silencers(graph, x, calls) if isinstance(x, Ref) else None for x in needed]
        if all(names is not None for names in each):
            return tuple(dict.fromkeys(name for names in each for name in names or ()))
    return None


def needed_by(call: Call) -> Alternatives:
    """What must be zero for the call's result to be zero; nothing for an unknown operator."""
    zeros = of(call.op).zeros
    return zeros(call) if zeros else []


def gains(graph: DataflowGraph, names: Sequence[str]) -> tuple[str, ...]:
    """Those of some parameters that multiply: what is only added does not scale a branch."""
    added = {
        ref.name
        for name in names
        for call in map(graph.calls.__getitem__, graph.readers_of(name))
        for place in of(call.op).added
        if len(call.args) > place and isinstance(ref := call.args[place], Ref)
    }
    return tuple(name for name in names if name not in added)
