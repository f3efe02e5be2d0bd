"""The widths that a group may have: its rungs.

Multiples of what runtimes like, from the minimum width up to what is there. Rounding goes to the
nearest multiple; the search for a budget goes one rung up or down.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, gcd, lcm

import numpy as np

from slimnet.coupling.groups import Group
from slimnet.planning.budget import Limits


@dataclass(frozen=True, eq=False)
class Ladder:
    """Numbers of atoms that one group may keep."""

    group: Group
    step: int  # atoms whose channels are a multiple of the alignment
    least: int
    most: int  # what has gone in an earlier round stays gone
    offset: int = 0  # of a group whose size is no multiple, but which may lose only multiples

    def nearest(self, atoms: float) -> int:
        """The rung that is nearest to a number of atoms; ties go up."""
        if atoms >= self.most:
            return self.most
        rung = floor((atoms - self.offset) / self.step + 0.5) * self.step + self.offset
        return min(max(rung, self.least), self.most)

    def up(self, atoms: int) -> int | None:
        """The next rung above one; None at the top."""
        if atoms >= self.most:
            return None
        steps = (atoms - self.offset) // self.step + 1
        return min(steps * self.step + self.offset, self.most)

    def down(self, atoms: int) -> int | None:
        """The next rung below one; None at the bottom."""
        if atoms <= self.least:
            return None
        steps = (atoms - self.offset - 1) // self.step
        return max(steps * self.step + self.offset, self.least)


def ladder(group: Group, limits: Limits, most: int) -> Ladder:
    """The rungs of a group of which ``most`` atoms are there; one where its width is prescribed."""
    told = limits.told.get(group.number)
    if told is not None:
        return Ladder(group, 1, told, told)
    multiple = limits.multiple(group.width) if group.is_even else 1  # no number of atoms meets it
    step = lcm(multiple // gcd(multiple, group.channels_per_atom), group.step)
    fewest = np.cumsum(np.sort(group.channels).clip(min=1))  # channels that are left, at least
    least = int(np.searchsorted(fewest, limits.min_channels or 1)) + 1
    offset = group.size % group.step
    if offset:  # no multiple is of both: the code comes first
        step = group.step
    least = -(-(least - offset) // step) * step + offset
    return Ladder(group, step, min(least, most), most, offset)
