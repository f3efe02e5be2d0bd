"""From scores and a budget to how many atoms of each group survive.

One number, the share of channels to remove, gives every group a width: by its scope, rounded to its
:class:`~slimnet.planning.ladder.Ladder`. For a budget of a cost that share is bisected to the
largest network within the budget. One share moves many groups at once, so
:mod:`slimnet.planning.finish` then takes single rungs of single groups until no further one fits.
Where a group's rungs are too far apart for what is left, it stays and the share of the others is
bisected again. The budget is never exceeded; where even the narrowest network does, that one is the
answer, and a note says why. Where widths are rounded as slimnet likes, those of whole blocks of
channels are tried first where most groups have several, and taken if they come near enough to the
budget; ResNet-20, whose groups have 16 to 64 channels, paid for wider steps with 0.9 % of accuracy
after a repair. A cost that does not grow with the widths is tried at many shares, and of those that
fit the smallest is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import floor
from statistics import median

import numpy as np

from slimnet.costs.widths import Widths
from slimnet.coupling.groups import Group
from slimnet.criteria import Scores
from slimnet.errors import PruneError
from slimnet.planning.budget import BLOCK, Budget, Limits
from slimnet.planning.finish import finish
from slimnet.planning.greedy import least_damage
from slimnet.planning.ladder import Ladder, ladder
from slimnet.planning.search import WITHIN, Search
from slimnet.planning.shortfall import channels_short, exceeds, finer_note, shortfall


@dataclass(frozen=True)
class Allocation:
    """The chosen widths, and what the scope alone asked of each group."""

    widths: Widths  # atoms
    asked: Mapping[int, float]  # share of the channels, before rounding, guards and single steps
    why: Mapping[int, str]  # why a group differs from that; left out where it does not
    notes: tuple[str, ...] = ()
    unmet: str = ""  # why the budget is exceeded; empty where it is met


def allocate(
    groups: Sequence[Group],
    scores: Mapping[int, Scores],
    budget: Budget,
    limits: Limits,
    cost: Callable[[Widths], float] | None = None,
    *,
    grows: bool = True,
    like: Mapping[int, int] | None = None,
) -> Allocation:
    """How many atoms of each scored group survive.

    ``cost`` tells what the budget's cost is at a choice of widths; a ratio needs none. ``grows``:
    it never falls where a group grows. ``scores`` [atoms] must be comparable across groups; atoms
    at -inf have gone already. ``like`` gives each group's class, for scope "isomorphic". Raises
    :class:`PruneError` where a local ratio would leave a layer without channels.
    """
    groups = [g for g in groups if g.number in scores]
    if budget.is_ratio:
        shares = _Shares(groups, scores, limits, like or {})
        shares.refuse_empty(budget.value)
        if limits.scope != "harm":
            return shares.by_ratio(budget.value)
    counted = _channels(groups) if cost is None or budget.is_ratio else cost
    goal = _Goal(groups, scores, budget, counted, grows, like or {})
    if limits.align == "auto" and not budget.is_ratio and _are_wide(groups):
        made, near = goal.met(replace(limits, whole_blocks=True))
        if near and not made.unmet:
            return made
    return goal.met(limits)[0]


def _are_wide(groups: Sequence[Group]) -> bool:
    """Whether most are wider than two blocks: of narrower ones, full blocks leave no choice."""
    return bool(groups) and median(g.width for g in groups) > 2 * BLOCK


@dataclass(frozen=True, eq=False)
class _Goal:
    """A budget of a cost, and what it is met with."""

    groups: Sequence[Group]
    scores: Mapping[int, Scores]
    budget: Budget
    cost: Callable[[Widths], float]
    grows: bool
    like: Mapping[int, int]

    def met(self, limits: Limits) -> tuple[Allocation, bool]:
        """The nearest within the budget, and whether it is as near as steps of this kind can be."""
        groups, cost = self.groups, self.cost
        shares = _Shares(groups, self.scores, limits, self.like)
        whole = cost({g.number: g.size for g in groups})
        unit = _unit(whole)

        def spent(widths: Widths) -> float:
            return cost(widths) / unit

        amount = self.budget.remains(whole) * whole / unit
        tried = (1.0,) if self.grows else _TRIED
        shares = _fine_enough(shares, spent, amount, tried)
        start = shares.widths(0.0)
        search = Search(start, shares.open, self.scores, spent, amount, self.grows)
        share, wanted, widths = _searched(search, shares, tried)
        finer = finer_note(shares.limits, groups)
        near = not finer and search.left(widths) <= WITHIN * amount
        if self.budget.is_ratio:
            made = shares.allocation(wanted, widths, share, finer)
            return shares.told_by_ratio(made, self.budget.value, amount), near
        short = shortfall(
            widths, shares.ladders, shares.fixed, shares.limits, self.budget, cost, self.grows
        )
        if exceeds(spent(widths), amount):
            made = shares.allocation(wanted, widths, share, short)
            return replace(made, unmet=short[0]), near
        return shares.allocation(wanted, widths, share, [*finer, *short]), near


def _searched(
    search: Search, shares: _Shares, tried: Sequence[float]
) -> tuple[float | None, Mapping[int, float], Widths]:
    """The share, where one leads there; the widths before the last steps, and after them."""
    if shares.limits.scope == "harm":
        start, widths = _by_damage(search)
        if search.grows or search.left(widths) >= 0:
            return None, dict(start), widths
    share, widths = _meet(search, shares, tried)
    return share, shares.wanted(share), widths


def _channels(groups: Sequence[Group]) -> Callable[[Widths], float]:
    """What a ratio counts."""
    return lambda widths: sum(g.channels_of(widths[g.number]) for g in groups)


def _unit(whole: float) -> float:
    """What a cost is counted in: whole numbers as they are, others in billionths of the whole.

    The searches take one for next to nothing, whatever a cost is measured in.
    """
    return 1 if isinstance(whole, int) else (whole or 1) / 1e9


_TRIED = tuple(k / 64 for k in range(1, 65))
"""The shares of channels that are tried where a cost need not grow with widths."""


def _fine_enough(
    shares: _Shares, spent: Callable[[Widths], float], amount: float, tried: Sequence[float]
) -> _Shares:
    """The same with halved multiples, and halved again, until one of the tried shares fits.

    A budget is a must and a multiple what runtimes like. The finest where none fits.
    """

    def fits(shares: _Shares) -> bool:
        return any(not exceeds(spent(shares.widths(share)), amount) for share in tried)

    while not fits(shares) and shares.can_be_finer:
        shares = shares.finer()
    return shares


def _by_damage(search: Search) -> tuple[Widths, Widths]:
    """The least damaging widths, and those near them that come nearest to the amount.

    Where a step saved far more than was needed, it is taken back and the other groups pay.
    """
    start = least_damage(search)
    nearest = finish(search.at(start))
    ups = search.ups(nearest)
    order = sorted(ups, key=lambda number: search.spent({**nearest, number: ups[number]}))
    for number in order[:_TAKEN_BACK]:
        if search.is_met(nearest):
            break
        rest = search.without([number])
        trial = least_damage(rest.at({**nearest, number: ups[number]}))
        trial = finish(rest.at(trial))
        if search.spent(nearest) < search.spent(trial) <= search.amount:
            nearest = trial
    return start, _filled(search.at(nearest))


_TAKEN_BACK = 16  # steps that are tried, those first that exceed the amount by least


def _meet(search: Search, shares: _Shares, tried: Sequence[float]) -> tuple[float, Widths]:
    """The share, and the widths near it, that come nearest to the amount."""
    held: Widths = {}
    answer: tuple[float, Widths] | None = None
    while True:
        share = _share_within(
            lambda share: search.spent({**shares.widths(share), **held}), search.amount, tried
        )
        start = {**shares.widths(share), **held}
        if answer is not None and search.left(start) < 0:  # what is held fits with no share
            break
        rest = search.without(held).at(start)
        near = finish(rest)
        answer = share, near
        ups = rest.ups(near)
        stuck = {n for n in ups if near[n] <= start[n]}
        grew = any(near[n] > start[n] for n in rest.ladders)
        if search.is_met(near):
            return answer
        if not stuck or not grew:
            break
        held.update({number: near[number] for number in stuck})
    share, near = answer
    return share, _filled(search.at(near))


def _filled(search: Search) -> Widths:
    """Finished again from where it is, until the amount is met or no single step fits."""
    now = search.start
    while not search.is_met(now):
        further = finish(search.at(now))
        if not search.grows and _progress(search, further) <= _progress(search, now):
            further = _wider(search.at(now))
        if _progress(search, further) <= _progress(search, now):
            break
        now = further
    return now


def _wider(search: Search) -> Widths:
    """Each group takes the dearest of some wider rungs that fits: the next one may cost more."""
    now = dict(search.start)
    for number, rungs in search.ladders.items():
        best, rung = search.spent(now), rungs.up(now[number])
        for _ in range(_RUNGS):
            if rung is None:
                break
            spent = search.spent({**now, number: rung})
            if best < spent <= search.amount:
                best, now = spent, {**now, number: rung}
            rung = rungs.up(rung)
    return now


_RUNGS = 16  # that are tried above where a group stands


def _progress(search: Search, widths: Widths) -> tuple[float, int]:
    """More is spent, or as much on wider groups."""
    return search.spent(widths), sum(widths.values())


def _share_within(spent: Callable[[float], float], amount: float, tried: Sequence[float]) -> float:
    """The smallest share of channels whose removal fits the amount, as far as it is tried.

    Where none fits, the one that leaves least. Between two shares that were tried the cost is taken
    to fall: what is found fits in any case.
    """
    if spent(0.0) <= amount:
        return 0.0
    for low, high in pairwise((0.0, *tried)):
        if spent(high) <= amount:
            return _bisect(spent, amount, low, high)
    return min((*tried, 0.0), key=spent)


def _bisect(spent: Callable[[float], float], amount: float, low: float, high: float) -> float:
    """A share that fits, between one that does not and one that does."""
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > amount else (low, middle)
    return high


class _Shares:
    """Turns one number, the share of channels to remove, into widths."""

    def __init__(
        self,
        groups: Sequence[Group],
        scores: Mapping[int, Scores],
        limits: Limits,
        like: Mapping[int, int],
    ) -> None:
        self.groups = groups
        self.scores = scores
        self.like = like
        self.limits = limits
        self.fixed = {g.number: limits.fixed_ratio(g) for g in groups}
        there = {g.number: int(np.isfinite(scores[g.number]).sum()) for g in groups}
        self.ladders = {g.number: ladder(g, limits, there[g.number]) for g in groups}
        ranked: dict[int, list[Group]] = {}
        for group in groups:
            if self.fixed[group.number] is None and limits.scope in ("global", "isomorphic"):
                place = like.get(group.number, -1) if limits.scope == "isomorphic" else 0
                ranked.setdefault(place, []).append(group)
        self.rankings = [_Ranking(together, scores) for together in ranked.values()]

    @property
    def can_be_finer(self) -> bool:
        """Whether any group is rounded to more than single channels."""
        return any(self.limits.multiple(group.width) > 1 for group in self.groups)

    def finer(self) -> _Shares:
        """The same, rounded to half."""
        limits = replace(self.limits, finer=2 * self.limits.finer)
        return _Shares(self.groups, self.scores, limits, self.like)

    @property
    def open(self) -> dict[int, Ladder]:
        """The groups whose width no name pattern prescribes."""
        return {number: x for number, x in self.ladders.items() if self.fixed[number] is None}

    def widths(self, share: float) -> Widths:
        """The widths when this share of channels goes."""
        wanted = self.wanted(share)
        return {number: x.nearest(wanted[number]) for number, x in self.ladders.items()}

    def wanted(self, share: float) -> dict[int, float]:
        """The same before rounding and guards."""
        widths: dict[int, float] = {}
        for ranking in self.rankings:
            widths.update(ranking.wanted(share))
        for group in self.groups:
            prescribed = self.fixed[group.number]
            if group.number not in widths:
                ratio = share if prescribed is None else prescribed
                widths[group.number] = floor(group.size * (1 - ratio) + 1e-9)
        return widths

    def refuse_empty(self, share: float) -> None:
        """Raise where a ratio that was asked for would leave a layer with nothing."""
        if self.limits.min_channels is not None:
            return
        for group in self.groups:
            prescribed = self.fixed[group.number]
            ratio = share if prescribed is None else prescribed
            ranked = prescribed is None and self.limits.scope != "local"
            if not ranked and floor(group.width * (1 - ratio) + 1e-9) < 1:
                raise PruneError(
                    f"a ratio of {ratio} would leave {group.layers[0]} ({group.width} channels) "
                    "with none; lower it, or set a minimum width (--min-channels)"
                )

    def by_ratio(self, ratio: float) -> Allocation:
        """The answer to a ratio that every group loses, or that is lost under one threshold."""
        wanted = self.wanted(ratio)
        goal = sum(g.channels_of(wanted[g.number]) for g in self.groups)
        return self.told_by_ratio(self.allocation(wanted, self.widths(ratio), ratio), ratio, goal)

    def told_by_ratio(self, allocation: Allocation, ratio: float, goal: float) -> Allocation:
        """With the reason where it is missed by more than rounding."""
        short = channels_short(ratio, goal, allocation.widths, self.ladders, allocation.why)
        return replace(allocation, unmet=short)

    def allocation(
        self,
        wanted: Mapping[int, float],
        widths: Widths,
        share: float | None = None,
        notes: Sequence[str] = (),
    ) -> Allocation:
        """The answer, with the reason why a group differs from what the scope asks of it."""
        local = share if self.limits.scope == "local" else None
        asked = {
            g.number: 1 - wanted[g.number] / g.size if local is None else local for g in self.groups
        }
        why = {n: self._why(n, wanted[n], widths[n], asked[n]) for n in wanted}
        return Allocation(widths, asked, {n: w for n, w in why.items() if w}, tuple(notes))

    def _why(self, number: int, wanted: float, width: int, asked: float) -> str:
        rungs = self.ladders[number]
        if self.fixed[number] is not None:
            if number in self.limits.told:
                return "a width of its own"
            return "kept by name" if self.limits.is_kept(rungs.group) else "a ratio of its own"
        if width == wanted:
            channels, size = rungs.group.at_a_time, rungs.group.size
            off = abs(asked - (1 - width / size)) * rungs.group.width >= 1
            return f"{channels} channels leave at a time" if off and channels != "1" else ""
        if width == rungs.most < wanted:
            return "it went in an earlier round"
        if width != rungs.nearest(wanted):
            return "to meet the budget"
        if width == rungs.least and wanted < width:
            least = rungs.group.channels_of(width)
            return f"at least {least} channel{'s' * (least != 1)}"
        if rungs.group.step > 1:
            multiple = rungs.group.channels_of(rungs.step)
            return f"a multiple of {multiple}: the code divides its width"
        return f"a multiple of {self.limits.multiple(rungs.group.width)}"


class _Ranking:
    """Groups under one threshold."""

    def __init__(self, groups: Sequence[Group], scores: Mapping[int, Scores]) -> None:
        self.groups = groups
        values = np.concatenate([scores[g.number] for g in groups])
        owner = np.concatenate([np.full(g.size, g.number) for g in groups])
        weight = np.concatenate([np.full(g.size, g.width / g.size) for g in groups])
        order = np.argsort(values, kind="stable")
        self.owner, self.removed = owner[order], np.cumsum(weight[order])

    def wanted(self, share: float) -> dict[int, float]:
        """Atoms that are left of each group when this share of their channels goes."""
        goes = np.searchsorted(self.removed, share * self.removed[-1] + 1e-9, side="right")
        numbers, counts = np.unique(self.owner[:goes], return_counts=True)
        gone = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        return {g.number: g.size - gone.get(g.number, 0) for g in self.groups}
