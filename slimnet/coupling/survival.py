"""Which atoms survive a cut, and what that leaves of an axis.

Whatever asks how long an axis will be, or which of its slots stay, asks a :class:`Survival`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slimnet.coupling.labels import Atoms, Axis, Flags, Labels


@dataclass(frozen=True, eq=False)
class Survival:
    """The solved ties, and which of the atoms a cut leaves."""

    atoms: Atoms
    alive: Flags  # [atoms]

    @classmethod
    def without(cls, atoms: Atoms, removed: Labels | Sequence[int] = ()) -> Survival:
        """All atoms survive but these."""
        alive = np.ones(len(atoms.reason), bool)
        alive[np.asarray(removed, np.int64)] = False
        return cls(atoms, alive)

    def along(self, axis: Labels) -> Flags:
        """[length]: which slots of an axis survive."""
        alive: Flags = self.alive[self.atoms.of[axis]]
        return alive

    def length(self, axis: Axis, before: int) -> int:
        """How long an axis of length ``before`` is after the cut; an inert one stays as it is."""
        return before if axis is None else int(np.count_nonzero(self.along(axis)))

    def is_whole(self, axis: Labels) -> bool:
        """Whether every slot of an axis survives."""
        return bool(self.along(axis).all())

    def is_empty(self, axis: Labels) -> bool:
        """Whether no slot of an axis survives."""
        return not self.along(axis).any()
