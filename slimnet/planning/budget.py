"""What was asked for: a budget, and what narrows the choice of widths.

A budget is a share of channels to remove, a share of MACs or parameters that may remain, or a
number of bytes. Limits are the scope (what is ranked together), rounding, guards and overrides.
:mod:`slimnet.planning.allocate` turns both into widths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from slimnet.coupling.groups import Group
from slimnet.criteria import Scores
from slimnet.errors import InputError
from slimnet.measuring.cost import Cost
from slimnet.measuring.widths import Survivors

Scope: TypeAlias = Literal["local", "global", "isomorphic", "harm"]
"""local: every group the same share; global: one threshold over all; isomorphic: one threshold per
class of like groups (:mod:`slimnet.measuring.alike`), every class the same share; harm: the least
total score for what is saved (:mod:`slimnet.planning.harm`)."""
Align: TypeAlias = int | Literal["auto"] | None


@dataclass(frozen=True)
class Budget:
    """Exactly one of: a ratio of channels, or how much may remain of a cost."""

    ratio: float | None = None  # share of the channels that is removed
    macs: float | None = None  # share of the MACs that may remain
    params: float | None = None  # share of the parameters that may remain
    bytes: float | None = None  # of parameters and buffers as they are stored, that may remain

    def __post_init__(self) -> None:
        given = [(name, value) for name, value in vars(self).items() if value is not None]
        if len(given) != 1:
            raise InputError(
                "give exactly one budget: a ratio of channels, of macs or of params, or bytes"
            )
        name, value = given[0]
        if name == "bytes":
            if not 1 <= value < float("inf"):
                raise InputError(f"bytes must be a number from 1, and {value} is not")
            return
        inside = 0 <= value < 1 if name == "ratio" else 0 < value <= 1
        if not inside:
            interval = "[0, 1)" if name == "ratio" else "(0, 1]"
            raise InputError(f"{name} must lie in {interval}, and {value} does not")

    @property
    def kind(self) -> str:
        """Which of them was given."""
        return next(name for name, value in vars(self).items() if value is not None)

    @property
    def value(self) -> float:
        """The number that was given."""
        return float(getattr(self, self.kind))

    def remains(self, dense: Cost) -> float:
        """The share that may remain: of channels, MACs, parameters or bytes."""
        if self.kind == "ratio":
            return 1 - self.value
        return min(self.value / max(dense.bytes, 1), 1.0) if self.kind == "bytes" else self.value

    def part(self, done: float, dense: Cost) -> Budget:
        """What is due once this part (0..1] of all rounds is done.

        Every round leaves the same share of what the round before it left.
        """
        if done >= 1:
            return self
        remains = self.remains(dense) ** done
        value = {"ratio": 1 - remains, "bytes": remains * dense.bytes}.get(self.kind, remains)
        return Budget(**{self.kind: value})


_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3}
_UNITS |= {"kib": 1024, "mib": 1024**2, "gib": 1024**3}


def parse_bytes(text: str) -> float:
    """``5MB``, ``4.5 MiB`` or a plain number of bytes; one MB is 10⁶, one MiB 2²⁰ bytes."""
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]*)\s*", text, re.IGNORECASE)
    if match is None or match[2].lower() not in _UNITS:
        raise InputError(f"{text!r} is no number of bytes: 5MB, 4.5MiB, 500KB, 1GB or 5000000")
    return float(match[1]) * _UNITS[match[2].lower()]


@dataclass(frozen=True)
class Limits:
    """What narrows the choice: scope, rounding, guards and overrides by layer name."""

    scope: Scope = "local"
    align: Align = "auto"
    min_channels: int | None = None
    keep: tuple[str, ...] = ()
    layer_ratio: Mapping[str, float] = field(default_factory=dict)
    finer: int = 1  # what the multiples are divided by, where a budget needs narrower groups

    def __post_init__(self) -> None:
        if self.scope not in get_args(Scope):
            known = ", ".join(sorted(get_args(Scope)))
            raise InputError(f"unknown scope {self.scope!r}: the known ones are {known}")
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

    def is_kept(self, group: Group) -> bool:
        """Whether a name pattern says that this group is left alone."""
        return any(fnmatchcase(name, glob) for name in group.layers for glob in self.keep)

    def fixed_ratio(self, group: Group) -> float | None:
        """The ratio that a name pattern prescribes for this group: 0 if it is kept."""
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
        return max(alignment(width, self.align) // self.finer, 1)

    def part(self, done: float) -> Limits:
        """The same with the ratios that are due once this part (0..1] of all rounds is done."""
        due = {glob: 1 - (1 - ratio) ** done for glob, ratio in self.layer_ratio.items()}
        return replace(self, layer_ratio=due) if done < 1 else self


def alignment(width: int, align: Align) -> int:
    """The multiple that a group of this width is rounded to.

    "auto": a sixteenth to an eighth of the width, and at most 16: near to what runtimes like best
    (multiples of 16), and no group moves by more than a sixteenth.
    """
    if align is None:
        return 1
    if align == "auto":
        return max(min(1 << (width // 8).bit_length() >> 1, 16), 1)
    return align if width > align else 1


def removed_members(
    groups: Sequence[Group],
    scores: Mapping[int, Scores],
    survivors: Survivors,
) -> dict[int, np.ndarray[Any, np.dtype[np.int64]]]:
    """Per group: which atoms go, the lowest scores first (of equals, the first)."""
    return {
        g.number: np.sort(
            np.argsort(scores[g.number], kind="stable")[: g.size - survivors[g.number]]
        )
        for g in groups
        if g.number in survivors and survivors[g.number] < g.size
    }
