"""Settle the sizes that code states, once the labels are tied.

For each stated size: does it follow by itself when slots are removed? Found out by trying random
removals: the size is evaluated with the new shapes and compared with the survivors. If it does
not follow, an attribute behind it is mended (its new value solves every size it appears in), or
slots are tied so that it follows, or, last, they are pinned with the line as the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from slimnet.capture.sizes import AttributeOf, Leaf, Number, ShapeOf, evaluate, leaves
from slimnet.coupling.constraints import Constraints, Need
from slimnet.coupling.labels import Atoms, Axis, Labelled, Labels


@dataclass(frozen=True, eq=False)
class Mend:
    """An attribute whose value has to change with the cut, and the sizes it must satisfy."""

    attribute: AttributeOf
    old: int
    needs: tuple[_Known, ...]

    def value(self, alive: np.ndarray[Any, np.dtype[np.bool_]], atoms: Atoms) -> int | None:
        """The attribute's new value when ``alive`` [atoms] survive; None where there is none."""
        wanted = [need.survivors(alive, atoms) for need in self.needs]
        reads = [partial(need.read, alive, atoms) for need in self.needs]
        direct = [w for need, w in zip(self.needs, wanted, strict=True) if need.is_direct]
        span = range(1, self.old + 1) if self.old > 0 else range(self.old, 0)
        for value in direct[:1] or span:
            if all(
                need.evaluate(read, {self.attribute: value}) == want
                for need, read, want in zip(self.needs, reads, wanted, strict=True)
            ):
                return value
        return None


@dataclass(frozen=True, eq=False)
class _Known:
    """A need whose shapes are resolved to labels."""

    need: Need
    shapes: Mapping[ShapeOf, tuple[Axis, int]]
    attributes: Mapping[AttributeOf, int] = field(default_factory=dict)

    @property
    def axes(self) -> list[Axis]:
        """The axis whose length is stated, and those that it is computed from."""
        return [self.need.axis, *(axis for axis, _ in self.shapes.values())]

    @property
    def is_direct(self) -> bool:
        """Whether the size is one attribute as it is."""
        return isinstance(self.need.size, AttributeOf)

    def survivors(self, alive: np.ndarray[Any, Any], atoms: Atoms) -> int:
        return _count(self.need.axis, self.need.length, alive, atoms)

    def read(self, alive: np.ndarray[Any, Any], atoms: Atoms, leaf: ShapeOf) -> int:
        axis, length = self.shapes[leaf]
        return _count(axis, length, alive, atoms)

    def evaluate(
        self, shape: Callable[[ShapeOf], int], attributes: Mapping[AttributeOf, int]
    ) -> Number:
        """The size, with these attributes changed and all others as they are."""

        def value(leaf: Leaf) -> int:
            if isinstance(leaf, ShapeOf):
                return shape(leaf)
            return attributes.get(leaf, self.attributes.get(leaf, 0))

        return evaluate(self.need.size, value)

    def edges(self, atoms: Atoms) -> list[np.ndarray[Any, Any]]:
        """Removals of one atom alone: the first, and the last, of every axis that matters."""
        ends: set[int] = set()
        for axis in self.axes:
            if axis is not None:
                free = atoms.of[axis][atoms.free[atoms.of[axis]]]
                ends.update(free[[0, -1]].tolist() if len(free) else ())
        return [_without(end, atoms) for end in sorted(ends)]

    def empties(self, alive: np.ndarray[Any, Any], atoms: Atoms) -> bool:
        """Whether nothing is left of one of the axes: no plan does that."""
        return any(axis is not None and not alive[atoms.of[axis]].any() for axis in self.axes)

    def follows(self, alive: np.ndarray[Any, Any], atoms: Atoms) -> bool:
        """Whether the size is right by itself after this removal (which must leave something)."""
        if self.empties(alive, atoms):
            return True
        read = partial(self.read, alive, atoms)
        return self.evaluate(read, {}) == self.survivors(alive, atoms)


def _count(axis: Axis, length: int, alive: np.ndarray[Any, Any], atoms: Atoms) -> int:
    return length if axis is None else int(alive[atoms.of[axis]].sum())


def settle(
    constraints: Constraints, tensors: Sequence[Mapping[int, Labelled]]
) -> tuple[Atoms, list[Mend]]:
    """Solve the ties, and tie or pin more until every stated size agrees."""
    atoms = constraints.ledger.solve()
    if not constraints.needs:
        return atoms, []
    everything = {number: x for trace in tensors for number, x in trace.items()}
    settler = _Settler(constraints, [_known(need, everything) for need in constraints.needs])
    settler.discard_misread(atoms)
    atoms = constraints.ledger.solve()
    while True:  # each round ties or pins at least one need, and pins none twice
        mends, changed = settler.round(atoms)
        if not changed:
            return atoms, mends
        atoms = constraints.ledger.solve()


_TRIALS = (0.15, 0.5, 0.5, 0.85)  # shares of the atoms that a trial removes


def _known(need: Need, tensors: Mapping[int, Labelled]) -> _Known:
    shapes: dict[ShapeOf, tuple[Axis, int]] = {}
    attributes: dict[AttributeOf, int] = {}
    for leaf in leaves(need.size):
        if isinstance(leaf, ShapeOf):
            x = tensors.get(leaf.tensor)
            shapes[leaf] = (x.axes[leaf.axis], x.shape[leaf.axis]) if x else (None, leaf.length)
        else:
            attributes[leaf] = leaf.value
    return _Known(need, shapes, attributes)


class _Settler:
    """Goes over all needs; each round ties or pins more, or finds that all is well."""

    def __init__(self, constraints: Constraints, needs: list[_Known]) -> None:
        self.constraints = constraints
        self.needs = needs
        self.pinned: set[int] = set()

    def discard_misread(self, atoms: Atoms) -> None:
        """A size whose source does not even give its present value was read wrongly: it stays."""
        everything = np.ones(len(atoms.reason), bool)
        for known in self.needs:
            if not known.follows(everything, atoms):
                self._pin(known)
        self.needs = [known for known in self.needs if id(known) not in self.pinned]

    def round(self, atoms: Atoms) -> tuple[list[Mend], bool]:
        """Mends that satisfy every need, and whether anything had to be tied or pinned."""
        trials = _trials(atoms)
        failing = [
            need
            for need in self.needs
            if id(need) not in self.pinned
            and not all(need.follows(t, atoms) for t in (*trials, *need.edges(atoms)))
        ]
        mends: dict[AttributeOf, Mend] = {}
        stuck: list[_Known] = []
        for known in failing:
            if any(leaf in mends for leaf in known.attributes):
                continue
            mend = self._mend(known, atoms, trials)
            if mend is not None:
                mends[mend.attribute] = mend
            else:
                stuck.append(known)
        if not self._tie_all(stuck, atoms):
            self._pin_all(stuck, atoms)
        return list(mends.values()), bool(stuck)

    def _mend(self, known: _Known, atoms: Atoms, trials: list[np.ndarray[Any, Any]]) -> Mend | None:
        """An attribute of this size that can be given a value which all its uses agree with."""
        for attribute, old in known.attributes.items():
            uses = tuple(n for n in self.needs if attribute in n.attributes)
            mend = Mend(attribute, old, uses)
            ends = [trial for use in uses for trial in use.edges(atoms)]
            if all(
                mend.value(trial, atoms) is not None or any(n.empties(trial, atoms) for n in uses)
                for trial in (*trials, *ends)
            ):
                return mend
        return None

    def _tie_all(self, stuck: Sequence[_Known], atoms: Atoms) -> bool:
        """Tie equal lengths; where nothing is left of them, multiples (there are two ways to)."""
        pairs = [pair for known in stuck for pair in self._partners(known)]
        free = [pair for pair in pairs if all(atoms.free[atoms.of[x]].any() for x in pair)]
        pairs = free or pairs  # what stays anyhow may have the same length by chance
        equal = [(a, b) for a, b in pairs if len(a) == len(b)]
        return any(sum(self._tie(a, b, atoms) for a, b in group) for group in (equal, pairs))

    def _partners(self, known: _Known) -> Iterator[tuple[Labels, Labels]]:
        """Pairs of axes that must shrink alike for the size to follow."""
        family = [known]
        for attribute in known.attributes:
            family += [n for n in self.needs if attribute in n.attributes and n is not known]
        stated = [n.need.axis for n in family if n.need.axis is not None]
        computed = [axis for n in family for axis, _ in n.shapes.values() if axis is not None]
        return ((stated[0], other) for other in (*stated[1:], *computed) if stated)

    def _tie(self, left: Labels, right: Labels, atoms: Atoms) -> bool:
        """Slot by slot, or block by block where one is a multiple; whether that was news.

        Of the two ways to lay blocks, the one that agrees with more of what is tied already.
        """
        short, long = sorted((left, right), key=len)
        if not len(short) or len(long) % len(short):
            return False
        blocks = len(long) // len(short)
        ways = (np.tile(short, blocks), np.repeat(short, blocks))
        agree = [int((atoms.of[way] == atoms.of[long]).sum()) for way in ways]
        self.constraints.ledger.tie(ways[agree[1] > agree[0]], long)
        return max(agree) < len(long)

    def _pin_all(self, stuck: Sequence[_Known], atoms: Atoms) -> None:
        """Pin what stands for itself: a pin may already help others that share its slots."""
        touched = np.zeros(len(atoms.reason), bool)
        for known in stuck:
            mine = [atoms.of[axis] for axis in known.axes if axis is not None]
            if not any(touched[atom].any() for atom in mine):
                self._pin(known)
            for atom in mine:
                touched[atom] = True

    def _pin(self, known: _Known) -> None:
        """The code's size stays as it is, and with it what it is computed from."""
        self.pinned.add(id(known))
        need = known.need
        named = ", ".join(str(leaf) for leaf in known.attributes)
        text = f"{need.reason.text} is given the size {need.length}" + (
            f" from {named}, which cannot be mended" if named else " in a way that cannot follow"
        )
        for axis in known.axes:
            if axis is not None:
                self.constraints.pin(axis, text, need.reason.site)


def _without(atom: int, atoms: Atoms) -> np.ndarray[Any, Any]:
    alive = np.ones(len(atoms.reason), bool)
    alive[atom] = False
    return alive


def _trials(atoms: Atoms) -> list[np.ndarray[Any, Any]]:
    """Random removals of free atoms, each a mask [atoms] of what survives."""
    rng = np.random.default_rng(0)
    free = atoms.free
    return [~(free & (rng.random(len(free)) < share)) for share in _TRIALS]
