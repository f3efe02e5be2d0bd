"""Which call stands in the way, when a slim network breaks or differs from the reference.

Both networks run in lockstep order: of every operator's result in the reference, what survives is
summed; the first operator of the slim network whose result has another shape or other sums is the
culprit. The groups behind it are then pinned, with its line as the reason.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from slimnet.capture.trace import Call, Ref, refs_in
from slimnet.coupling.couple import Pin
from slimnet.cutting.reference import Proof, Restricted, run
from slimnet.cutting.standins import weights_of


def find_culprit(
    model: nn.Module, slim: nn.Module, proof: Proof, example: tuple[Any, ...]
) -> Pin | None:
    """The call at which the slim network goes wrong; None where it cannot be told."""
    full, small = weights_of("random", model, proof.plan, seed=0)
    expected, actual = _Summaries(proof), _Summaries(None)
    run(model, full, example, Restricted(proof), expected.add)
    broken = ""
    try:
        run(slim, small, example, None, actual.add)
    except Exception as error:  # whatever the user's forward raises
        broken = str(error).strip().split("\n")[0]
    place = _first_difference(expected.rows, actual.rows)
    if place is None and broken:
        place = len(actual.rows)
    if place is None:
        return None
    why = f"fails on the slim network ({broken})" if broken else "gives another result when cut"
    calls = [row.call for row in expected.rows[: place + 1] if row.call is not None]
    return _nearest(proof, calls, why)


_Sums: TypeAlias = tuple[tuple[int, ...], float, float]


@dataclass(frozen=True)
class _Row:
    """One operator: the recorded call it is, and shape and sums of each result (None: unread)."""

    op: Any
    call: Call | None
    sums: tuple[_Sums | None, ...]


class _Summaries:
    """Collects the rows of one run: of the reference (with its proof) only what survives."""

    def __init__(self, proof: Proof | None) -> None:
        self.proof = proof
        self.rows: list[_Row] = []
        self._seen: Counter[Any] = Counter()
        self._calls: dict[tuple[Any, int], Call] = {}
        self._read: set[int] = set()  # say, no one asks a norm for the statistics it used
        total: Counter[Any] = Counter()
        for call in proof.trace.calls if proof else ():
            self._calls[call.op, total[call.op]] = call
            total[call.op] += 1
            self._read |= {ref.id for ref in refs_in([*call.args, *call.kwargs.values()])}
        self._read |= {ref.id for ref in proof.trace.outputs} if proof else set()

    def add(self, op: Any, result: Any) -> None:
        """Sum up one operator's result."""
        call = self._calls.get((op, self._seen[op]))
        self._seen[op] += 1
        tensors = _tensors(result)
        sums: list[_Sums | None]
        if call is None or len(call.outputs) != len(tensors):
            sums = [_summary(x) for x in tensors]
        else:
            sums = [self._summary(x, r) for x, r in zip(tensors, call.outputs, strict=True)]
        folded = self.proof.multiplied if self.proof else frozenset()
        if call is not None and any(ref.id in folded for ref in call.outputs):
            call = None  # other by design until the call that makes up for it
        self.rows.append(_Row(op, call, tuple(sums)))

    def _summary(self, x: Tensor, ref: Ref) -> _Sums | None:
        return _summary(self._survivors(x, ref)) if ref.id in self._read else None

    def _survivors(self, x: Tensor, ref: Ref) -> Tensor:
        labelled = self.proof.coupling.tensors[0].get(ref.id) if self.proof else None
        if self.proof is None or labelled is None or tuple(x.shape) != labelled.shape:
            return x
        for d, axis in enumerate(labelled.axes):
            if axis is not None:
                alive = self.proof.alive[self.proof.coupling.atoms.of[axis]]
                x = x.index_select(d, torch.from_numpy(np.flatnonzero(alive)).to(x.device))
        return x


def _tensors(result: Any) -> list[Tensor]:
    outputs = result if isinstance(result, (tuple, list)) else (result,)
    return [x for x in outputs if isinstance(x, Tensor)]


def _summary(x: Tensor) -> _Sums:
    values = x.double() if not x.is_complex() else x.abs().double()
    return tuple(x.shape), float(values.sum()), float(values.abs().sum())


def _first_difference(expected: list[_Row], actual: list[_Row]) -> int | None:
    for place, (left, right) in enumerate(zip(expected, actual, strict=False)):
        if left.op != right.op or len(left.sums) != len(right.sums):
            return place
        if left.call and any(_differ(a, b) for a, b in zip(left.sums, right.sums, strict=True)):
            return place
    return None


def _differ(a: _Sums | None, b: _Sums | None) -> bool:
    if a is None or b is None:
        return False
    if a[0] != b[0]:
        return True
    scale = max(a[2], b[2], 1e-12)
    return abs(a[1] - b[1]) > 1e-7 * scale or abs(a[2] - b[2]) > 1e-7 * scale


def _nearest(proof: Proof, calls: list[Call], why: str) -> Pin | None:
    """The last call, or the last one before it that still has something to pin."""
    name = str(calls[-1].op).rsplit(".", 1)[0] if calls else ""
    for call in reversed(calls):
        if any(_is_cut(proof, ref) for ref in (*call.outputs, *refs_in(call.args))):
            return Pin(call.index, f"{name} {why}")
    return None


def _is_cut(proof: Proof, ref: Ref) -> bool:
    labelled = proof.coupling.tensors[0].get(ref.id)
    return any(
        axis is not None and not proof.alive[proof.coupling.atoms.of[axis]].all()
        for axis in (labelled.axes if labelled else ())
    )
