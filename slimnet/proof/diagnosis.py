"""Which call stands in the way, when a slim network breaks or differs from the reference.

The proof knows the first call at which the networks part (:mod:`.verify`). The groups behind it are
then pinned, with its line as the reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from slimnet.capture.graph import Call, Ref
from slimnet.coupling.couple import Pin
from slimnet.proof.certificate import Mismatch
from slimnet.proof.raised import blamed
from slimnet.proof.reference import SurvivingPlaces


def culprits(mismatch: Mismatch) -> list[Pin]:
    """The calls where they part, each or the last one before it that has something to pin."""
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
