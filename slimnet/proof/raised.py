"""What was raised on the slim network: in words, and which call to pin.

An ``assert`` has no message and a ``raise`` no tensor; but the exception has its line and the
variables of that function, and the calls that ran before it are recorded. The last of them whose
result the line may have looked at is pinned; where none ran before, the first one after it.
"""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from slimnet.capture.graph import Call, Ref
from slimnet.coupling.couple import Pin
from slimnet.proof.reference import CutContext, SurvivingPlaces
from slimnet.text import first_line


@dataclass(frozen=True)
class Raised:
    """An exception of the slim network's forward."""

    text: str  # its message, else its kind; and the line, where the user's code raised it
    own: bool  # whether the user's code raised it, and no operator
    shapes: frozenset[tuple[int, ...]]  # of the tensors among the user's function's variables

    @classmethod
    def of(cls, error: BaseException) -> Raised:
        """Read an exception and its traceback."""
        frames = list(traceback.walk_tb(error.__traceback__))
        users = [(frame, line) for frame, line in frames if _is_users(frame)]
        own = bool(users) and frames[-1] == users[-1]
        variables = users[-1][0].f_locals.values() if own else ()
        shapes = frozenset(tuple(x.shape) for x in variables if isinstance(x, Tensor))
        return cls(_message(error, users[-1] if own else None), own, shapes)


def _is_users(frame: FrameType) -> bool:
    return not frame.f_code.co_filename.startswith(_INTERNAL)


_INTERNAL = (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent), "<frozen")


def _message(error: BaseException, place: tuple[FrameType, int] | None) -> str:
    """One line: the message, or else the kind of exception, and the line that raised it."""
    first, kind = first_line(error), type(error).__name__
    if place is None:
        return first or kind
    frame, number = place
    file = frame.f_code.co_filename
    code = "" if first else linecache.getline(file, number).strip()
    where = f"{first or kind} at {Path(file).name}:{number}"
    return f"{where}: {code}" if code else where


def blamed(raised: Raised, context: CutContext, ran: Sequence[Call]) -> Pin | None:
    """The pin to try once these of the recorded calls had run; None where nothing is cut.

    Where the user's code objects it is what a call has given that stays; where an operator fails
    (the last of ``ran``), all that meets there.
    """
    slim = _SlimShapes(context)
    before = list(reversed(ran))
    shown = [call for call in before if any(slim.shape(x) in raised.shapes for x in call.outputs)]
    for call in (*shown, *before):
        if any(map(slim.is_cut, _tensors(call, raised.own))):
            return Pin(call.index, _because(call, raised), context.number, raised.own)
    for call in context.trace.calls[len(ran) :]:
        if any(map(slim.is_cut, _tensors(call, False))):
            return Pin(call.index, _because(call, raised), context.number)
    return None


def _because(call: Call, raised: Raised) -> str:
    name = str(call.op).rsplit(".", 1)[0]
    how = "gives what the code refuses" if raised.own else "fails on the slim network"
    return f"{name} {how} ({raised.text})"


def _tensors(call: Call, outputs_only: bool) -> list[Ref]:
    return [*call.outputs, *(() if outputs_only else call.reads)]


class _SlimShapes:
    """The shapes of recorded tensors in the slim network."""

    def __init__(self, context: CutContext) -> None:
        self._places = SurvivingPlaces(context)

    def shape(self, ref: Ref) -> tuple[int, ...]:
        """Its shape in the slim network."""
        places = self._places.of(ref)
        return tuple(len(places[d]) if d in places else n for d, n in enumerate(ref.shape))

    def is_cut(self, ref: Ref) -> bool:
        """Whether an axis of it loses some."""
        return bool(self._places.of(ref))
