"""Labels: one integer per index of every axis, and what ties or pins them.

A label stands for one channel slot. Rules pass labels on, tie them (they survive or leave together)
and pin them (they stay, for a reason). One connected-components call turns all ties into atoms:
sets of slots that can only be removed together. Integers only: nothing here knows PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Labels: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Flags: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
Axis: TypeAlias = Labels | None
"""The labels of one axis [length]; None where the axis is inert: it always keeps its length."""


@dataclass(eq=False)
class Storage:
    """What views of one tensor share: whether its removed slots hold zeros in the reference."""

    vanishes: bool
    size: int  # elements


@dataclass(frozen=True, eq=False)
class Labelled:
    """A tensor as a rule sees it: its shape and the labels of every axis.

    Where the groups of a convolution lose other columns, axis 1 of its weight [O, C/G, *] has C
    labels, one for each input channel.
    """

    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    storage: Storage
    dtype: Any = None

    @property
    def vanishes(self) -> bool:
        """Whether every removed slot holds zero in the reference (the zeroed original)."""
        return self.storage.vanishes

    @property
    def live(self) -> tuple[int, ...]:
        """The axes that carry labels."""
        return tuple(d for d, axis in enumerate(self.axes) if axis is not None)

    @cached_property
    def lengths(self) -> tuple[Axis, ...]:
        """Per axis, the labels of which as many survive as the axis will be long.

        These are the axis' own, but where the groups of a convolution lose other columns: there
        the first group's, since every group loses as many.
        """
        return tuple(
            axis if axis is None or len(axis) == length else axis[:length]
            for axis, length in zip(self.axes, self.shape, strict=True)
        )

    def flat(self, dims: Sequence[int]) -> Axis:
        """Labels of these adjacent axes merged into one; at most one of them may be live."""
        place = next((d for d in dims if self.axes[d] is not None), None)
        axis = None if place is None else self.axes[place]
        if axis is None:
            return None
        lengths = [self.shape[d] for d in dims]
        shape = [-1 if d == place else 1 for d in dims]
        return np.broadcast_to(axis.reshape(shape), lengths).reshape(-1)


def matching_runs(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Runs of old axes and runs of new axes with equal products, as short as can be.

    Axes of length one belong to no run.
    """
    ins, outs = ([d for d, n in enumerate(shape) if n != 1] for shape in (old, new))
    pairs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(ins) and j < len(outs):
        left, right = [ins[i]], [outs[j]]
        have, want = old[ins[i]], new[outs[j]]
        while have != want:
            if have < want:
                i += 1
                left.append(ins[i])
                have *= old[ins[i]]
            else:
                j += 1
                right.append(outs[j])
                want *= new[outs[j]]
        pairs.append((left, right))
        i, j = i + 1, j + 1
    return pairs


class Ledger:
    """Collects ties and pins while rules run; labels are numbered from 0."""

    def __init__(self) -> None:
        self.count = 0
        self._left: list[Labels] = []
        self._right: list[Labels] = []
        self._pins: list[tuple[Labels, int]] = []

    def fresh(self, length: int) -> Labels:
        """New labels, tied to nothing."""
        start, self.count = self.count, self.count + length
        return np.arange(start, self.count, dtype=np.int64)

    def tie(self, left: Labels, right: Labels) -> None:
        """Slot i of one and slot i of the other live and die together."""
        if left is not right:
            self._left.append(left)
            self._right.append(right)

    def pin(self, labels: Labels, reason: int) -> None:
        """These slots stay."""
        self._pins.append((labels, reason))

    def solve(self) -> Atoms:
        """One connected-components call over everything that was said so far."""
        left = np.concatenate(self._left) if self._left else np.empty(0, np.int64)
        right = np.concatenate(self._right) if self._right else np.empty(0, np.int64)
        differ = left != right
        left, right = left[differ], right[differ]
        graph = coo_matrix(
            (np.ones(len(left), np.int8), (left, right)), shape=(self.count, self.count)
        )
        number, atom = connected_components(graph, directed=False)
        reason = np.full(number, -1, np.int64)
        for labels, why in reversed(self._pins):  # the first reason given is the one kept
            reason[atom[labels]] = why
        return Atoms(atom.astype(np.int64), reason)


@dataclass(frozen=True, eq=False)
class Atoms:
    """The solved ties."""

    of: Labels  # [labels]: the atom of every label
    reason: Labels  # [atoms]: -1 where the atom may be removed, else why not

    @cached_property
    def free(self) -> Flags:
        """[atoms]: which may be removed."""
        free: Flags = self.reason < 0
        return free
