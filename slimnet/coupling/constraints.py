"""What the rules say, collected: ties, pins with reasons, sizes that code reads, statistics.

The rules write into it, call by call, while :mod:`slimnet.coupling.couple` goes over a trace; then
it is solved. It knows labels, sizes and sites, but no operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from slimnet.capture.graph import Call
from slimnet.capture.journal import Equality
from slimnet.capture.sites import Site
from slimnet.capture.sizes import SizeSource
from slimnet.coupling.labels import Axis, Labelled, Labels, Ledger
from slimnet.coupling.removal import Removal

LITERAL = "the literal size"
"""What a reason says of a number that stands in the user's code."""


@dataclass(frozen=True)
class Reason:
    """Why slots stay (or why removing them is approximate), and whose code says so."""

    text: str
    site: Site | None = None

    def __str__(self) -> str:
        return f"{self.text} ({self.site})" if self.site else self.text


@dataclass(frozen=True, eq=False)
class StatedSize:
    """A length that code states: after the cut ``size`` must give what is left of ``axis``."""

    size: SizeSource | int
    axis: Axis
    length: int
    reason: Reason
    soft: bool = False  # what the code found equal (1): it should be, and the proof says if it must


@dataclass(frozen=True, eq=False)
class Statistic:
    """What a call makes of an axis: its result depends on all slots, or it needs equal parts."""

    axis: Labels
    reason: Reason


@dataclass(frozen=True, eq=False)
class Grouped:
    """What a grouped convolution reads, in equal parts, and its weight."""

    weight: str
    channels: Labels
    groups: int
    reason: Reason


View: TypeAlias = tuple[int, int, int]
"""A view that splits an axis: (trace, call, the first axis that it makes of it)."""
Choices: TypeAlias = dict[View, int]
"""Which axis carries the labels; of a view that is not in it, the best."""


@dataclass(frozen=True, eq=False)
class Choice:
    """A view whose labels several of its axes could carry, best first, and the one that does."""

    axes: tuple[int, ...]
    chosen: int
    labels: Labels

    @property
    def next(self) -> int:
        """The axis after the chosen one."""
        return self.axes[(self.axes.index(self.chosen) + 1) % len(self.axes)]


@dataclass(eq=False)
class Constraints:
    """Everything that the rules say about labels while they run over a trace."""

    ledger: Ledger = field(default_factory=Ledger)
    reasons: list[Reason] = field(default_factory=list)
    stated: list[StatedSize] = field(default_factory=list)
    statistics: list[Statistic] = field(default_factory=list)
    restricted: dict[tuple[int, int], list[Labels] | None] = field(default_factory=dict)
    balanced: list[Statistic] = field(default_factory=list)  # the same places leave every part
    counted: list[Statistic] = field(default_factory=list)  # the same number leaves every part
    grouped: list[Grouped] = field(default_factory=list)  # whose weights are parameters
    apart: Mapping[str, Removal] = field(default_factory=dict)  # whose groups lose other columns
    undefined: list[Statistic] = field(default_factory=list)  # no number where slots are removed
    folded: list[tuple[Call, Labels, str]] = field(default_factory=list)
    attended: list[Labels] = field(default_factory=list)  # widths of what attention multiplies
    squeezed: list[Labels] = field(default_factory=list)  # channels of maps of one position
    shared_out: list[tuple[Call, Labels]] = field(default_factory=list)  # by a softmax
    remaps: list[tuple[Labelled, Labels]] = field(default_factory=list)
    choices: Choices = field(default_factory=dict)
    open_choices: dict[View, Choice] = field(default_factory=dict)
    values: dict[int, np.ndarray[Any, Any]] = field(default_factory=dict)  # of index tensors
    trace: int = 0  # which of the recorded passes the rules are at
    vanishing: bool = False  # whether the removed slots of the call's result hold zeros
    _numbers: dict[Reason, int] = field(default_factory=dict)  # of reasons

    def pin(self, axis: Labels, text: str, site: Site | None = None) -> None:
        """These slots stay."""
        reason = Reason(text, site)
        number = self._numbers.setdefault(reason, len(self.reasons))
        if number == len(self.reasons):
            self.reasons.append(reason)
        self.ledger.pin(axis, number)

    def need(
        self, size: SizeSource | int | None, axis: Axis, length: int, text: str, site: Site
    ) -> None:
        """Record a stated length: a literal pins the axis, one that torch computes is fine."""
        if isinstance(size, int) and axis is not None:
            self.pin(axis, f"{text} is given {LITERAL} {size}", site)
        elif size is not None and not isinstance(size, int):
            self.stated.append(StatedSize(size, axis, length, Reason(text, site)))

    def found_equal(self, equality: Equality) -> None:
        """Two numbers that the code compared are equal: they should be after the cut."""
        reason = Reason("it is found equal to another number", equality.site)
        self.stated.append(StatedSize(equality.source, None, 1, reason, soft=True))

    def approximate(self, call: Call, axis: Labels, text: str) -> None:
        """The call's result depends on all slots of the axis."""
        self.statistics.append(Statistic(axis, Reason(text, call.site)))
        over = self.restricted.setdefault((self.trace, call.index), [])
        if over is not None:
            over.append(axis)

    def restrict(self, call: Call, axes: Iterable[Axis], text: str) -> None:
        """The call gives no number where slots of these axes are removed.

        The reference has to run it on what survives, along every axis.
        """
        self.restricted[self.trace, call.index] = None
        reason = Reason(text, call.site)
        self.undefined += [Statistic(axis, reason) for axis in axes if axis is not None]

    def choose(self, call: Call, candidates: dict[int, Labels]) -> int:
        """Which axis carries the labels: of several, best first; the others are for a next try."""
        axes = tuple(candidates)
        key = (self.trace, call.index, min(axes))
        chosen = self.choices[key] if self.choices.get(key) in candidates else axes[0]
        if len(candidates) > 1:
            self.open_choices[key] = Choice(axes, chosen, candidates[chosen])
        return chosen
