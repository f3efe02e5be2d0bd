"""Sizes that code states or finds equal, with their shapes resolved to labels, and what meets them.

A requirement is tried on removals: its size is evaluated with the lengths that are left, and has to
be the length that is left of the axis that it states. It is met by itself, by an
:class:`AttributeFix`, or where axes lose only a :class:`Multiple` of slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from math import gcd

import numpy as np

from slimnet.capture.sizes import (
    AttributeOf,
    Combined,
    Leaf,
    Number,
    ShapeOf,
    SizeSource,
    evaluate,
    leaves,
)
from slimnet.coupling.constraints import Reason, StatedSize
from slimnet.coupling.labels import Atoms, Axis, Labelled, Labels
from slimnet.coupling.survival import Survival


@dataclass(frozen=True, eq=False)
class Requirement:
    """A stated size whose shapes are resolved to labels."""

    stated: StatedSize
    shapes: Mapping[ShapeOf, tuple[Axis, int]]
    attributes: Mapping[AttributeOf, int] = field(default_factory=dict)

    @property
    def axes(self) -> list[Axis]:
        """The axis whose length is stated, and those that it is computed from."""
        return [self.stated.axis, *(axis for axis, _ in self.shapes.values())]

    def length(self, survival: Survival) -> int:
        """How long the axis is after a removal."""
        return survival.length(self.stated.axis, self.stated.length)

    def read(self, survival: Survival, leaf: ShapeOf) -> int:
        """A length that the size is computed from, after a removal."""
        return survival.length(*self.shapes[leaf])

    def evaluate(
        self,
        shape: Callable[[ShapeOf], int],
        attributes: Mapping[AttributeOf, int],
        size: SizeSource | Number | None = None,
    ) -> Number:
        """The size, with these attributes changed and all others as they are."""

        def value(leaf: Leaf) -> int:
            if isinstance(leaf, ShapeOf):
                return shape(leaf)
            return attributes.get(leaf, self.attributes.get(leaf, 0))

        return evaluate(self.stated.size if size is None else size, value)

    def demanded(self, attribute: AttributeOf, survival: Survival) -> Number | None:
        """The one value of an attribute that meets it, where the size says so outright."""
        size = self.stated.size
        if size == attribute:
            return self.length(survival)
        if isinstance(size, Combined) and size.symbol == "eq":
            for side, other in ((size.left, size.right), (size.right, size.left)):
                if side == attribute and attribute not in leaves(other):
                    return self.evaluate(partial(self.read, survival), {}, other)
        return None

    def edges(self, atoms: Atoms) -> list[Survival]:
        """Removals of one atom alone: the first, and the last, of every axis that matters."""
        ends: set[int] = set()
        for axis in self.axes:
            if axis is not None:
                free = atoms.of[axis][atoms.free[atoms.of[axis]]]
                ends.update(free[[0, -1]].tolist() if len(free) else ())
        return [Survival.without(atoms, [end]) for end in sorted(ends)]

    def empties(self, survival: Survival) -> bool:
        """Whether nothing is left of one of the axes: no plan does that."""
        return any(axis is not None and survival.is_empty(axis) for axis in self.axes)

    def follows(self, survival: Survival) -> bool:
        """Whether the size is right by itself after this removal (which must leave something)."""
        if self.empties(survival):
            return True
        return self.evaluate(partial(self.read, survival), {}) == self.length(survival)


def requirement(stated: StatedSize, tensors: Mapping[int, Labelled]) -> Requirement:
    """Look up the labels of the shapes that a stated size is computed from."""
    shapes: dict[ShapeOf, tuple[Axis, int]] = {}
    attributes: dict[AttributeOf, int] = {}
    for leaf in leaves(stated.size):
        if isinstance(leaf, ShapeOf):
            x = tensors.get(leaf.tensor)
            shapes[leaf] = (x.lengths[leaf.axis], x.shape[leaf.axis]) if x else (None, leaf.length)
        else:
            attributes[leaf] = leaf.value
    return Requirement(stated, shapes, attributes)


@dataclass(frozen=True, eq=False)
class AttributeFix:
    """An attribute whose value has to change with the cut, and the sizes that it must give."""

    attribute: AttributeOf
    old: int
    requirements: tuple[Requirement, ...]

    def value(self, survival: Survival) -> int | None:
        """The attribute's new value after a removal; None where there is none."""
        lengths = [required.length(survival) for required in self.requirements]
        reads = [partial(required.read, survival) for required in self.requirements]
        for value in self._candidates(survival):
            if all(
                required.evaluate(read, {self.attribute: value}) == length
                for required, read, length in zip(self.requirements, reads, lengths, strict=True)
            ):
                return value
        return None

    def _candidates(self, survival: Survival) -> Sequence[int]:
        for required in self.requirements:
            value = required.demanded(self.attribute, survival)
            if value is not None:
                return [int(value)]
        if self.old <= 0:
            return range(self.old, 0)
        empty = any(required.length(survival) == 0 for required in self.requirements)
        return range(0 if empty else 1, self.old + 1)  # of padding, say, nothing may be left

    def holds(self, survival: Survival) -> bool:
        """Whether there is a value after this removal (which must leave something)."""
        return self.value(survival) is not None or any(
            required.empties(survival) for required in self.requirements
        )


@dataclass(frozen=True, eq=False)
class Multiple:
    """Atoms of which only so many at a time may leave, and whose code says so."""

    atoms: Labels
    step: int
    reason: Reason


def multiples(required: Sequence[Requirement], atoms: Atoms) -> Iterator[tuple[Multiple, ...]]:
    """Ways to let the axes of these sizes lose a multiple of slots, the smallest first."""
    axes = [axis for each in required for axis in each.axes if axis is not None]
    parts = [part for axis in axes if len((part := _FreePart.of(axis, atoms)).free)]
    distinct = {tuple(part.free) for part in parts}
    apart = sum(map(len, distinct)) == len(set().union(*distinct))  # no two share some atoms only
    if not parts or not apart or any(part.each is None for part in parts):
        return
    for multiple in _suggested(required):
        steps: dict[tuple[int, ...], int] = {}
        for part in parts:
            step = multiple // gcd(multiple, part.each or 1)
            steps[tuple(part.free)] = max(step, steps.get(tuple(part.free), 1))
        if all(step < len(free) for free, step in steps.items()):
            reason = required[0].stated.reason
            yield tuple(Multiple(np.asarray(x), step, reason) for x, step in steps.items())


def _suggested(required: Sequence[Requirement]) -> list[int]:
    """The multiples that the code's own numbers suggest: 4 for ``c % 4`` and for ``c * 0.25``."""
    terms: set[int] = set()
    for each in required:
        for number in (*_numbers(each.stated.size), *each.attributes.values()):
            ratio = Fraction(number).limit_denominator(_LARGEST)
            terms |= {abs(ratio.numerator), ratio.denominator}
    return sorted(n for n in terms if 1 < n <= _LARGEST)


_LARGEST = 64  # an axis that may lose no fewer channels at a time is as good as pinned


def _numbers(source: SizeSource | Number) -> Iterator[Number]:
    if isinstance(source, Combined):
        yield from _numbers(source.left)
        yield from _numbers(source.right)
    elif isinstance(source, (int, float)):
        yield source


@dataclass(frozen=True, eq=False)
class _FreePart:
    """The atoms of an axis that may leave, and how many slots of it each of them has."""

    free: Labels
    each: int | None  # None where some have more than others

    @classmethod
    def of(cls, axis: Labels, atoms: Atoms) -> _FreePart:
        present, counts = np.unique(atoms.of[axis], return_counts=True)
        free, counts = present[atoms.free[present]], counts[atoms.free[present]]
        uniform = len(counts) and (counts == counts[0]).all()
        return cls(free, int(counts[0]) if uniform else None)


_TRIALS = (0.15, 0.5, 0.5, 0.85)  # shares of the atoms that a trial removes


def trials(atoms: Atoms) -> list[Survival]:
    """Random removals of free atoms."""
    rng = np.random.default_rng(0)
    free = atoms.free
    return [Survival(atoms, ~(free & (rng.random(len(free)) < share))) for share in _TRIALS]


def stepped_trials(steps: Sequence[Multiple], atoms: Atoms) -> list[Survival]:
    """Random removals that take whole steps: one, some, all but one; of all axes, and of each."""
    rng = np.random.default_rng(0)
    removals: list[Survival] = []
    for multiple in steps if len(steps) > 1 else ():  # alone, as a plan may
        removals.append(Survival.without(atoms, multiple.atoms[: multiple.step]))
    for share in (0.0, *_TRIALS, 1.0):
        gone: list[int] = []
        for multiple in steps:
            most = (len(multiple.atoms) - 1) // multiple.step
            count = min(max(round(share * most), 1), most) * multiple.step
            gone += rng.permutation(multiple.atoms)[:count].tolist()
        removals.append(Survival.without(atoms, gone))
    return removals
