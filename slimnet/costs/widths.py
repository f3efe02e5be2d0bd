"""What a network costs at given widths, fast enough to search with.

Takes the terms of a :class:`~slimnet.costs.cost.CostModel` and the order in which the atoms of
each group leave; gives the cost as a function of how many survive. The length of an axis is then a
table per group, and a cost is a sum of products of a few lengths: some numpy calls for the whole
network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

from slimnet.costs.cost import Cost, CostModel
from slimnet.coupling.groups import Group
from slimnet.coupling.labels import Atoms, Labels

Survivors: TypeAlias = dict[int, int]
"""How many atoms of each group survive."""


class WidthCost:
    """The cost of a network as a function of the widths of its groups.

    ``orders`` says for each group that may shrink which of its atoms leave, the first first.
    """

    def __init__(
        self,
        costs: CostModel,
        atoms: Atoms,
        groups: Sequence[Group],
        orders: Mapping[int, Labels],
    ) -> None:
        axes = _Axes(atoms, [g for g in groups if g.number in orders], orders)
        merged: dict[tuple[int, ...], Labels] = defaultdict(lambda: np.zeros(3, np.int64))
        for counted, lengths in costs.terms:
            places = [None if axis is None else axes.place(axis) for axis, _ in lengths]
            fixed = prod(n for p, (_, n) in zip(places, lengths, strict=True) if p is None)
            changing = sorted(p for p in places if p is not None)
            merged[tuple(changing)] += np.array(counted) * fixed
        most = max(map(len, merged), default=0)
        one = len(axes.fixed)  # a term of fewer axes is padded with a length of one
        self._lengths = axes.lengths()
        self._places = np.array([[*p, *[one] * (most - len(p))] for p in merged], np.int64)
        self._counted = np.array(list(merged.values()), np.int64).reshape(-1, 3).T

    def __call__(self, survivors: Mapping[int, int]) -> Cost:
        """The cost when so many atoms of each group survive; groups left out stay whole."""
        products = self._lengths.at(survivors)[self._places].prod(axis=1)
        macs, params, size = (self._counted @ products).tolist()
        return Cost(macs, params, size)


@dataclass(frozen=True, eq=False)
class _Lengths:
    """The lengths of all axes: what is fixed, and a table per axis and group that shares it."""

    sizes: Sequence[tuple[int, int]]  # number and atoms of each group
    fixed: Labels  # [axes]: positions that stay whatever happens
    axis: Labels  # [tables]
    group: Labels  # [tables]: by place in ``sizes``
    start: Labels  # [tables]: where in ``tables`` each begins
    tables: Labels  # positions that are left when 0, 1, … atoms of the group survive

    def at(self, survivors: Mapping[int, int]) -> Labels:
        """[axes]: every length at these widths."""
        kept = np.array([survivors.get(number, size) for number, size in self.sizes], np.int64)
        parts = self.tables[self.start + kept[self.group]]
        found = np.bincount(self.axis, weights=parts, minlength=len(self.fixed))
        lengths: Labels = found.astype(np.int64) + self.fixed
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
        self.known: dict[bytes, int | None] = {}
        self.fixed: list[int] = []
        self.rows: list[tuple[int, int]] = []  # per table: its axis, its group
        self.tables: list[Labels] = []

    def place(self, axis: Labels) -> int | None:
        """The number of an axis; None where no group has a part of it."""
        atoms = self.of[axis]
        key = atoms.tobytes()
        if key not in self.known:
            self.known[key] = self._add(atoms)
        return self.known[key]

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
