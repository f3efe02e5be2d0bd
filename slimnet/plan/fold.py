"""Keep a cut exact where code computes a number from a length: fold the difference into weights.

Attention divides by √d. When the heads' width d shrinks, the slim network divides by another
number than the original. Both passes are compared call by call: where only such a number differs,
the ratio is multiplied into the parameters that make the operand (:mod:`slimnet.coupling.scaling`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimnet.capture.graph import Call, Ref, refs_in
from slimnet.capture.trace import Trace
from slimnet.coupling.scaling import ScalingPath, path_to
from slimnet.coupling.scaling.boxes import Box, whole
from slimnet.operator import of
from slimnet.plan.numbers import Numbers, constant_numbers
from slimnet.plan.plan import Scale


def depends_on_lengths(trace: Trace) -> bool:
    """Whether anything in this pass could be a number that is computed from a length."""
    numbers = constant_numbers(trace)
    factors = (factor for call in trace.calls for factor, _ in _factors(call))
    return any(_value(factor, numbers) is not None for factor in factors)


@dataclass(frozen=True)
class Folds:
    """What to multiply, and what is then other than in the original: parts of recorded tensors."""

    scales: Mapping[str, tuple[Scale, ...]]  # parameter →
    tensors: Mapping[int, tuple[tuple[Box, float], ...]]  # recorded tensor → parts, factors


def folds(dense: Trace, slim: Trace) -> Folds:
    """What to multiply for the slim pass to use the dense one's numbers.

    Nothing where no number differs, or where none can be folded: the proof then fails.
    """
    scales: dict[str, list[Scale]] = defaultdict(list)
    tensors: dict[int, list[tuple[Box, float]]] = defaultdict(list)
    done: set[frozenset[int]] = set()
    old, new = constant_numbers(dense), constant_numbers(slim)
    for before, after in zip(dense.calls, slim.calls, strict=False):
        if before.op != after.op:
            break
        for ref, factor in _others(before, after, old, new):
            tensors[ref.id].append((whole(ref.shape), factor))
        ratio = _ratio(before, after, old, new)
        path = _path(dense, before) if ratio != 1.0 else None
        if path is None or path.targets in done:  # a module that runs twice is multiplied once
            continue
        done.add(path.targets)
        for number, box in path.boxes.items():
            tensors[number].append((box, ratio))
        for name, (axis, indices) in path.slices.items():
            scales[name].append(Scale(axis, indices, ratio))
    return Folds(
        {name: tuple(each) for name, each in scales.items()},
        {number: tuple(parts) for number, parts in tensors.items()},
    )


def _others(before: Call, after: Call, old: Numbers, new: Numbers) -> Iterator[tuple[Ref, float]]:
    """Results made of numbers alone that are others in the slim pass, and by what factor."""
    for ref, other in zip(before.outputs, after.outputs, strict=False):
        was, now = _value(ref, old), _value(other, new)
        if was and now is not None and now != was:
            yield ref, now / was


def _ratio(before: Call, after: Call, old: Numbers, new: Numbers) -> float:
    """What the dense pass multiplies by, over what the slim one does."""
    ratios = (
        _quotient(_value(was, old), _value(now, new)) ** power
        for (was, power), (now, _) in zip(_factors(before), _factors(after), strict=True)
    )
    return next((ratio for ratio in ratios if ratio != 1.0), 1.0)


def _factors(call: Call) -> Sequence[tuple[Any, int]]:
    """What a call multiplies by, each with the power that it has there."""
    factors = of(call.op).factors
    return factors(call) if factors else ()


def _quotient(above: float | None, below: float | None) -> float:
    return above / below if above and below else 1.0


def _value(factor: Any, numbers: Numbers) -> float | None:
    """A number in the code, or a tensor of one element that is made of such numbers alone."""
    if isinstance(factor, Ref):
        return numbers.get(factor.id)
    return float(factor) if isinstance(factor, (int, float)) else None


def _path(trace: Trace, call: Call) -> ScalingPath | None:
    """Either operand may be multiplied; the first that can be is."""
    paths = (path_to(trace, call, operand) for operand in refs_in(call.args[:2]))
    return next((path for path in paths if path is not None), None)
