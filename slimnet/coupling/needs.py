"""Sizes that code states or finds equal, with their shapes resolved to labels, and what meets them.

A need is tried on removals: its size is evaluated with the lengths that are left, and compared with
the survivors of the axis that it states. It is met by itself, by a :class:`Mend` of an attribute,
or where axes lose only a :class:`Multiple` of slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from math import gcd
from typing import Any, TypeAlias

import numpy as np

from slimnet.capture.sizes import (
    AttributeOf,
    Combined,
    Leaf,
    Number,
    ShapeOf,
    Source,
    evaluate,
    leaves,
)
from slimnet.coupling.constraints import Need, Reason
from slimnet.coupling.labels import Atoms, Axis, Labelled, Labels

Alive: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
"""[atoms]: which survive a removal."""


@dataclass(frozen=True, eq=False)
class Known:
    """A need whose shapes are resolved to labels."""

    need: Need
    shapes: Mapping[ShapeOf, tuple[Axis, int]]
    attributes: Mapping[AttributeOf, int] = field(default_factory=dict)

    @property
    def axes(self) -> list[Axis]:
        """The axis whose length is stated, and those that it is computed from."""
        return [self.need.axis, *(axis for axis, _ in self.shapes.values())]

    def survivors(self, alive: Alive, atoms: Atoms) -> int:
        """How long the axis is after a removal."""
        return _count(self.need.axis, self.need.length, alive, atoms)

    def read(self, alive: Alive, atoms: Atoms, leaf: ShapeOf) -> int:
        """A length that the size is computed from, after a removal."""
        axis, length = self.shapes[leaf]
        return _count(axis, length, alive, atoms)

    def evaluate(
        self,
        shape: Callable[[ShapeOf], int],
        attributes: Mapping[AttributeOf, int],
        size: Source | Number | None = None,
    ) -> Number:
        """The size, with these attributes changed and all others as they are."""

        def value(leaf: Leaf) -> int:
            if isinstance(leaf, ShapeOf):
                return shape(leaf)
            return attributes.get(leaf, self.attributes.get(leaf, 0))

        return evaluate(self.need.size if size is None else size, value)

    def demanded(self, attribute: AttributeOf, alive: Alive, atoms: Atoms) -> Number | None:
        """The one value of an attribute that meets the need, where it says so outright."""
        size = self.need.size
        if size == attribute:
            return self.survivors(alive, atoms)
        if isinstance(size, Combined) and size.symbol == "eq":
            for side, other in ((size.left, size.right), (size.right, size.left)):
                if side == attribute and attribute not in leaves(other):
                    return self.evaluate(partial(self.read, alive, atoms), {}, other)
        return None

    def edges(self, atoms: Atoms) -> list[Alive]:
        """Removals of one atom alone: the first, and the last, of every axis that matters."""
        ends: set[int] = set()
        for axis in self.axes:
            if axis is not None:
                free = atoms.of[axis][atoms.free[atoms.of[axis]]]
                ends.update(free[[0, -1]].tolist() if len(free) else ())
        return [_without([end], atoms) for end in sorted(ends)]

    def empties(self, alive: Alive, atoms: Atoms) -> bool:
        """Whether nothing is left of one of the axes: no plan does that."""
        return any(axis is not None and not alive[atoms.of[axis]].any() for axis in self.axes)

    def follows(self, alive: Alive, atoms: Atoms) -> bool:
        """Whether the size is right by itself after this removal (which must leave something)."""
        if self.empties(alive, atoms):
            return True
        read = partial(self.read, alive, atoms)
        return self.evaluate(read, {}) == self.survivors(alive, atoms)


def known(need: Need, tensors: Mapping[int, Labelled]) -> Known:
    """Look up the labels of the shapes that a need is computed from."""
    shapes: dict[ShapeOf, tuple[Axis, int]] = {}
    attributes: dict[AttributeOf, int] = {}
    for leaf in leaves(need.size):
        if isinstance(leaf, ShapeOf):
            x = tensors.get(leaf.tensor)
            shapes[leaf] = (x.lengths[leaf.axis], x.shape[leaf.axis]) if x else (None, leaf.length)
        else:
            attributes[leaf] = leaf.value
    return Known(need, shapes, attributes)


def _count(axis: Axis, length: int, alive: Alive, atoms: Atoms) -> int:
    return length if axis is None else int(alive[atoms.of[axis]].sum())


@dataclass(frozen=True, eq=False)
class Mend:
    """An attribute whose value has to change with the cut, and the sizes it must satisfy."""

    attribute: AttributeOf
    old: int
    needs: tuple[Known, ...]

    def value(self, alive: Alive, atoms: Atoms) -> int | None:
        """The attribute's new value when ``alive`` [atoms] survive; None where there is none."""
        wanted = [need.survivors(alive, atoms) for need in self.needs]
        reads = [partial(need.read, alive, atoms) for need in self.needs]
        for value in self._candidates(alive, atoms):
            if all(
                need.evaluate(read, {self.attribute: value}) == want
                for need, read, want in zip(self.needs, reads, wanted, strict=True)
            ):
                return value
        return None

    def _candidates(self, alive: Alive, atoms: Atoms) -> Sequence[int]:
        for need in self.needs:
            value = need.demanded(self.attribute, alive, atoms)
            if value is not None:
                return [int(value)]
        if self.old <= 0:
            return range(self.old, 0)
        gone = any(need.survivors(alive, atoms) == 0 for need in self.needs)  # say, of padding
        return range(0 if gone else 1, self.old + 1)

    def holds(self, alive: Alive, atoms: Atoms) -> bool:
        """Whether there is a value after this removal (which must leave something)."""
        return self.value(alive, atoms) is not None or any(
            need.empties(alive, atoms) for need in self.needs
        )


@dataclass(frozen=True, eq=False)
class Multiple:
    """Atoms of which only so many at a time may leave, and whose code says so."""

    atoms: Labels
    step: int
    reason: Reason


def multiples(needs: Sequence[Known], atoms: Atoms) -> Iterator[tuple[Multiple, ...]]:
    """Ways to let the axes of these needs lose a multiple of slots, the smallest first."""
    axes = [axis for need in needs for axis in need.axes if axis is not None]
    parts = [part for axis in axes if len((part := _Part.of(axis, atoms)).free)]
    distinct = {tuple(part.free) for part in parts}
    apart = sum(map(len, distinct)) == len(set().union(*distinct))  # no two share some atoms only
    if not parts or not apart or any(part.each is None for part in parts):
        return
    for multiple in _named(needs):
        steps: dict[tuple[int, ...], int] = {}
        for part in parts:
            step = multiple // gcd(multiple, part.each or 1)
            steps[tuple(part.free)] = max(step, steps.get(tuple(part.free), 1))
        if all(step < len(free) for free, step in steps.items()):
            reason = needs[0].need.reason
            yield tuple(Multiple(np.asarray(x), step, reason) for x, step in steps.items())


def _named(needs: Sequence[Known]) -> list[int]:
    """The multiples that the code's own numbers suggest: 4 for ``c % 4`` and for ``c * 0.25``."""
    found: set[int] = set()
    for need in needs:
        for number in (*_numbers(need.need.size), *need.attributes.values()):
            ratio = Fraction(number).limit_denominator(_LARGEST)
            found |= {abs(ratio.numerator), ratio.denominator}
    return sorted(n for n in found if 1 < n <= _LARGEST)


_LARGEST = 64  # who may lose no fewer channels at a time is as good as pinned


def _numbers(source: Source | Number) -> Iterator[Number]:
    if isinstance(source, Combined):
        yield from _numbers(source.left)
        yield from _numbers(source.right)
    elif isinstance(source, (int, float)):
        yield source


@dataclass(frozen=True, eq=False)
class _Part:
    """The atoms of an axis that may leave, and how many slots of it each of them has."""

    free: Labels
    each: int | None  # None where some have more than others

    @classmethod
    def of(cls, axis: Labels, atoms: Atoms) -> _Part:
        found, counts = np.unique(atoms.of[axis], return_counts=True)
        free, counts = found[atoms.free[found]], counts[atoms.free[found]]
        uniform = len(counts) and (counts == counts[0]).all()
        return cls(free, int(counts[0]) if uniform else None)


_TRIALS = (0.15, 0.5, 0.5, 0.85)  # shares of the atoms that a trial removes


def trials(atoms: Atoms) -> list[Alive]:
    """Random removals of free atoms."""
    rng = np.random.default_rng(0)
    free = atoms.free
    return [~(free & (rng.random(len(free)) < share)) for share in _TRIALS]


def stepped_trials(steps: Sequence[Multiple], atoms: Atoms) -> list[Alive]:
    """Random removals that take whole steps: one, some, all but one; of all axes, and of each."""
    rng = np.random.default_rng(0)
    found = []
    for multiple in steps if len(steps) > 1 else ():  # alone, as a plan may
        found.append(_without(multiple.atoms[: multiple.step].tolist(), atoms))
    for share in (0.0, *_TRIALS, 1.0):
        gone: list[int] = []
        for multiple in steps:
            most = (len(multiple.atoms) - 1) // multiple.step
            count = min(max(round(share * most), 1), most) * multiple.step
            gone += rng.permutation(multiple.atoms)[:count].tolist()
        found.append(_without(gone, atoms))
    return found


def _without(gone: Sequence[int], atoms: Atoms) -> Alive:
    alive = np.ones(len(atoms.reason), bool)
    alive[list(gone)] = False
    return alive
