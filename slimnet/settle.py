"""Settle the sizes that code states, once the labels are tied.

For each stated size: does it follow by itself when slots are removed? Found out by trying random
removals: the size is evaluated with the new shapes and compared with the survivors. If it does
not follow, an attribute behind it is mended (its new value solves every size it appears in), or
slots are tied so that it follows, or, last, they are pinned with the line as the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from slimnet.constraints import Constraints, Need
from slimnet.labels import Atoms, Axis, Labelled, Labels
from slimnet.sizes import AttributeOf, Leaf, ShapeOf, evaluate, leaves


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
        for value in direct[:1] or range(1, self.old + 1):
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
    ) -> int:
        """The size, with these attributes changed and all others as they are."""

        def value(leaf: Leaf) -> int:
            if isinstance(leaf, ShapeOf):
                return shape(leaf)
            return attributes.get(leaf, self.attributes.get(leaf, 0))

        return evaluate(self.need.size, value)

    def edges(self, atoms: Atoms) -> list[np.ndarray[Any, Any]]:
        """Removals of one atom alone: the first, and the last, of every axis that matters."""
        axes = [self.need.axis, *(axis for axis, _ in self.shapes.values())]
        ends: set[int] = set()
        for axis in axes:
            if axis is not None:
                free = atoms.of[axis][atoms.free[atoms.of[axis]]]
                ends.update(free[[0, -1]].tolist() if len(free) else ())
        return [_without(end, atoms) for end in sorted(ends)]

    def follows(self, alive: np.ndarray[Any, Any], atoms: Atoms) -> bool:
        """Whether the size is right by itself after this removal."""
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
    for _ in range(_ROUNDS):
        mends, changed = settler.round(atoms)
        if not changed:
            return atoms, mends
        atoms = constraints.ledger.solve()
    settler.give_up = True
    settler.round(atoms)
    return constraints.ledger.solve(), []


_ROUNDS = 12
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
        self.tied: set[int] = set()
        self.give_up = False

    def round(self, atoms: Atoms) -> tuple[list[Mend], bool]:
        """Mends that satisfy every need, and whether anything had to be tied or pinned."""
        trials = _trials(atoms)
        failing = [
            need
            for need in self.needs
            if not all(need.follows(t, atoms) for t in (*trials, *need.edges(atoms)))
        ]
        if self.give_up:
            for known in failing:
                self._pin(known)
            return [], bool(failing)
        mends: dict[AttributeOf, Mend] = {}
        changed = False
        for known in failing:
            if any(leaf in mends for leaf in known.attributes):
                continue
            mend = self._mend(known, atoms, trials)
            if mend is not None:
                mends[mend.attribute] = mend
            else:
                self._tie_or_pin(known, atoms)
                changed = True
        return list(mends.values()), changed

    def _mend(self, known: _Known, atoms: Atoms, trials: list[np.ndarray[Any, Any]]) -> Mend | None:
        """An attribute of this size that can be given a value which all its uses agree with."""
        for attribute, old in known.attributes.items():
            uses = tuple(n for n in self.needs if attribute in n.attributes)
            mend = Mend(attribute, old, uses)
            ends = [trial for use in uses for trial in use.edges(atoms)]
            if all(mend.value(trial, atoms) is not None for trial in (*trials, *ends)):
                return mend
        return None

    def _tie_or_pin(self, known: _Known, atoms: Atoms) -> None:
        """First try to make the size follow by tying; a second failure pins."""
        if id(known) not in self.tied:
            self.tied.add(id(known))
            if self._tie(known, atoms):
                return
        self._pin(known)

    def _tie(self, known: _Known, atoms: Atoms) -> bool:
        axis = known.need.axis
        if axis is None:
            return False
        partners = [a for a, _ in known.shapes.values() if a is not None]
        for attribute in known.attributes:
            uses = [n.need.axis for n in self.needs if attribute in n.attributes]
            partners += [a for a in uses if a is not None and a is not axis]
        tied = [self._tie_to(axis, partner) for partner in partners]
        return any(tied)

    def _tie_to(self, axis: Labels, partner: Labels) -> bool:
        """Equal lengths: slot by slot. A multiple: the same positions leave every block."""
        ledger = self.constraints.ledger
        if len(partner) == len(axis):
            ledger.tie(axis, partner)
        elif len(partner) % len(axis) == 0:
            rows = partner.reshape(-1, len(axis))
            ledger.tie(np.tile(rows[0], len(rows) - 1), rows[1:].reshape(-1))
        elif len(axis) % len(partner) == 0:
            rows = axis.reshape(-1, len(partner))
            ledger.tie(np.tile(rows[0], len(rows) - 1), rows[1:].reshape(-1))
        else:
            return False
        return True

    def _pin(self, known: _Known) -> None:
        """The code's size stays as it is, and with it what it is computed from."""
        need = known.need
        named = ", ".join(str(leaf) for leaf in known.attributes)
        text = f"{need.reason.text} is given the size {need.length}" + (
            f" from {named}, which cannot be mended" if named else " in a way that cannot follow"
        )
        axes = [need.axis, *(axis for axis, _ in known.shapes.values())]
        for axis in axes:
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
