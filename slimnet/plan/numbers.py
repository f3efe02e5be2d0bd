"""Numbers in tensors: results of one element that are made of numbers in the code alone.

``torch.sqrt(torch.tensor(q.size(-1)))`` is one: it depends on no input and no weight, but may on a
length that a cut changes. They are computed again in float64, as the proof does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from slimnet.capture.graph import Call, Ref
from slimnet.capture.trace import Trace
from slimnet.operator import Double, draws, of

Numbers: TypeAlias = Mapping[int, float]
"""Recorded tensor → the one number that it holds."""


def constant_numbers(trace: Trace) -> Numbers:
    """Every such number of a recorded pass."""
    values: dict[int, Tensor] = {}
    for call in trace.calls:
        refs = call.reads
        values |= {ref.id: _constant(ref) for ref in refs if _is_constant(ref)}
        if all(ref.id in values for ref in refs) and _is_computed(call):
            values |= _computed(call, values)
    return {number: float(value.item()) for number, value in values.items()}


def _is_constant(ref: Ref) -> bool:
    return ref.kind == "constant" and ref.values is not None and ref.values.size == 1


def _constant(ref: Ref) -> Tensor:
    return torch.as_tensor(ref.values, dtype=_wide(ref.dtype)).reshape(ref.shape)


def _is_computed(call: Call) -> bool:
    """Whether it gives single numbers, which neither chance nor unset memory decides."""
    chance = draws(call.op) or of(call.op).double is Double.ZEROS
    return not chance and all(np.prod(ref.shape) == 1 for ref in call.outputs)


def _computed(call: Call, values: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The call's results, of these values of what it reads; none where it cannot run here."""

    def value(leaf: Any) -> Any:
        if isinstance(leaf, Ref):
            return values[leaf.id].clone()
        return _wide(leaf) if isinstance(leaf, torch.dtype) else leaf

    named = {key: value for key, value in call.kwargs.items() if key not in _PLACES}
    try:
        result = call.op(*tree_map(value, list(call.args)), **tree_map(value, named))
    except (RuntimeError, TypeError):  # say, an operator of another device
        return {}
    results = zip(call.outputs, _tensors(result), strict=False)
    return {ref.id: x.to(_wide(x.dtype)) for ref, x in results}


_PLACES = ("device", "layout", "pin_memory")


def _tensors(result: Any) -> Iterator[Tensor]:
    outputs = result if isinstance(result, (tuple, list)) else (result,)
    return (x for x in outputs if isinstance(x, Tensor))


def _wide(kind: torch.dtype) -> torch.dtype:
    return torch.float64 if kind.is_floating_point else kind
