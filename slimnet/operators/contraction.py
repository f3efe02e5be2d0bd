"""What operators share that sum products over an axis.

Removing a slot of the summed axis is exact where one side is zero there in the zeroed original.
"""

from __future__ import annotations

from functools import partial

from slimnet.capture.graph import Ref
from slimnet.coupling.at import At
from slimnet.coupling.labels import Axis, Flags, Labelled
from slimnet.coupling.scaling.boxes import exchanged, whole
from slimnet.coupling.scaling.steps import Demands
from slimnet.operators.families import NO_LINK, plain

summing = partial(plain, moves=False, link=NO_LINK, permitted=True)


def contract(at: At, left: Labelled, a: Axis, right: Labelled, b: Axis) -> None:
    """Sum over axis ``a`` of ``left`` and ``b`` of ``right``."""
    at.tie(a, b)
    if not (left.vanishes or right.vanishes):
        at.statistic(a if a is not None else b, "sums over slots that are not zero when removed")


def vanish_beside(at: At, *sides: tuple[Labelled, Axis]) -> None:
    """Products vanish in each slot of an outer axis in which the operand that has it does."""
    at.vanish(all(x.vanishes for x, axis in sides if axis is not None))


def rows_and_bias(channels: Flags, weight: Ref, axis: int, bias: Ref | None) -> Demands:
    """Channels of the output: slices of the weight along an axis, and the bias."""
    demands = [(weight, exchanged(whole(weight.shape), axis, channels))]
    if bias is not None:
        demands.append((bias, exchanged(whole(bias.shape), len(bias.shape) - 1, channels)))
    return demands
