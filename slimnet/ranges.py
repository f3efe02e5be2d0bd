"""Sorted indices as ranges [first, last], both included: short, and easy to read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from slimnet.errors import InputError


def ranges_of(indices: Sequence[int]) -> list[list[int]]:
    """``[0, 1, 2, 7]`` → ``[[0, 2], [7, 7]]``."""
    ranges: list[list[int]] = []
    for index in map(int, indices):
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ranges


def indices_in(ranges: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The inverse of :func:`ranges_of`."""
    return tuple(i for first, last in ranges for i in range(first, last + 1))


def written(indices: Sequence[int]) -> str:
    """``0-2, 7``."""
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in ranges_of(indices))


def parse_indices(text: str) -> tuple[int, ...]:
    """What :func:`written` gave, sorted; raises :class:`~slimnet.errors.InputError`."""
    parts = [re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", x) for x in text.split(",")]
    ranges = [[int(x[1]), int(x[2] or x[1])] for x in parts if x is not None]
    if len(ranges) < len(parts) or any(last < first for first, last in ranges):
        raise InputError(f"{text!r} does not name channels: write them as 0-3, 7")
    if sum(last - first + 1 for first, last in ranges) > MOST_INDICES:
        raise InputError(f"{text!r:.40} names more than {MOST_INDICES:,} channels")
    return tuple(sorted(set(indices_in(ranges))))


MOST_INDICES = 2**24
"""Most indices that ranges may stand for; half of all channels of ViT-H are 800 000."""
