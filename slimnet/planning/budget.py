"""What was asked for: a budget, and what narrows the choice of widths.

A budget is a share of channels to remove, or how much may remain of a cost: a share of MACs or
parameters, a number of bytes. Limits are the scope (what is ranked together), rounding, guards and
overrides.
:mod:`slimnet.planning.allocate` turns both into widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from slimnet.costs.cost import Cost
from slimnet.costs.quantity import COSTS
from slimnet.costs.widths import Widths
from slimnet.coupling.groups import Group
from slimnet.criteria import Scores
from slimnet.errors import InputError
from slimnet.plan.plan import Plan
from slimnet.planning.request import (
    BUDGETS,
    Align,
    CutRequest,
    Keep,
    Scope,
    above_zero,
    up_to_one,
)
from slimnet.signature import check_option, options_of


@dataclass(frozen=True)
class Budget:
    """How much may remain of a cost, or the ratio of channels that leave."""

    kind: str  # the name of a cost, or "ratio"
    value: float  # of a cost a share or an amount, as its quantity says

    def __post_init__(self) -> None:
        if self.kind in BUDGETS:
            check_option(CutRequest, self.kind, self.value)
        else:
            check = up_to_one if COSTS[self.kind].budget == "share" else above_zero
            check(self.kind, self.value)

    @classmethod
    def of(cls, request: CutRequest) -> Budget:
        """The one that was named."""
        return cls(*request.the_budget)

    @property
    def is_ratio(self) -> bool:
        """Whether channels are counted, and no cost."""
        return self.kind == "ratio"

    @property
    def is_share(self) -> bool:
        """Whether it names a share of what the dense network costs."""
        return not self.is_ratio and COSTS[self.kind].budget == "share"

    def whole(self, dense: Cost) -> float:
        """What the dense network costs of it; a ratio needs to know nothing of costs."""
        return 0.0 if self.is_ratio else dense.amounts[self.kind]

    def remains(self, whole: float) -> float:
        """The share that may remain, of channels or of a cost of which the ``whole`` is so much."""
        if self.is_ratio:
            return 1 - self.value
        return self.value if self.is_share else min(self.value / (whole or 1), 1.0)

    def after(self, earlier: Plan) -> Budget:
        """What may remain of what an earlier plan left, for a share of the original to remain."""
        before, after = earlier.before, earlier.after
        if not before or not after or not self.is_share:
            return self
        share = self.value * before[self.kind] / (after[self.kind] or 1)
        return replace(self, value=min(share, 1.0))

    def part(self, done: float, whole: float) -> Budget:
        """What is due once this part (0..1] of all rounds is done.

        Every round leaves the same share of what the round before it left.
        """
        if done >= 1:
            return self
        remains = self.remains(whole) ** done
        if self.is_ratio:
            return replace(self, value=1 - remains)
        return replace(self, value=remains if self.is_share else remains * whole)


@dataclass(frozen=True)
class Limits:
    """What narrows the choice: scope, rounding, guards and overrides by layer name."""

    scope: Scope = "local"
    align: Align = "auto"
    min_channels: int | None = None
    keep: tuple[str, ...] = ()
    layer_ratio: Mapping[str, float] = field(default_factory=dict)
    widths: Mapping[str, Keep] = field(default_factory=dict)
    told: Mapping[int, int] = field(default_factory=dict)  # group → the atoms that widths prescribe
    whole_blocks: bool = False  # a group no wider than the multiple stays whole
    finer: int = 1  # what the multiples are divided by, where a budget needs narrower groups

    def __post_init__(self) -> None:
        for name in filter(vars(self).__contains__, options_of(CutRequest)):
            check_option(CutRequest, name, getattr(self, name))

    @classmethod
    def of(cls, request: CutRequest) -> Limits:
        """Those of a cut."""
        return cls(
            scope=request.scope or "local",
            align=request.align,
            whole_blocks=request.whole_blocks,
            min_channels=request.min_channels,
            keep=tuple(request.keep),
            layer_ratio=dict(request.layer_ratio or {}),
            widths=dict(request.widths or {}),
        )

    def check(self, groups: Sequence[Group], layers: Sequence[str]) -> None:
        """Raise :class:`InputError` for a pattern that matches no layer."""
        for glob in (*self.keep, *self.layer_ratio):
            if not any(fnmatchcase(name, glob) for name in layers):
                some = ", ".join(list(layers)[:4])
                raise InputError(f"no layer is called {glob!r}; layers are called {some}, …")

    def telling(self, atoms: Mapping[int, int], groups: Sequence[Group]) -> Limits:
        """With how many atoms of which groups stay; raises :class:`InputError` for a kept one."""
        for group in groups:
            stay = atoms.get(group.number, group.size)
            if stay < group.size and self.is_kept(group):
                raise InputError(
                    f"{', '.join(group.layers[:3])} is kept by name, and {stay} of its "
                    f"{group.size} channels by a width: leave one of both out"
                )
        return replace(self, told=atoms)

    def is_kept(self, group: Group) -> bool:
        """Whether a name pattern says that this group is left alone."""
        return any(fnmatchcase(name, glob) for name in group.layers for glob in self.keep)

    def fixed_ratio(self, group: Group) -> float | None:
        """The ratio that a name pattern prescribes for this group: 0 if it is kept."""
        if group.number in self.told:
            return 1 - self.told[group.number] / group.size
        if self.is_kept(group):
            return 0.0
        named = [
            ratio
            for glob, ratio in self.layer_ratio.items()
            if any(fnmatchcase(name, glob) for name in group.layers)
        ]
        return named[-1] if named else None

    def multiple(self, width: int) -> int:
        """What the width of a group of so many channels is rounded to."""
        if self.whole_blocks and self.align is not None:
            multiple = min(BLOCK if self.align == "auto" else self.align, width)
        else:
            multiple = alignment(width, self.align)
        return max(multiple // self.finer, 1)

    def part(self, done: float) -> Limits:
        """The same with the ratios that are due once this part (0..1] of all rounds is done."""
        due = {glob: 1 - (1 - ratio) ** done for glob, ratio in self.layer_ratio.items()}
        return replace(self, layer_ratio=due) if done < 1 else self


BLOCK = 16
"""Channels that runtimes compute together on most machines."""


def alignment(width: int, align: Align) -> int:
    """The multiple that a group of this width is rounded to.

    "auto": a sixteenth to an eighth of the width, and at most 16: near to what runtimes like best
    (multiples of 16), and no group moves by more than a sixteenth.
    """
    if align is None:
        return 1
    if align == "auto":
        return max(min(1 << (width // 8).bit_length() >> 1, BLOCK), 1)
    return align if width > align else 1


def removed_atoms(
    groups: Sequence[Group],
    scores: Mapping[int, Scores],
    widths: Widths,
) -> dict[int, np.ndarray[Any, np.dtype[np.int64]]]:
    """Per group: which atoms go, the lowest scores first (of equals, the first)."""
    return {
        g.number: np.sort(np.argsort(scores[g.number], kind="stable")[: g.size - widths[g.number]])
        for g in groups
        if g.number in widths and widths[g.number] < g.size
    }
