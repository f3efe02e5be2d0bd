"""One step back: what the operands of a call must be for its result to be multiplied.

A step is called with the call, the box of one result that is multiplied, and which result it is; it
gives the operands that have to be multiplied, each with its box, or raises
:class:`~slimnet.coupling.scaling.boxes.NotLinear`. It is the column ``scaling`` of an operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from slimnet.capture.graph import Call, Ref
from slimnet.coupling.scaling.boxes import Box


@dataclass(frozen=True)
class Way:
    """Where a step may choose: what depends on the input, and which side of a product goes on."""

    varies: set[int]  # recorded tensors
    side: int


Demands: TypeAlias = list[tuple[Ref, Box]]


def same(_: Way, call: Call, box: Box, __: int) -> Demands:
    """The first argument, element by element."""
    return [(call.args[0], box)]
