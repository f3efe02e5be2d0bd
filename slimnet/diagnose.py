"""Which call stands in the way, when a slim network breaks or differs from the reference.

Both networks run in lockstep order: of every operator's result in the reference, what survives is
summed; the first operator of the slim network whose result has another shape or other sums is the
culprit. The groups behind it are then pinned, with its line as the reason.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimnet.couple import Pin
from slimnet.trace import Ref
from slimnet.verify import Proof, _Restricted, run, weights_of


def find_culprit(
    model: nn.Module, slim: nn.Module, proof: Proof, example: tuple[Any, ...]
) -> Pin | None:
    """The call at which the slim network goes wrong; None where it cannot be told."""
    full, small = weights_of("random", model, proof.plan, seed=0)
    expected = _Summaries(proof)
    run(model, full, example, _Restricted(proof), expected.of_reference)
    actual = _Summaries(proof)
    broken = ""
    try:
        run(slim, small, example, None, actual.of_slim)
    except Exception as error:  # whatever the user's forward raises
        broken = str(error).strip().split("\n")[0]
    place = _first_difference(expected.rows, actual.rows)
    if place is None and broken:
        place = len(actual.rows)
    if place is None or place >= len(proof.trace.calls):
        return None
    why = f"fails on the slim network ({broken})" if broken else "gives another result when cut"
    return _nearest(proof, place, why)


class _Summaries:
    """Per operator: its name, and shape and sums of each result."""

    def __init__(self, proof: Proof) -> None:
        self.proof = proof
        self.rows: list[tuple[Any, list[tuple[tuple[int, ...], float, float]]]] = []

    def of_slim(self, index: int, op: Any, result: Any) -> None:
        """Sums of a result as it is."""
        self.rows.append((op, [_summary(x) for x in _tensors(result)]))

    def of_reference(self, index: int, op: Any, result: Any) -> None:
        """Sums of what survives of a result."""
        calls = self.proof.trace.calls
        refs = calls[index].outputs if index < len(calls) and calls[index].op == op else ()
        tensors = _tensors(result)
        if len(refs) == len(tensors):
            tensors = [self._survivors(x, ref) for x, ref in zip(tensors, refs, strict=True)]
        self.rows.append((op, [_summary(x) for x in tensors]))

    def _survivors(self, x: Tensor, ref: Ref) -> Tensor:
        labelled = self.proof.coupling.tensors[0].get(ref.id)
        for d, axis in enumerate(labelled.axes if labelled else ()):
            if axis is not None and x.shape[d] == len(axis):
                alive = self.proof.alive[self.proof.coupling.atoms.of[axis]]
                x = x.index_select(d, torch.from_numpy(np.flatnonzero(alive)).to(x.device))
        return x


def _tensors(result: Any) -> list[Tensor]:
    outputs = result if isinstance(result, (tuple, list)) else (result,)
    return [x for x in outputs if isinstance(x, Tensor)]


def _summary(x: Tensor) -> tuple[tuple[int, ...], float, float]:
    values = x.double() if not x.is_complex() else x.abs().double()
    return tuple(x.shape), float(values.sum()), float(values.abs().sum())


def _first_difference(expected: list[Any], actual: list[Any]) -> int | None:
    for place, (left, right) in enumerate(zip(expected, actual, strict=False)):
        if left[0] != right[0] or len(left[1]) != len(right[1]):
            return place
        if any(_differ(a, b) for a, b in zip(left[1], right[1], strict=True)):
            return place
    return None


def _differ(a: tuple[Any, float, float], b: tuple[Any, float, float]) -> bool:
    if a[0] != b[0]:
        return True
    scale = max(a[2], b[2], 1e-12)
    return abs(a[1] - b[1]) > 1e-7 * scale or abs(a[2] - b[2]) > 1e-7 * scale


def _nearest(proof: Proof, place: int, why: str) -> Pin | None:
    """The call itself, or the last one before it, that still has something to pin."""
    for index in range(place, -1, -1):
        call = proof.trace.calls[index]
        refs = [*call.outputs, *_argument_refs(call.args)]
        if any(_is_cut(proof, ref) for ref in refs):
            return Pin(index, f"{str(proof.trace.calls[place].op).rsplit('.', 1)[0]} {why}")
    return None


def _argument_refs(tree: Any) -> list[Ref]:
    if isinstance(tree, Ref):
        return [tree]
    if isinstance(tree, (list, tuple)):
        return [ref for entry in tree for ref in _argument_refs(entry)]
    return []


def _is_cut(proof: Proof, ref: Ref) -> bool:
    labelled = proof.coupling.tensors[0].get(ref.id)
    return any(
        axis is not None and not proof.alive[proof.coupling.atoms.of[axis]].all()
        for axis in (labelled.axes if labelled else ())
    )
