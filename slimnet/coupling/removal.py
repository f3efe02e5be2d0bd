"""What leaves one tensor: the one place that selects it, zeroes it and counts it.

Indices count along their axis, but for one kind of tensor: the weight [O, C/G, *] of a grouped
convolution whose G groups lose other columns. There the indices of axis 1 are input channels, 0 to
C − 1, as in the block-diagonal weight [O, C, *] that it stands for. Each group loses as many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from slimnet.errors import InputError

COLUMNS = 1
"""The axis whose indices may count across groups."""


@dataclass(frozen=True)
class Removal:
    """Indices that leave, by axis, in order; those of axis 1 across so many groups."""

    axes: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    groups: int = 1

    def select(self, values: Tensor) -> Tensor:
        """What stays; the tensor itself where nothing leaves."""
        for axis in sorted(self.axes, reverse=True):  # rows last: they tell the groups
            kept = self.kept(axis, values.shape).to(values.device)
            if self._across(axis) == 1:
                values = values.index_select(axis, kept)
            else:
                values = _columns(values, kept.reshape(self.groups, -1))
        return values

    def zero_(self, values: Tensor) -> Tensor:
        """What leaves becomes zero, in place."""
        for axis, indices in self.axes.items():
            gone = torch.tensor(indices, dtype=torch.long, device=values.device)
            zero_part(values, axis, gone, self._across(axis))
        return values

    def kept(self, axis: int, shape: Sequence[int]) -> Tensor:
        """The indices along an axis that stay, of a tensor of this shape."""
        return _left(self.length(axis, shape), self.axes.get(axis, ()))

    def length(self, axis: int, shape: Sequence[int]) -> int:
        """How many indices an axis has, of a tensor of this shape."""
        return shape[axis] * self._across(axis)

    def after(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of what stays of a tensor."""
        return tuple(n - self._shorter(d) for d, n in enumerate(shape))

    def before(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of a tensor of which so much stays."""
        return tuple(n + self._shorter(d) for d, n in enumerate(shape))

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape has what leaves, and its groups lose as much."""
        if not all(0 <= axis < len(shape) for axis in self.axes):
            return False
        if not all(_increasing(x, self.length(axis, shape)) for axis, x in self.axes.items()):
            return False
        return self.groups == 1 or (len(shape) > COLUMNS and self._is_even(shape))

    def then(self, later: Removal, shape: Sequence[int]) -> Removal:
        """Both in a row, from a tensor of this shape on."""
        groups = max(self.groups, later.groups)
        if groups > 1 and {self.groups, later.groups} - {1, groups}:
            raise InputError(f"two cuts count across {self.groups} and {later.groups} groups")
        first, second = self._counted(groups, shape), later._counted(groups, self.after(shape))
        axes = {}
        for axis in sorted(first.axes.keys() | second.axes.keys()):
            kept = first.kept(axis, shape)
            stay = kept[second.kept(axis, first.after(shape))]
            axes[axis] = tuple(_left(first.length(axis, shape), stay.tolist()).tolist())
        axes = {d: gone for d, gone in axes.items() if gone}
        return Removal(axes, groups if COLUMNS in axes else 1)

    def _counted(self, groups: int, shape: Sequence[int]) -> Removal:
        """The same, counted across groups."""
        if self.groups == groups:
            return self
        alike = np.arange(groups)[:, None] * shape[COLUMNS] + self.axes.get(COLUMNS, ())
        columns = tuple(alike.astype(np.int64).ravel().tolist())
        return Removal({**self.axes, COLUMNS: columns}, groups)

    def _across(self, axis: int) -> int:
        return self.groups if axis == COLUMNS else 1

    def _shorter(self, axis: int) -> int:
        return len(self.axes.get(axis, ())) // self._across(axis)

    def _is_even(self, shape: Sequence[int]) -> bool:
        """Whether every group loses as many of its rows, and of its columns."""
        if shape[0] < self.groups or shape[0] % self.groups:
            return False
        for axis in (0, COLUMNS):
            group = np.arange(length := self.length(axis, shape)) * self.groups // max(length, 1)
            gone = np.asarray(self.axes.get(axis, ()), np.int64)
            if len(set(np.bincount(group[gone], minlength=self.groups).tolist())) > 1:
                return False
        return True


def part(values: Tensor, axis: int, positions: Tensor, groups: int = 1) -> Tensor:
    """[positions, …]: what belongs to each index along an axis."""
    if groups == 1:
        return values.index_select(axis, positions).movedim(axis, 0)
    return by_channel(values, groups)[_place(values, positions)]


def zero_part(values: Tensor, axis: int, positions: Tensor, groups: int = 1) -> None:
    """What belongs to these indices becomes zero, in place."""
    if groups == 1:
        values.index_fill_(axis, positions, 0)
    else:
        by_channel(values, groups)[_place(values, positions)] = 0


def add_part(values: Tensor, axis: int, positions: Tensor, rows: Tensor, groups: int = 1) -> None:
    """Add rows [positions, …] to what belongs to these indices, in place."""
    if groups == 1:
        values.index_add_(axis, positions, rows.movedim(0, axis))
    else:
        by_channel(values, groups)[_place(values, positions)] += rows


def of_elements(along: Tensor, shape: Sequence[int], axis: int, groups: int = 1) -> Tensor:
    """What each element of a tensor of this shape has by its index along an axis."""
    sizes = [-1 if d == axis else 1 for d in range(len(shape))]
    if groups == 1:
        return along.reshape(sizes).expand(tuple(shape))
    each = along.reshape(groups, *sizes).expand(groups, shape[0] // groups, *shape[1:])
    return each.flatten(0, 1)


def by_channel(values: Tensor, groups: int) -> Tensor:
    """[G, C/G, O/G, *]: a grouped convolution's weight [O, C/G, *], each input channel first."""
    view: Tensor = values.unflatten(0, (groups, -1)).transpose(1, 2)
    return view


def _place(values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Group and column of input channels."""
    return positions // values.shape[COLUMNS], positions % values.shape[COLUMNS]


def _columns(values: Tensor, kept: Tensor) -> Tensor:
    """The columns of each group [G, k], counted across groups."""
    weights = values.unflatten(0, (len(kept), -1))  # of each group
    pairs = zip(weights, kept % values.shape[COLUMNS], strict=True)
    return torch.cat([weight.index_select(COLUMNS, columns) for weight, columns in pairs])


def _left(length: int, removed: Sequence[int]) -> Tensor:
    """The indices of an axis that are not among these."""
    kept = np.ones(length, bool)
    kept[np.asarray(removed, np.int64)] = False
    return torch.from_numpy(np.flatnonzero(kept))


def _increasing(indices: Sequence[int], length: int) -> bool:
    bounded = np.array([-1, *indices, length])
    return bool((np.diff(bounded) > 0).all())
