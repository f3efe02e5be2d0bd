"""Whether a program changes its weights or its inputs.

A cut network can only be proven where each pass computes from the same weights: so no call may
write into one, or into an input, or into a view of either, nor run in training mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from slimnet.program.calls import nodes_of, resolve


def side_effect(calls: Iterable[Mapping[str, Any]], names: Iterable[str]) -> str | None:
    """What one of the calls does beside computing; None where none does.

    ``names`` are those of inputs and weights.
    """
    shared = set(names)  # what lies in the memory of one of them
    for call in calls:
        op = resolve(call["target"])
        read = set(nodes_of([call["args"], call["kwargs"]])) & shared
        if not isinstance(op, torch._ops.OpOverload):
            shared |= {call["name"]} if read else set()
            continue
        if _trains(op, call["args"], call["kwargs"]):
            return f"{op} runs in training mode"
        if _writes(op, call["args"], shared):
            return f"{op} writes into a weight or an input"
        if read and _may_alias(op):
            shared.add(call["name"])
    return None


def _writes(op: torch._ops.OpOverload, args: Sequence[Any], shared: set[str]) -> bool:
    return any(
        argument.alias_info is not None
        and argument.alias_info.is_write
        and shared.intersection(nodes_of(value))
        for argument, value in zip(op._schema.arguments, args, strict=False)
    )


def _may_alias(op: torch._ops.OpOverload) -> bool:
    """Views say so in their schema; others hand back their input where there is nothing to do."""
    is_view = any(result.alias_info is not None for result in op._schema.returns)
    return is_view or any(part in op._schema.name for part in _HAND_BACK)


_HAND_BACK = ("dropout", "reshape", "contiguous", "aten::to", "flatten")


def _trains(op: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Dropout, or a batch norm that would replace its running statistics by the batch's."""
    named = dict(zip((argument.name for argument in op._schema.arguments), args, strict=False))
    named |= kwargs
    if named.get("train") is True:
        return True
    random = "rrelu" in op._schema.name
    return named.get("training") is True and (random or named.get("running_mean") is not None)
