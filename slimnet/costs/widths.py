"""What a network costs at given widths, fast enough to search with.

Takes the model of one quantity and the order in which the atoms of each group leave; gives the
amount as a function of how many survive. The length of an axis is then a table per group, and a sum
of products of lengths is some numpy calls for the whole network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

from slimnet.costs.quantity import Model, Products
from slimnet.coupling.groups import Group
from slimnet.coupling.labels import Atoms, Labels

Widths: TypeAlias = dict[int, int]
"""How many atoms of each group survive."""


class WidthCost:
    """What one quantity of a network is, as a function of the widths of its groups.

    ``orders`` says for each group that may shrink which of its atoms leave, the first first.
    """

    def __init__(
        self,
        model: Model,
        atoms: Atoms,
        groups: Sequence[Group],
        orders: Mapping[int, Labels],
    ) -> None:
        axes = _Axes(atoms, [g for g in groups if g.number in orders], orders)
        self._total = _Sum(model, axes) if isinstance(model, Products) else _Called(model, axes)
        self._lengths = axes.lengths()

    def __call__(self, widths: Mapping[int, int]) -> float:
        """The amount when so many atoms of each group survive; groups left out stay whole."""
        return self._total(self._lengths.at(widths))


class _Sum:
    """A sum of products: those of the same axes as one, all in a few calls of numpy."""

    def __init__(self, model: Products, axes: _Axes) -> None:
        merged: dict[tuple[int, ...], int] = defaultdict(int)
        for term in model.terms:
            places = [None if axis is None else axes.place(axis) for axis, _ in term.axes]
            fixed = prod(n for p, (_, n) in zip(places, term.axes, strict=True) if p is None)
            merged[tuple(sorted(p for p in places if p is not None))] += term.factor * fixed
        most = max(map(len, merged), default=0)
        one = len(axes.fixed)  # a term of fewer axes is padded with a length of one
        padded = [[*p, *[one] * (most - len(p))] for p in merged]
        self._places = np.array(padded, np.int64).reshape(len(merged), most)
        self._factors = np.array(list(merged.values()), np.int64)

    def __call__(self, lengths: Labels) -> int:
        """``lengths`` [axes]."""
        return int(self._factors @ lengths[self._places].prod(axis=1))


class _Called:
    """Any other model: it is called with the lengths that it reads."""

    def __init__(self, model: Model, axes: _Axes) -> None:
        self._model = model
        self._places = [
            (None if axis is None else axes.place(axis), full) for axis, full in model.axes
        ]

    def __call__(self, lengths: Labels) -> float:
        """``lengths`` [axes]."""
        values = lengths.tolist()
        return self._model.at([n if place is None else values[place] for place, n in self._places])


@dataclass(frozen=True, eq=False)
class _Lengths:
    """The lengths of all axes: what is fixed, and a table per axis and group that shares it."""

    sizes: Sequence[tuple[int, int]]  # number and atoms of each group
    fixed: Labels  # [axes]: positions that stay whatever happens
    axis: Labels  # [tables]
    group: Labels  # [tables]: by place in ``sizes``
    start: Labels  # [tables]: where in ``tables`` each begins
    tables: Labels  # positions that are left when 0, 1, … atoms of the group survive

    def at(self, widths: Mapping[int, int]) -> Labels:
        """[axes]: every length at these widths."""
        kept = np.array([widths.get(number, size) for number, size in self.sizes], np.int64)
        parts = self.tables[self.start + kept[self.group]]
        moving = np.bincount(self.axis, weights=parts, minlength=len(self.fixed))
        lengths: Labels = moving.astype(np.int64) + self.fixed
        return lengths


class _Axes:
    """Collects the axes whose lengths change, each once however many tensors have it."""

    def __init__(self, atoms: Atoms, groups: Sequence[Group], orders: Mapping[int, Labels]) -> None:
        self.of = atoms.of
        self.groups = groups
        self.owner = np.full(len(atoms.reason), -1)  # [atoms]: whose each is
        self.turn = np.zeros(len(atoms.reason), np.int64)  # [atoms]: 0 leaves last
        for place, group in enumerate(groups):
            self.owner[group.atoms] = place
            self.turn[group.atoms[orders[group.number]]] = np.arange(group.size)[::-1]
        self.places: dict[bytes, int | None] = {}
        self.fixed: list[int] = []
        self.rows: list[tuple[int, int]] = []  # per table: its axis, its group
        self.tables: list[Labels] = []

    def place(self, axis: Labels) -> int | None:
        """The number of an axis; None where no group has a part of it."""
        atoms = self.of[axis]
        key = atoms.tobytes()
        if key not in self.places:
            self.places[key] = self._add(atoms)
        return self.places[key]

    def _add(self, atoms: Labels) -> int | None:
        owner = self.owner[atoms]
        numbers = np.unique(owner[owner >= 0]).tolist()
        if not numbers:
            return None
        for number in numbers:
            turns = self.turn[atoms[owner == number]]
            counts = np.bincount(turns, minlength=self.groups[number].size)
            self.tables.append(np.concatenate([[0], np.cumsum(counts)]))
            self.rows.append((len(self.fixed), number))
        self.fixed.append(int((owner < 0).sum()))
        return len(self.fixed) - 1

    def lengths(self) -> _Lengths:
        """All tables end to end, and one more axis, of length one."""
        axis, group = np.array(self.rows, np.int64).reshape(-1, 2).T
        ends = np.cumsum([len(table) for table in self.tables])
        start = np.concatenate([[0], ends])[:-1].astype(np.int64)
        tables = np.concatenate([*self.tables, np.zeros(0, np.int64)])
        groups = [(g.number, g.size) for g in self.groups]
        return _Lengths(groups, np.array([*self.fixed, 1]), axis, group, start, tables)
