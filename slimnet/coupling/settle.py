"""Settle the sizes that code states, once the labels are tied.

For each stated size: does it follow by itself when slots are removed? If it does not, an attribute
behind it is mended (its new value solves every size it appears in), only a multiple of slots may
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
from slimnet.coupling.needs import (
    Alive,
    Known,
    Mend,
    Multiple,
    known,
    multiples,
    stepped_trials,
    trials,
)


@dataclass(frozen=True, eq=False)
class Settled:
    """The solved ties, and what has to go with a cut."""

    atoms: Atoms
    mends: Sequence[Mend] = ()
    multiples: Sequence[Multiple] = ()


def settle(constraints: Constraints, tensors: Sequence[Mapping[int, Labelled]]) -> Settled:
    """Solve the ties, and tie or pin more until every stated size agrees."""
    atoms = solve(constraints)
    if not constraints.needs:
        return Settled(atoms)
    everything = {number: x for trace in tensors for number, x in trace.items()}
    settler = _Settler(constraints, [known(need, everything) for need in constraints.needs])
    settler.discard_misread(atoms)
    atoms = solve(constraints)
    while True:  # each round ties or pins at least one need, and pins none twice
        settled, changed = settler.round(atoms)
        if not changed:
            return settled
        atoms = solve(constraints)


@dataclass(frozen=True, eq=False)
class _Remedy:
    """What meets a need that does not follow by itself."""

    mend: Mend | None = None
    multiples: tuple[Multiple, ...] = ()


class _Settler:
    """Goes over all needs; each round ties or pins more, or finds that all is well."""

    def __init__(self, constraints: Constraints, needs: list[Known]) -> None:
        self.constraints = constraints
        self.needs = _relevant(needs)
        self.done: set[int] = set()  # pinned, or left to the proof

    def discard_misread(self, atoms: Atoms) -> None:
        """A size whose source does not even give its present value was read wrongly: it stays."""
        everything = np.ones(len(atoms.reason), bool)
        for need in self.needs:
            if not need.follows(everything, atoms):
                self._give_up(need)
        self.needs = [need for need in self.needs if id(need) not in self.done]

    def round(self, atoms: Atoms) -> tuple[Settled, bool]:
        """What satisfies every need, and whether anything had to be tied or pinned."""
        tried = trials(atoms)
        mends: dict[AttributeOf, Mend] = {}
        steps: list[Multiple] = []
        stuck: list[Known] = []
        for need in self._failing(tried, atoms):
            if any(leaf in mends for leaf in need.attributes):
                continue
            remedy = self._remedy(need, atoms, tried)
            if remedy is None:
                stuck.append(need)
                continue
            steps += remedy.multiples
            if remedy.mend is not None:
                mends[remedy.mend.attribute] = remedy.mend
        settled = Settled(atoms, list(mends.values()), steps)
        return settled, self._changed([n for n in stuck if not n.need.soft], stuck, atoms)

    def _failing(self, tried: Sequence[Alive], atoms: Atoms) -> list[Known]:
        return [
            need
            for need in self.needs
            if id(need) not in self.done
            and not all(need.follows(t, atoms) for t in (*tried, *need.edges(atoms)))
        ]

    def _changed(self, hard: list[Known], stuck: list[Known], atoms: Atoms) -> bool:
        """Tie or pin what nothing else meets; whether there was anything to."""
        if hard:
            if not self._tie_all(hard, atoms):
                self._pin_all(hard, atoms)
            return True
        tied = [self._tie_equal(need, atoms) for need in stuck]
        self.done |= {id(need) for need, new in zip(stuck, tied, strict=True) if not new}
        return any(tied)

    def _remedy(self, need: Known, atoms: Atoms, tried: Sequence[Alive]) -> _Remedy | None:
        """The first that works: all uses of an attribute asked, then without the soft ones."""
        for uses in (self._uses, self._hard_uses):
            plain, mended = self._stepped(need, None, atoms), self._mended(need, uses, atoms, tried)
            found = (plain, mended) if need.need.soft else (mended, plain)
            attributes = () if any(found) else need.attributes
            stepped = (self._stepped(need, self._mend(x, need, uses), atoms) for x in attributes)
            remedy = next((x for x in (*found, *stepped) if x is not None), None)
            if remedy is not None or need.need.soft:
                return remedy
        return None

    def _uses(self, attribute: AttributeOf) -> tuple[Known, ...]:
        return tuple(n for n in self.needs if attribute in n.attributes and id(n) not in self.done)

    def _hard_uses(self, attribute: AttributeOf) -> tuple[Known, ...]:
        return tuple(n for n in self._uses(attribute) if not n.need.soft)

    def _mended(
        self, need: Known, uses: _Uses, atoms: Atoms, tried: Sequence[Alive]
    ) -> _Remedy | None:
        """An attribute of this size that can be given a value which all its uses agree with."""
        for attribute in need.attributes:
            mend = self._mend(attribute, need, uses)
            ends = [trial for use in mend.needs for trial in use.edges(atoms)]
            if all(mend.holds(trial, atoms) for trial in (*tried, *ends)):
                return _Remedy(mend)
        return None

    def _mend(self, attribute: AttributeOf, need: Known, uses: _Uses) -> Mend:
        return Mend(attribute, need.attributes[attribute], uses(attribute))

    def _stepped(self, need: Known, mend: Mend | None, atoms: Atoms) -> _Remedy | None:
        """The size follows, or an attribute can be mended, where whole steps leave."""
        holds = need.follows if mend is None else mend.holds
        for steps in multiples((need,) if mend is None else mend.needs, atoms):
            if all(holds(trial, atoms) for trial in stepped_trials(steps, atoms)):
                return _Remedy(mend, steps)
        return None

    def _tie_equal(self, need: Known, atoms: Atoms) -> bool:
        """Tie two lengths that the code found equal; whether that was news."""
        size = need.need.size
        sides = (size.left, size.right) if isinstance(size, Combined) else ()
        axes = [need.shapes[side][0] for side in sides if isinstance(side, ShapeOf)]
        left, right = axes if len(axes) == 2 else (None, None)
        both = left is not None and right is not None and len(left) == len(right)
        return left is not None and right is not None and both and self._tie(left, right, atoms)

    def _tie_all(self, stuck: Sequence[Known], atoms: Atoms) -> bool:
        """Tie equal lengths; where nothing is left of them, multiples (there are two ways to)."""
        pairs = [pair for known in stuck for pair in self._partners(known)]
        free = [pair for pair in pairs if all(atoms.free[atoms.of[x]].any() for x in pair)]
        pairs = free or pairs  # what stays anyhow may have the same length by chance
        equal = [(a, b) for a, b in pairs if len(a) == len(b)]
        return any(sum(self._tie(a, b, atoms) for a, b in group) for group in (equal, pairs))

    def _partners(self, known: Known) -> Iterator[tuple[Labels, Labels]]:
        """Pairs of axes that must shrink alike for the size to follow."""
        family = [known]
        for attribute in known.attributes:
            family += [n for n in self._hard_uses(attribute) if n is not known]
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

    def _pin_all(self, stuck: Sequence[Known], atoms: Atoms) -> None:
        """Pin what stands for itself: a pin may already help others that share its slots."""
        touched = np.zeros(len(atoms.reason), bool)
        for need in stuck:
            mine = [atoms.of[axis] for axis in need.axes if axis is not None]
            if not any(touched[atom].any() for atom in mine):
                self._give_up(need)
            for atom in mine:
                touched[atom] = True

    def _give_up(self, known: Known) -> None:
        """The code's size stays as it is, and with it what it is computed from."""
        self.done.add(id(known))
        need = known.need
        if need.soft:
            return
        named = ", ".join(str(leaf) for leaf in known.attributes)
        text = f"{need.reason.text} is given the size {need.length}" + (
            f" from {named}, which cannot be mended" if named else " in a way that cannot follow"
        )
        for axis in known.axes:
            if axis is not None:
                self.constraints.pin(axis, text, need.reason.site)


_Uses: TypeAlias = "Callable[[AttributeOf], tuple[Known, ...]]"


def _relevant(needs: Sequence[Known]) -> list[Known]:
    """Without what the code found equal and no cut can change, such as a stride and 1."""
    attributes = {leaf for need in needs if not need.need.soft for leaf in need.attributes}
    found = [need for need in needs if not need.need.soft]
    rest = [need for need in needs if need.need.soft]
    while True:
        touched = [
            need
            for need in rest
            if any(axis is not None for axis in need.axes) or attributes & need.attributes.keys()
        ]
        if not touched:
            return found
        found += touched
        seen = set(map(id, touched))
        rest = [need for need in rest if id(need) not in seen]
        attributes |= {leaf for need in touched for leaf in need.attributes}
