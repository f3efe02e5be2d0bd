"""Channels that no call reads: whatever they hold, the network gives the same.

Code that takes a part of an axis leaves the rest unread. A channel is read where a call takes it in
and gives results without it (a product, a sum), or where a statistic counts it; calls that hand it
on, or take the slots beside it, do not read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from slimnet.capture.graph import Call, Ref
from slimnet.capture.trace import Trace
from slimnet.coupling.couple import Coupling
from slimnet.coupling.labels import Flags, Labelled, Labels
from slimnet.operator import Reading, of


def unread(traces: Sequence[Trace], coupling: Coupling) -> Flags:
    """[atoms]: which of those that may leave no recorded pass reads."""
    read = ~coupling.atoms.free
    for statistic in coupling.statistics:
        read[coupling.atoms.of[statistic.axis]] = True
    for trace, tensors in zip(traces, coupling.tensors, strict=True):
        tracker = _ReadTracker(tensors, coupling)
        for call in trace.calls:
            read[tracker.atoms_read(call)] = True
    return ~read


class _ReadTracker:
    """Says of the calls of a pass, one after the other, which atoms each reads."""

    def __init__(self, tensors: Mapping[int, Labelled], coupling: Coupling) -> None:
        self._tensors = tensors
        self._of = coupling.atoms.of
        self._handed_on = np.zeros(len(coupling.atoms.reason), bool)  # all False between calls
        self._weights: set[int] = set()  # parameters, and what is made of them alone

    def atoms_read(self, call: Call) -> Labels:
        """The atoms that a call reads."""
        operands = call.reads
        self._weights |= {ref.id for ref in operands if ref.name is not None}
        weights = [ref for ref in operands if ref.id in self._weights]
        if operands and len(weights) == len(operands):
            self._weights |= {ref.id for ref in call.outputs}
        reading = of(call.op).reading
        reading = reading(call) if callable(reading) else reading
        if not reading or reading is Reading.PART:
            return self._atoms(())
        if reading is Reading.EACH:
            return self._without(operands, call.outputs)
        data = self._atoms([ref for ref in operands if ref.id not in self._weights])
        return np.concatenate([data, self._without(weights, call.outputs)])

    def _atoms(self, refs: Sequence[Ref]) -> Labels:
        axes = (axis for r in refs if r.id in self._tensors for axis in self._tensors[r.id].axes)
        atoms = [self._of[axis] for axis in axes if axis is not None]
        return np.concatenate(atoms) if atoms else np.empty(0, np.int64)

    def _without(self, refs: Sequence[Ref], others: Sequence[Ref]) -> Labels:
        """The atoms of some tensors that others do not have."""
        theirs, mine = self._atoms(others), self._atoms(refs)
        self._handed_on[theirs] = True
        rest = mine[~self._handed_on[mine]]
        self._handed_on[theirs] = False
        return rest
