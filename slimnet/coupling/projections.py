"""Distributions whose places have a meaning of their own: a frozen weight reads them.

A detector may give each side of a box as a distribution over bins, and take its mean with weights
0, 1, 2 … that are never trained (Li et al., *Generalized Focal Loss*, 2020). A softmax over fewer
bins is a distribution too, and the proof of such a cut would hold; but the places that are left
cannot say what the lost ones said, and no training mends what is frozen. So all of them stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from slimnet.capture.graph import Call, Ref
from slimnet.capture.trace import Trace
from slimnet.coupling.labels import Labels
from slimnet.operator import of


def projected(
    trace: Trace, shared_out: Sequence[tuple[Call, Labels]]
) -> Iterator[tuple[Labels, Call]]:
    """The axes over which a softmax shares out what a frozen weight then reads, and where it does.

    ``shared_out`` are the calls that share out, and over which axis.
    """
    axes = {ref.id: axis for call, axis in shared_out for ref in call.outputs}
    frozen: set[int] = set()
    for call in trace.calls if axes else ():
        weights = [ref for ref in call.reads if _is_frozen(ref) or ref.id in frozen]
        moves = of(call.op).moves
        for ref in call.reads:
            axis = axes.get(ref.id)
            if axis is None:
                continue
            if moves:  # laid out anew, or a part of it
                axes |= {out.id: axis for out in call.outputs}
            if any(len(axis) in weight.shape for weight in weights):
                yield axis, call
        if moves and len(weights) == len(call.reads):
            frozen |= {out.id for out in call.outputs}


def _is_frozen(ref: Ref) -> bool:
    """Whether it is a parameter that asks for no gradients, or a buffer."""
    return ref.name is not None and not ref.trains
