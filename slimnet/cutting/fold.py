"""Keep a cut exact where code computes a number from a length: fold the difference into weights.

Attention divides by √d. When the heads' width d shrinks, the slim network divides by another
number than the original. Both passes are compared call by call: where only such a number differs,
the ratio is multiplied into the parameters that make the operand (:mod:`slimnet.coupling.scaling`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from slimnet.capture.trace import Call, Trace, refs_in
from slimnet.coupling.scaling import Path, path_to
from slimnet.coupling.scaling.boxes import Box
from slimnet.planning.plan import Scale

aten = torch.ops.aten


def depends_on_lengths(trace: Trace) -> bool:
    """Whether anything in this pass could be a number that is computed from a length."""
    return any(
        call.op == _ATTENTION or (call.op in _RATIOS and isinstance(call.args[1], (int, float)))
        for call in trace.calls
    )


@dataclass(frozen=True)
class Folds:
    """What to multiply, and what is then other than in the original: parts of recorded tensors."""

    scales: Mapping[str, tuple[Scale, ...]]  # parameter →
    tensors: Mapping[int, tuple[tuple[Box, float], ...]]  # recorded tensor → parts, factors


def folds(dense: Trace, slim: Trace) -> Folds:
    """What to multiply for the slim pass to use the dense one's numbers.

    Nothing where no number differs, or where no way was found: the proof then says so.
    """
    scales: dict[str, list[Scale]] = {}
    tensors: dict[int, dict[tuple[bytes, float], tuple[Box, float]]] = defaultdict(dict)
    for before, after in zip(dense.calls, slim.calls, strict=False):
        if before.op != after.op:
            break
        ratio = _RATIOS[before.op](before, after) if before.op in _RATIOS else 1.0
        path = _path(dense, before) if ratio != 1.0 else None
        if path is None:
            continue
        for number, box in path.boxes.items():
            key = b"".join(flags.tobytes() for flags in box)
            tensors[number][key, ratio] = box, ratio
        for name, (axis, indices) in path.slices.items():
            scale = Scale(axis, indices, ratio)
            known = scales.setdefault(name, [])
            if scale not in known:  # a module that runs twice is multiplied once
                known.append(scale)
    return Folds(
        {name: tuple(found) for name, found in scales.items()},
        {number: tuple(parts.values()) for number, parts in tensors.items()},
    )


def _path(trace: Trace, call: Call) -> Path | None:
    """Either operand may be multiplied; the first that can be is."""
    paths = (path_to(trace, call, operand) for operand in refs_in(call.args[:2]))
    return next((path for path in paths if path is not None), None)


def _attention(before: Call, after: Call) -> float:
    """1/√d, unless the code gives a scale of its own."""
    return _scale(before) / _scale(after)


def _scale(call: Call) -> float:
    given = call.kwargs.get("scale")
    return float(call.args[0].shape[-1] ** -0.5 if given is None else given)


def _multiplied(before: Call, after: Call) -> float:
    return _quotient(before.args[1], after.args[1])


def _divided(before: Call, after: Call) -> float:
    return _quotient(after.args[1], before.args[1])


def _quotient(above: Any, below: Any) -> float:
    """The ratio of two numbers; 1 where they are tensors, or cannot be compared."""
    numbers = all(isinstance(value, (int, float)) for value in (above, below))
    return float(above / below) if numbers and above and below else 1.0


_ATTENTION = aten.scaled_dot_product_attention.default
_RATIOS: dict[Any, Callable[[Call, Call], float]] = {
    _ATTENTION: _attention,
    aten.mul.Tensor: _multiplied,
    aten.mul.Scalar: _multiplied,
    aten.mul_.Tensor: _multiplied,
    aten.div.Tensor: _divided,
    aten.div.Scalar: _divided,
    aten.div_.Tensor: _divided,
}
