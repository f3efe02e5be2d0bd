"""From scores and a budget to what survives in each group.

A budget is a share of channels to remove, or a share of MACs or parameters that may remain.
Scope: every group the same share, or one threshold over all. Widths are rounded to what runtimes
like; a channel count off the multiples of 16 can run slower than the dense network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import floor, gcd
from typing import Any, Literal, TypeAlias

import numpy as np

from slimnet.cost import Cost
from slimnet.criteria import Scores
from slimnet.errors import InputError, PruneError
from slimnet.groups import Group

Scope: TypeAlias = Literal["local", "global"]
Align: TypeAlias = int | Literal["auto"] | None
Survivors: TypeAlias = dict[int, int]
"""How many atoms of each group survive."""


@dataclass(frozen=True)
class Budget:
    """What was asked for: exactly one of the three shares."""

    ratio: float | None = None  # channels removed
    macs: float | None = None  # MACs that may remain
    params: float | None = None  # parameters that may remain

    def __post_init__(self) -> None:
        given = [(name, share) for name, share in vars(self).items() if share is not None]
        if len(given) != 1:
            raise InputError("give exactly one budget: a ratio of channels, of macs or of params")
        name, share = given[0]
        inside = 0 <= share < 1 if name == "ratio" else 0 < share <= 1
        if not inside:
            interval = "[0, 1)" if name == "ratio" else "(0, 1]"
            raise InputError(f"{name} must lie in {interval}, and {share} does not")

    @property
    def kind(self) -> str:
        """Which of the three was given."""
        return next(name for name, share in vars(self).items() if share is not None)

    @property
    def asks_for_less(self) -> bool:
        """Whether anything has to go at all."""
        return self.share > 0 if self.kind == "ratio" else self.share < 1

    @property
    def share(self) -> float:
        """The number that was given."""
        return float(getattr(self, self.kind))


@dataclass(frozen=True)
class Limits:
    """What narrows the choice: scope, rounding, guards and overrides by layer name."""

    scope: Scope = "local"
    align: Align = "auto"
    min_channels: int | None = None
    keep: tuple[str, ...] = ()
    layer_ratio: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scope not in ("local", "global"):
            raise InputError(f"unknown scope {self.scope!r}: the known ones are global, local")
        if isinstance(self.align, str) and self.align != "auto":
            raise InputError(f"align must be a number, auto or off, and {self.align!r} is none")
        if isinstance(self.align, int) and self.align < 1:
            raise InputError(f"align must be at least 1, and {self.align} is not")
        if self.min_channels is not None and self.min_channels < 1:
            raise InputError(f"min_channels must be at least 1, and {self.min_channels} is not")
        for glob, ratio in self.layer_ratio.items():
            if not 0 <= ratio < 1:
                raise InputError(f"the ratio of layer {glob!r} must lie in [0, 1): {ratio}")

    def check(self, groups: Sequence[Group], layers: Sequence[str]) -> None:
        """Raise :class:`InputError` for a pattern that matches no layer."""
        for glob in (*self.keep, *self.layer_ratio):
            if not any(fnmatchcase(name, glob) for name in layers):
                some = ", ".join(list(layers)[:4])
                raise InputError(f"no layer is called {glob!r}; layers are called {some}, …")

    def fixed_ratio(self, group: Group) -> float | None:
        """The ratio that a name pattern prescribes for this group: 0 if it is kept."""
        if any(fnmatchcase(name, glob) for name in group.layers for glob in self.keep):
            return 0.0
        named = [
            ratio
            for glob, ratio in self.layer_ratio.items()
            if any(fnmatchcase(name, glob) for name in group.layers)
        ]
        return named[-1] if named else None


def allocate(
    groups: Sequence[Group],
    scores: Mapping[int, Scores],
    budget: Budget,
    limits: Limits,
    cost: Callable[[Survivors], Cost],
) -> Survivors:
    """How many atoms of each scored group survive.

    ``cost`` tells what a choice costs; ``scores`` of groups under a global scope must be
    comparable. Raises :class:`PruneError` where a layer would be left without channels.
    """
    chosen = [g for g in groups if g.number in scores]
    limiter = _Limiter(chosen, scores, limits)
    if budget.kind == "ratio":
        return limiter.exactly(budget.share)
    return _search(limiter, budget, cost)


class _Limiter:
    """Turns one number, the share to remove, into survivors per group."""

    def __init__(
        self, groups: Sequence[Group], scores: Mapping[int, Scores], limits: Limits
    ) -> None:
        self.groups = groups
        self.limits = limits
        self.fixed = {g.number: limits.fixed_ratio(g) for g in groups}
        open_groups = [g for g in groups if self.fixed[g.number] is None]
        self.order = np.empty(0, np.int64)
        if open_groups and limits.scope == "global":
            values = np.concatenate([scores[g.number] for g in open_groups])
            owner = np.concatenate([np.full(g.size, g.number) for g in open_groups])
            weight = np.concatenate([np.full(g.size, g.width / g.size) for g in open_groups])
            order = np.argsort(values, kind="stable")
            self.order, self.removed = owner[order], np.cumsum(weight[order])

    def survivors(self, share: float) -> Survivors:
        """Survivors when this share of channels goes."""
        return self._survivors(share, refuse=False)

    def exactly(self, share: float) -> Survivors:
        """The same for a ratio that was asked for: one that would empty a layer is refused."""
        return self._survivors(share, refuse=self.limits.scope == "local")

    def _survivors(self, share: float, *, refuse: bool) -> Survivors:
        goes = self._global(share) if self.limits.scope == "global" else None
        found: Survivors = {}
        for group in self.groups:
            prescribed = self.fixed[group.number]
            ratio = share if prescribed is None else prescribed
            if prescribed is None and goes is not None:
                wanted = group.size - goes.get(group.number, 0)
            else:
                wanted = floor(group.size * (1 - ratio) + 1e-9)
            found[group.number] = self._guarded(group, wanted, ratio if refuse else 0.0)
        return found

    def _global(self, share: float) -> dict[int, int]:
        """Atoms that go from each group under one threshold."""
        if not len(self.order):
            return {}
        number = int(np.searchsorted(self.removed, share * self.removed[-1] + 1e-9, side="right"))
        names, counts = np.unique(self.order[:number], return_counts=True)
        return {int(n): int(c) for n, c in zip(names, counts, strict=True)}

    def _guarded(self, group: Group, wanted: int, share: float) -> int:
        """At least the minimum width, and a multiple that runtimes like."""
        if share > 0 and self.limits.min_channels is None:
            _refuse_empty(group, share)
        least = -(-(self.limits.min_channels or 1) // group.channels_per_atom)
        kept = _aligned(max(wanted, least), group, self.limits.align)
        return min(max(kept, least), group.size)


def _refuse_empty(group: Group, share: float) -> None:
    if floor(group.width * (1 - share) + 1e-9) < 1:
        raise PruneError(
            f"a ratio of {share} would leave {group.layers[0]} ({group.width} channels) with "
            "none; lower it, or set a minimum width (--min-channels)"
        )


def _aligned(kept: int, group: Group, align: Align) -> int:
    """The nearest number of atoms whose channels are a multiple; ties go up."""
    multiple = alignment(group.width, align)
    step = multiple // gcd(multiple, group.channels_per_atom)
    if step <= 1 or kept >= group.size:
        return kept
    return min(max(floor(kept / step + 0.5) * step, step), group.size)


def alignment(width: int, align: Align) -> int:
    """The multiple that a group of this width is rounded to."""
    if align is None:
        return 1
    if align == "auto":
        return 16 if width >= 32 else 8 if width >= 16 else 1
    return align if width > align else 1


def _search(limiter: _Limiter, budget: Budget, cost: Callable[[Survivors], Cost]) -> Survivors:
    """Bisect the share of channels until the cost is as near the budget as widths allow."""

    def remains(share: float) -> float:
        return float(getattr(cost(limiter.survivors(share)), budget.kind)) / dense

    dense = float(getattr(cost({g.number: g.size for g in limiter.groups}), budget.kind))
    low, high = 0.0, 1.0
    best = (abs(1.0 - budget.share), 0.0)
    for _ in range(24):
        middle = (low + high) / 2
        share = remains(middle)
        best = min(best, (abs(share - budget.share), middle))
        low, high = (middle, high) if share > budget.share else (low, middle)
    return limiter.survivors(best[1])


def removed_members(
    groups: Sequence[Group], scores: Mapping[int, Scores], survivors: Survivors
) -> dict[int, np.ndarray[Any, np.dtype[np.int64]]]:
    """Per group: which atoms go, the lowest scores first (of equals, the first)."""
    return {
        g.number: np.sort(
            np.argsort(scores[g.number], kind="stable")[: g.size - survivors[g.number]]
        )
        for g in groups
        if g.number in survivors and survivors[g.number] < g.size
    }
