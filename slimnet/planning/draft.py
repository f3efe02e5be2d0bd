"""From an analysed network to a plan: score, allocate, and in several rounds score again.

Every round after the first reads its scores from the network as already cut: the dense one with the
removed channels zeroed, which the certificate proves equal (where a cut is approximate, its
statistics still count the zeros), and the channels that are left of each group. What has gone stays
gone, and all rounds together are one plan against the dense network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from slimnet.capture.modules import clone
from slimnet.costs.quantity import Products
from slimnet.costs.widths import WidthCost
from slimnet.coupling.constraints import LITERAL
from slimnet.coupling.groups import Group, LayerReport
from slimnet.coupling.labels import Labels
from slimnet.coupling.survival import Survival
from slimnet.coupling.unread import unread
from slimnet.criteria import Scores
from slimnet.errors import PruneError
from slimnet.inspection import Analysis
from slimnet.network import Network
from slimnet.plan.outcome import GroupCut
from slimnet.plan.plan import Plan, make_plan, plan_with_survival
from slimnet.plan.rebuild import zero_removed
from slimnet.planning.alike import classes
from slimnet.planning.allocate import Allocation, allocate
from slimnet.planning.budget import Budget, Limits, removed_atoms
from slimnet.planning.bystanders import NONE, Bystanders, bystanders
from slimnet.planning.prescribed import Prescribed, prescribed
from slimnet.planning.scoring import ScoringInputs
from slimnet.planning.unread import unread_atoms, without
from slimnet.statistics.statistics import Statistics


@dataclass(frozen=True, eq=False)
class Draft:
    """A plan, and what is not as it was asked for."""

    plan: Plan
    survival: Survival  # what the plan leaves
    bystanders: Bystanders = NONE  # changes of attributes that no recorded call reads
    unmet: str = ""  # why the budget is exceeded; empty where it is met


def draft(
    network: Network,
    analysis: Analysis,
    budget: Budget,
    limits: Limits,
    scoring: ScoringInputs,
    statistics: Statistics,
    *,
    steps: int = 1,
    change_bystanders: bool = True,
) -> Draft:
    """Plan a cut in ``steps`` rounds that end at the same budget.

    ``statistics`` are those of the dense network that the criterion reads. With
    ``change_bystanders``, attributes that no recorded call reads are changed too. Raises
    :class:`PruneError` where nothing can be cut, and for a ratio that would leave a layer without
    channels.
    """
    groups, whole = analysis.groups, budget.whole(analysis.inspection.cost)
    removes = budget.remains(whole) < 1
    limits.check(groups, [layer.name for layer in analysis.layers])
    if not groups and removes:
        raise PruneError(_nothing(analysis.layers))
    told = prescribed(limits.widths, groups, analysis.layers)
    limits = limits.telling(told.atoms, groups)
    scores = _scored(scoring.scores(network.tensors, groups, statistics), groups, told)
    idle = _unread(analysis, limits) if removes else {}
    scores = without(scores, idle)
    like = classes(network, groups) if limits.scope == "isomorphic" else None
    model = None if budget.is_ratio else analysis.costs.models[budget.kind]
    for number in range(1, steps + 1):
        done = number / steps
        orders = {n: np.argsort(values, kind="stable") for n, values in scores.items()}
        allocation = allocate(
            groups,
            scores,
            budget.part(done, whole),
            limits.part(done),
            None if model is None else WidthCost(model, analysis.coupling.atoms, groups, orders),
            grows=isinstance(model, Products),
            like=like,
        )
        removed = removed_atoms(groups, scores, allocation.widths)
        if number < steps:
            scores = _rescored(network, analysis, removed, scores, scoring)
    notes = (*_notes(groups, scores, scoring, steps), *_idle_notes(groups, idle))
    allocation = _with_reasons(allocation, groups, idle)
    base = _written(network.first, analysis, allocation, removed, notes)
    return _with_bystanders(network, analysis, base, change_bystanders)


def _scored(
    scores: Mapping[int, Scores], groups: Sequence[Group], told: Prescribed
) -> dict[int, Scores]:
    """With what names say that leaves at -inf, also where the criterion has nothing to read."""
    blank = {g.number: np.zeros(g.size) for g in groups if g.number in told.gone}
    for group in groups:
        if group.number in told.atoms and group.number not in {**blank, **scores}:
            raise PruneError(
                f"the criterion has nothing to read in {group.layers[0]}: name the channels that "
                "stay, not their number, or take another criterion"
            )
    return without({**blank, **scores}, told.gone)


def _unread(analysis: Analysis, limits: Limits) -> dict[int, Labels]:
    """Per group: what leaves first, because nobody reads it."""
    shapes = {name: weight.shape for name, weight in analysis.coupling.weights.items()}
    flags = unread(analysis.traces, analysis.coupling)
    return unread_atoms(analysis.groups, flags, limits, shapes)


def _with_reasons(
    allocation: Allocation, groups: Sequence[Group], idle: Mapping[int, Labels]
) -> Allocation:
    """The reason of groups that keep just what is read."""
    sizes = {g.number: g.size for g in groups}
    read = {n: sizes[n] - len(gone) for n, gone in idle.items()}
    just = [n for n, left in read.items() if allocation.widths.get(n) == left]
    return replace(
        allocation, why={**allocation.why, **dict.fromkeys(just, "what is read of it stays")}
    )


def _idle_notes(groups: Sequence[Group], idle: Mapping[int, Labels]) -> Iterator[str]:
    some = [g for g in groups if g.number in idle]
    if some:
        channels = sum(int(g.channels[idle[g.number]].sum()) for g in some)
        names = ", ".join(dict.fromkeys(g.layers[0] for g in some))
        yield f"{channels} channels that nobody reads left before all others ({names})"


def _with_bystanders(network: Network, analysis: Analysis, base: Draft, changed: bool) -> Draft:
    plan, trace = base.plan, analysis.traces[0]
    others = bystanders(network, trace, analysis.coupling, plan, base.survival)
    others = others if changed else others.unchanged()
    changes, notes = (*plan.changes, *others.changes), (*plan.notes, *others.notes)
    plan = replace(plan, changes=changes).reporting(notes=notes)
    return Draft(plan, base.survival, others, base.unmet)


def _rescored(
    network: Network,
    analysis: Analysis,
    removed: Mapping[int, Labels],
    before: Mapping[int, Scores],
    scoring: ScoringInputs,
) -> dict[int, Scores]:
    """Scores [atoms] of what is left, read from the network as cut; -inf for what has gone."""
    gone = make_plan(analysis.coupling, analysis.groups, analysis.layers, removed)
    masked = Network.of(clone(network, lambda name, tensor: _masked(name, tensor, gone)))
    init = {name: zero_removed(name, x.clone(), gone) for name, x in (scoring.init or {}).items()}
    kept = {
        g.number: np.delete(np.arange(g.size), removed.get(g.number, []))
        for g in analysis.groups
        if g.number in before
    }
    parts = [_part(g, kept[g.number]) for g in analysis.groups if len(kept.get(g.number, ()))]
    fresh = scoring.scores(masked.tensors, parts, scoring.gather(masked, parts, init or None))
    scores = {}
    for number, places in kept.items():
        scores[number] = np.full(len(before[number]), -np.inf)
        scores[number][places] = fresh.get(number, before[number][places])
    return scores


def _masked(name: str, tensor: Tensor, gone: Plan) -> Tensor:
    """A copy of a parameter without what has gone; buffers stay as they are, as in the proof."""
    copied = tensor.detach().clone()
    return zero_removed(name, copied, gone) if isinstance(tensor, nn.Parameter) else copied


def _part(group: Group, kept: Labels) -> Group:
    """The group with these atoms only."""
    if len(kept) == group.size:
        return group
    place = np.full(group.size, -1)
    place[kept] = np.arange(len(kept))
    axes = []
    for axis in group.axes:
        left = place[axis.members] >= 0
        members = place[axis.members[left]]
        axes.append(replace(axis, positions=axis.positions[left], members=members))
    channels = group.channels[kept]
    return replace(group, atoms=group.atoms[kept], axes=tuple(axes), channels=channels)


def _written(
    first: Mapping[str, str],
    analysis: Analysis,
    allocation: Allocation,
    removed: Mapping[int, Labels],
    notes: Sequence[str],
) -> Draft:
    """The plan with all that it reports: costs, and why each group has the width it has."""
    groups = analysis.groups
    plan, survival = plan_with_survival(analysis.coupling, groups, analysis.layers, removed)
    cuts = zip(groups, plan.groups, strict=True)
    plan = replace(
        plan,
        removed={  # a shared tensor is cut under each of its names
            name: plan.removed[one] for name, one in first.items() if one in plan.removed
        },
        grouped={name: plan.grouped[one] for name, one in first.items() if one in plan.grouped},
    ).reporting(
        groups=tuple(_explained(group, cut, allocation) for group, cut in cuts),
        before=analysis.inspection.cost.to_json(),
        after=analysis.costs.cost(survival).to_json(),
        notes=(*notes, *allocation.notes, *_undefined_notes(analysis, survival)),
    )
    return Draft(plan, survival, unmet=allocation.unmet)


def _undefined_notes(analysis: Analysis, survival: Survival) -> Iterator[str]:
    """What the original with zeros in place of channels is not quite."""
    undefined = analysis.coupling.undefined
    places = [s.reason for s in undefined if not survival.is_whole(s.axis)]
    reasons = [str(reason) for reason in dict.fromkeys(places)]
    if reasons:
        more = f", and {len(reasons) - 1} calls more" if reasons[1:] else ""
        yield (
            f"where channels are zero, {reasons[0]}, such as 0/0{more}: in the proof the original "
            "counts it as 0"
        )


def _explained(group: Group, cut: GroupCut, allocation: Allocation) -> GroupCut:
    if group.number not in allocation.asked:
        return replace(cut, asked=0.0, why="the criterion has nothing to read there")
    return replace(
        cut, asked=allocation.asked[group.number], why=allocation.why.get(group.number, "")
    )


def _nothing(layers: Sequence[LayerReport]) -> str:
    for layer in layers:
        if layer.reasons:
            return (
                f"nothing can be pruned: {layer.name} ({layer.channels} channels) stays because "
                f"{layer.reasons[0]}; slimnet inspect shows all layers{_way_out(layer.reasons[0])}"
            )
    return "nothing can be pruned: no layer of this network makes channels that could leave"


def _way_out(reason: str) -> str:
    """A number in the user's code can only be changed there, or in a program made of it."""
    if LITERAL not in reason:
        return ""
    return (
        "; write that size so that it follows the tensor (x.shape, an attribute), or export the "
        "network with torch.export, save it as .pt2 and prune that: there sizes follow"
    )


def _notes(
    groups: Sequence[Group], scores: Mapping[int, Any], scoring: ScoringInputs, steps: int
) -> Iterator[str]:
    left = [g for g in groups if g.number not in scores]
    if left:
        names = ", ".join(g.layers[0] for g in left[:3])
        number = "1 group was" if len(left) == 1 else f"{len(left)} groups were"
        criterion = scoring.options.criterion
        yield f"{number} left alone: {criterion} has nothing to read there ({names}, …)"
    if steps > 1:
        yield f"planned in {steps} rounds; each read its scores from the network as already cut"
