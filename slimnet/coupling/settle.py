"""Settle the sizes that code states, once the labels are tied.

For each stated size: does it follow by itself when slots are removed? If it does not, an attribute
behind it gets another value (one that gives every size it appears in), only a multiple of slots may
leave at once, slots are tied so that it follows, or, last, they are pinned with the line as the
reason. Where the code only found two numbers equal, nothing is pinned: whether that matters, the
proof says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from slimnet.capture.sizes import AttributeOf, Combined, ShapeOf
from slimnet.coupling.balance import solve
from slimnet.coupling.constraints import Constraints
from slimnet.coupling.labels import Atoms, Labelled, Labels
from slimnet.coupling.requirements import (
    AttributeFix,
    Multiple,
    Requirement,
    multiples,
    requirement,
    stepped_trials,
    trials,
)
from slimnet.coupling.survival import Survival


@dataclass(frozen=True, eq=False)
class Settled:
    """The solved ties, and what has to go with a cut."""

    atoms: Atoms
    fixes: Sequence[AttributeFix] = ()
    multiples: Sequence[Multiple] = ()


def settle(constraints: Constraints, tensors: Sequence[Mapping[int, Labelled]]) -> Settled:
    """Solve the ties, and tie or pin more until every stated size agrees."""
    atoms = solve(constraints)
    if not constraints.stated:
        return Settled(atoms)
    everything = {number: x for trace in tensors for number, x in trace.items()}
    settler = _Settler(constraints, [requirement(x, everything) for x in constraints.stated])
    settler.discard_misread(atoms)
    atoms = solve(constraints)
    while True:  # each round ties or pins at least one size, and pins none twice
        settled, changed = settler.round(atoms)
        if not changed:
            return settled
        atoms = solve(constraints)


@dataclass(frozen=True, eq=False)
class _Remedy:
    """What meets a size that does not follow by itself."""

    fix: AttributeFix | None = None
    multiples: tuple[Multiple, ...] = ()


class _Settler:
    """Goes over all stated sizes; each round ties or pins more, or finds that all is well."""

    def __init__(self, constraints: Constraints, requirements: list[Requirement]) -> None:
        self.constraints = constraints
        self.requirements = _relevant(requirements)
        self.done: set[int] = set()  # pinned, or left to the proof

    def discard_misread(self, atoms: Atoms) -> None:
        """A size whose source does not even give its present value was read wrongly: it stays."""
        uncut = Survival.without(atoms)
        for required in self.requirements:
            if not required.follows(uncut):
                self._give_up(required)
        self.requirements = [x for x in self.requirements if id(x) not in self.done]

    def round(self, atoms: Atoms) -> tuple[Settled, bool]:
        """What meets every size, and whether anything had to be tied or pinned."""
        tried = trials(atoms)
        fixes: dict[AttributeOf, AttributeFix] = {}
        steps: list[Multiple] = []
        stuck: list[Requirement] = []
        for required in self._failing(tried, atoms):
            if any(leaf in fixes for leaf in required.attributes):
                continue
            remedy = self._remedy(required, atoms, tried)
            if remedy is None:
                stuck.append(required)
                continue
            steps += remedy.multiples
            if remedy.fix is not None:
                fixes[remedy.fix.attribute] = remedy.fix
        settled = Settled(atoms, list(fixes.values()), steps)
        return settled, self._changed([x for x in stuck if not x.stated.soft], stuck, atoms)

    def _failing(self, tried: Sequence[Survival], atoms: Atoms) -> list[Requirement]:
        return [
            required
            for required in self.requirements
            if id(required) not in self.done
            and not all(required.follows(trial) for trial in (*tried, *required.edges(atoms)))
        ]

    def _changed(self, hard: list[Requirement], stuck: list[Requirement], atoms: Atoms) -> bool:
        """Tie or pin what nothing else meets; whether there was anything to."""
        if hard:
            if not self._tie_all(hard, atoms):
                self._pin_all(hard, atoms)
            return True
        tied = [self._tie_equal(required, atoms) for required in stuck]
        self.done |= {id(x) for x, more in zip(stuck, tied, strict=True) if not more}
        return any(tied)

    def _remedy(
        self, required: Requirement, atoms: Atoms, tried: Sequence[Survival]
    ) -> _Remedy | None:
        """The first that works: all uses of an attribute asked, then without the soft ones."""
        soft = required.stated.soft
        for uses in (self._uses, self._hard_uses):
            plain = self._stepped(required, None, atoms)
            fixed = self._fixed(required, uses, atoms, tried)
            simple = (plain, fixed) if soft else (fixed, plain)
            attributes = () if any(simple) else required.attributes
            fixes = (self._fix(attribute, required, uses) for attribute in attributes)
            both = (self._stepped(required, fix, atoms) for fix in fixes)
            remedy = next((x for x in (*simple, *both) if x is not None), None)
            if remedy is not None or soft:
                return remedy
        return None

    def _uses(self, attribute: AttributeOf) -> tuple[Requirement, ...]:
        return tuple(
            x for x in self.requirements if attribute in x.attributes and id(x) not in self.done
        )

    def _hard_uses(self, attribute: AttributeOf) -> tuple[Requirement, ...]:
        return tuple(x for x in self._uses(attribute) if not x.stated.soft)

    def _fixed(
        self, required: Requirement, uses: _Uses, atoms: Atoms, tried: Sequence[Survival]
    ) -> _Remedy | None:
        """An attribute of this size that can be given a value which all its uses agree with."""
        for attribute in required.attributes:
            fix = self._fix(attribute, required, uses)
            ends = [trial for use in fix.requirements for trial in use.edges(atoms)]
            if all(fix.holds(trial) for trial in (*tried, *ends)):
                return _Remedy(fix)
        return None

    def _fix(self, attribute: AttributeOf, required: Requirement, uses: _Uses) -> AttributeFix:
        return AttributeFix(attribute, required.attributes[attribute], uses(attribute))

    def _stepped(
        self, required: Requirement, fix: AttributeFix | None, atoms: Atoms
    ) -> _Remedy | None:
        """The size follows, or an attribute can be fixed, where whole steps leave."""
        holds = required.follows if fix is None else fix.holds
        for steps in multiples((required,) if fix is None else fix.requirements, atoms):
            if all(holds(trial) for trial in stepped_trials(steps, atoms)):
                return _Remedy(fix, steps)
        return None

    def _tie_equal(self, required: Requirement, atoms: Atoms) -> bool:
        """Tie two lengths that the code found equal; False where they were tied already."""
        size = required.stated.size
        sides = (size.left, size.right) if isinstance(size, Combined) else ()
        axes = [required.shapes[side][0] for side in sides if isinstance(side, ShapeOf)]
        left, right = axes if len(axes) == 2 else (None, None)
        both = left is not None and right is not None and len(left) == len(right)
        return left is not None and right is not None and both and self._tie(left, right, atoms)

    def _tie_all(self, stuck: Sequence[Requirement], atoms: Atoms) -> bool:
        """Tie equal lengths; where nothing is left of them, multiples (there are two ways to)."""
        pairs = [pair for required in stuck for pair in self._partners(required)]
        free = [pair for pair in pairs if all(atoms.free[atoms.of[x]].any() for x in pair)]
        pairs = free or pairs  # what stays anyhow may have the same length by chance
        equal = [(a, b) for a, b in pairs if len(a) == len(b)]
        return any(sum(self._tie(a, b, atoms) for a, b in group) for group in (equal, pairs))

    def _partners(self, required: Requirement) -> Iterator[tuple[Labels, Labels]]:
        """Pairs of axes that must shrink alike for the size to follow."""
        family = [required]
        for attribute in required.attributes:
            family += [x for x in self._hard_uses(attribute) if x is not required]
        stated = [x.stated.axis for x in family if x.stated.axis is not None]
        computed = [axis for x in family for axis, _ in x.shapes.values() if axis is not None]
        return ((stated[0], other) for other in (*stated[1:], *computed) if stated)

    def _tie(self, left: Labels, right: Labels, atoms: Atoms) -> bool:
        """Slot by slot, or run by run where one is a multiple; False where all were tied already.

        Of the two ways to repeat the shorter axis, the one that agrees with more of what is tied.
        """
        short, long = sorted((left, right), key=len)
        if not len(short) or len(long) % len(short):
            return False
        times = len(long) // len(short)
        ways = (np.tile(short, times), np.repeat(short, times))
        agree = [int((atoms.of[way] == atoms.of[long]).sum()) for way in ways]
        self.constraints.ledger.tie(ways[agree[1] > agree[0]], long)
        return max(agree) < len(long)

    def _pin_all(self, stuck: Sequence[Requirement], atoms: Atoms) -> None:
        """Pin what stands for itself: a pin may already help others that share its slots."""
        touched = np.zeros(len(atoms.reason), bool)
        for required in stuck:
            mine = [atoms.of[axis] for axis in required.axes if axis is not None]
            if not any(touched[atom].any() for atom in mine):
                self._give_up(required)
            for atom in mine:
                touched[atom] = True

    def _give_up(self, required: Requirement) -> None:
        """The code's size stays as it is, and with it what it is computed from."""
        self.done.add(id(required))
        stated = required.stated
        if stated.soft:
            return
        named = ", ".join(str(leaf) for leaf in required.attributes)
        text = f"{stated.reason.text} is given the size {stated.length}" + (
            f" from {named}, which cannot be mended" if named else " in a way that cannot follow"
        )
        for axis in required.axes:
            if axis is not None:
                self.constraints.pin(axis, text, stated.reason.site)


_Uses: TypeAlias = "Callable[[AttributeOf], tuple[Requirement, ...]]"


def _relevant(requirements: Sequence[Requirement]) -> list[Requirement]:
    """Without what the code found equal and no cut can change, such as a stride and 1."""
    relevant = [x for x in requirements if not x.stated.soft]
    attributes = {leaf for x in relevant for leaf in x.attributes}
    rest = [x for x in requirements if x.stated.soft]
    while True:
        touched = [
            x
            for x in rest
            if any(axis is not None for axis in x.axes) or attributes & x.attributes.keys()
        ]
        if not touched:
            return relevant
        relevant += touched
        seen = set(map(id, touched))
        rest = [x for x in rest if id(x) not in seen]
        attributes |= {leaf for x in touched for leaf in x.attributes}
