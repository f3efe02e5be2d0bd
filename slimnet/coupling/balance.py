"""Grouped convolutions whose groups lose other columns: the same number leaves every group.

Takes what the rules said, gives the solved ties. Where a set of channels that hang together would
leave the groups unequal, it is tied to sets that make up for it: first sets of one group to as
large ones in each other group, in order, then all that is left together. What nothing makes up for
stays.
"""

from __future__ import annotations

import numpy as np

from slimnet.coupling.constraints import Constraints, Grouped
from slimnet.coupling.labels import Atoms, Labels
from slimnet.coupling.removal import COLUMNS, Removal


def solve(constraints: Constraints) -> Atoms:
    """The atoms, each of which takes as much from every group of these convolutions."""
    atoms = constraints.ledger.solve()
    for grouped in constraints.grouped:
        removal = constraints.apart.get(grouped.weight)
        if removal is not None and _balance(grouped, removal, constraints, atoms):
            atoms = constraints.ledger.solve()  # atoms that are unions of even ones are even
    return atoms


def _balance(grouped: Grouped, removal: Removal, constraints: Constraints, atoms: Atoms) -> bool:
    """Tie what leaves the groups unequal to what makes up for it; False where they are equal.

    Where a plan says what leaves, that is one set, and what stays another.
    """
    places, counts = _uneven(grouped, atoms)
    gone = np.isin(places, removal.axes.get(COLUMNS, ()))
    sets = [np.flatnonzero(gone), np.flatnonzero(~gone)] if removal.axes else balanced_sets(counts)
    for together in filter(len, sets):
        labels, total = grouped.channels[places[together]], counts[together].sum(axis=0)
        if (total == total[0]).all():
            constraints.ledger.tie(np.repeat(labels[:1], len(labels) - 1), labels[1:])
        else:
            text = f"{grouped.reason.text}, which would lose unequal numbers of channels"
            constraints.pin(labels, text, grouped.reason.site)
    return len(places) > 0


def _uneven(grouped: Grouped, atoms: Atoms) -> tuple[Labels, Labels]:
    """A place of each atom that takes more from some groups, in order; [atoms, groups] how much."""
    axis, groups = grouped.channels, grouped.groups
    present, first, atom = np.unique(atoms.of[axis], return_index=True, return_inverse=True)
    counts = np.zeros((len(present), groups), np.int64)
    np.add.at(counts, (atom, np.arange(len(axis)) // (len(axis) // groups)), 1)
    uneven = atoms.free[present] & (counts != counts[:, :1]).any(axis=1)
    order = np.argsort(first)
    order = order[uneven[order]]
    return first[order], counts[order]


def balanced_sets(counts: Labels) -> list[Labels]:
    """Sets of rows of ``counts`` [atoms, groups] that together take as much from every group.

    Rows that take from one group only: one of each group, of the same count, in order. The others
    are one set.
    """
    alone = np.count_nonzero(counts, axis=1) == 1
    group, size = counts.argmax(axis=1), counts.max(axis=1, initial=0)
    sets: list[Labels] = []
    for many in np.unique(size[alone]):
        alike = alone & (size == many)
        of_each = [np.flatnonzero(alike & (group == g)) for g in range(counts.shape[1])]
        sets += map(np.array, zip(*of_each, strict=False))  # what some have more of is left over
    rest = np.setdiff1d(np.arange(len(counts)), np.concatenate([*sets, np.empty(0, np.int64)]))
    return [*sets, rest] if len(rest) else sets
