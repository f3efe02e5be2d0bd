"""Which call stands in the way, when a slim network breaks or differs from the reference.

A :class:`~slimnet.proof.certificate.Mismatch` holds the first call at which the two differ. The
groups that it reads or gives are then pinned, with its line as the reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from slimnet.capture.graph import Call, Ref
from slimnet.coupling.couple import Pin
from slimnet.proof.certificate import Mismatch
from slimnet.proof.raised import blamed
from slimnet.proof.reference import SurvivingPlaces


def culprits(mismatch: Mismatch) -> list[Pin]:
    """The calls at which they differ; where one has nothing to pin, the last before it that has."""
    pins = [_culprit(mismatch, calls) for calls in mismatch.runs]
    return list(dict.fromkeys(pin for pin in pins if pin is not None))


def _culprit(mismatch: Mismatch, calls: Sequence[Call]) -> Pin | None:
    if mismatch.raised is not None:
        return blamed(mismatch.raised, mismatch.context, calls)
    places = SurvivingPlaces(mismatch.context)
    name = str(calls[-1].op).rsplit(".", 1)[0] if calls else ""
    for call in reversed(calls):
        refs: tuple[Ref, ...] = (*call.outputs, *call.reads)
        if any(places.of(ref) for ref in refs):
            return Pin(call.index, f"{name} {mismatch.why}", mismatch.context.number)
    return None
