"""Boxes: parts of a tensor as one vector of flags for each axis.

An element is in the box where its place is flagged along every axis. The cost of whatever is done
with boxes is that of the axes' lengths, not of the elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from slimnet.coupling.labels import Flags

Box: TypeAlias = tuple[Flags, ...]
"""Per axis [length]: which places are in it."""


class NotLinear(Exception):
    """A tensor cannot be multiplied by way of parameters alone."""


def whole(shape: Sequence[int]) -> Box:
    """All elements of a tensor."""
    return tuple(np.ones(length, bool) for length in shape)


def meet(left: Box, right: Box) -> bool:
    """Whether two boxes of one tensor have an element in common."""
    return all((a & b).any() for a, b in zip(left, right, strict=True))


def union(left: Box, right: Box) -> Box:
    """Both boxes as one; they may differ along one axis, or one holds the other."""
    joined = tuple(a | b for a, b in zip(left, right, strict=True))
    differ = [not np.array_equal(a, b) for a, b in zip(left, right, strict=True)]
    holds = any(all(map(np.array_equal, joined, box)) for box in (left, right))
    if sum(differ) > 1 and not holds:
        raise NotLinear
    return joined


def along(box: Box, axis: int) -> Flags:
    """The flags of one axis, where every other is flagged all along."""
    axis %= len(box)
    if not all(flags.all() for d, flags in enumerate(box) if d != axis):
        raise NotLinear
    return box[axis]


def one_axis(box: Box) -> tuple[int, tuple[int, ...]]:
    """A box as indices of the one axis that is not flagged all along."""
    axis = next((d for d, flags in enumerate(box) if not flags.all()), 0)
    return axis, tuple(np.flatnonzero(along(box, axis)).tolist())


def narrowed(box: Box, shape: Sequence[int]) -> Box:
    """The box of an operand that was broadcast: each of its slots is in all of them, or in none."""
    inner = box[len(box) - len(shape) :]
    spread = [flags for flags, n in zip(inner, shape, strict=True) if n == 1]
    if not all(flags.all() for flags in (*spread, *box[: len(box) - len(shape)])):
        raise NotLinear
    return tuple(
        np.ones(1, bool) if length == 1 else flags
        for flags, length in zip(inner, shape, strict=True)
    )


def exchanged(box: Box, axis: int, flags: Flags) -> Box:
    """The box with other flags along one axis."""
    return (*box[:axis], flags, *box[axis + 1 :])


def marked(length: int, places: Any, flags: Any = True) -> Flags:
    """Flags [length] that are set at some places only."""
    marked = np.zeros(length, bool)
    marked[places] = flags
    return marked
