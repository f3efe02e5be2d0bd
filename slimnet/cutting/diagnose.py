"""Which call stands in the way, when a slim network breaks or differs from the reference.

The proof knows the first call at which the networks part (:mod:`.verify`). The groups behind it are
then pinned, with its line as the reason.
"""

from __future__ import annotations

from slimnet.capture.graph import Ref
from slimnet.coupling.couple import Pin
from slimnet.cutting.raised import blamed
from slimnet.cutting.reference import Survivors
from slimnet.cutting.verify import Mismatch


def culprit(mismatch: Mismatch) -> Pin | None:
    """The call where they part, or the last one before it that has something to pin."""
    if mismatch.raised is not None:
        return blamed(mismatch.raised, mismatch.proof, mismatch.calls)
    survivors = Survivors(mismatch.proof)
    name = str(mismatch.calls[-1].op).rsplit(".", 1)[0] if mismatch.calls else ""
    for call in reversed(mismatch.calls):
        refs: tuple[Ref, ...] = (*call.outputs, *call.reads)
        if any(survivors.of(ref) for ref in refs):
            return Pin(call.index, f"{name} {mismatch.why}", mismatch.proof.number)
    return None
