"""The plan: which indices of which parameters go, and what else has to change with them.

A plan is plain data: it can be read, saved as JSON, and applied to any checkpoint of the same
network. Whatever decides on a cut ends in one and changes no model; whatever applies one needs no
graph.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from slimnet.coupling.couple import Coupling
from slimnet.coupling.groups import Group, LayerReport
from slimnet.coupling.labels import Labels
from slimnet.coupling.removal import COLUMNS, Removal
from slimnet.coupling.survival import Survival
from slimnet.errors import InputError
from slimnet.limits import checked_name, checked_path, whole_number
from slimnet.plan.outcome import GroupCut, Outcome
from slimnet.plan.shortcut import Stub


@dataclass(frozen=True)
class AttributeChange:
    """One integer attribute of a module that the cut changes."""

    module: str
    attribute: str
    path: tuple[int | str, ...]  # indices, keys, names of attributes
    old: int
    new: int

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> AttributeChange:
        """Read what :func:`dataclasses.asdict` gave."""
        change = cls(**{**row, "path": tuple(map(_step, row["path"]))})
        checked_path(change.module, "module")
        checked_name(change.attribute, "attribute's name")
        whole_number(change.old), whole_number(change.new)
        return change


@dataclass(frozen=True)
class Scale:
    """Indices of one axis of a parameter, counted before the cut, that are multiplied."""

    axis: int
    indices: tuple[int, ...]
    factor: float


@dataclass(frozen=True)
class BlockCut:
    """A residual branch that left: the block is its shortcut."""

    name: str
    stubs: tuple[Stub, ...]  # which modules left, and what stands there
    zeroed: tuple[str, ...]  # parameters whose zeros make the original's branch exactly zero

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> BlockCut:
        """Read what :func:`dataclasses.asdict` gave."""
        return cls(
            checked_path(row["name"], "module"),
            tuple(map(Stub.from_json, row["stubs"])),
            tuple(map(checked_path, row["zeroed"])),
        )


@dataclass(frozen=True)
class Plan:
    """A cut, as data: whole blocks leave first, then indices of what is left.

    :attr:`outcome` says what was asked for and what came of it; nothing is cut by it.
    """

    removed: Mapping[str, Mapping[int, tuple[int, ...]]]  # parameter or buffer → axis → indices
    changes: tuple[AttributeChange, ...] = ()
    remapped: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # index buffers
    scaled: Mapping[str, tuple[Scale, ...]] = field(default_factory=dict)  # constants folded in
    blocks: tuple[BlockCut, ...] = ()
    # weights of grouped convolutions, whose groups lose other columns → how many; their indices
    # along axis 1 are input channels
    grouped: Mapping[str, int] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def groups(self) -> tuple[GroupCut, ...]:
        """What each group of coupled layers lost."""
        return self.outcome.groups

    @property
    def untouched(self) -> tuple[tuple[str, str], ...]:
        """Layers that were left alone, and why."""
        return self.outcome.untouched

    @property
    def asked(self) -> Mapping[str, Any] | None:
        """The options of the request."""
        return self.outcome.asked

    @property
    def before(self) -> Mapping[str, float] | None:
        """What the network cost: macs, params, bytes, and what plug-ins count."""
        return self.outcome.before

    @property
    def after(self) -> Mapping[str, float] | None:
        """The same of what is left."""
        return self.outcome.after

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences: what came out otherwise than was asked, and why."""
        return self.outcome.notes

    def reporting(self, **facts: Any) -> Plan:
        """The same cut, with other facts in its outcome."""
        return replace(self, outcome=replace(self.outcome, **facts))

    @property
    def stubs(self) -> tuple[Stub, ...]:
        """What stands for the modules of all blocks that left."""
        return tuple(stub for block in self.blocks for stub in block.stubs)

    def of(self, name: str) -> Removal:
        """What leaves a parameter or buffer."""
        return Removal(self.removed.get(name, {}), self.grouped.get(name, 1))

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists; the outcome's facts beside what leaves."""
        data = asdict(self)
        data |= data.pop("outcome")
        data["removed"] = {
            name: {str(axis): _runs(indices) for axis, indices in axes.items()}
            for name, axes in self.removed.items()
        }
        data["scaled"] = {
            name: [[scale.axis, _runs(scale.indices), scale.factor] for scale in scales]
            for name, scales in self.scaled.items()
        }
        return {name: data[name] for name in _WRITTEN}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse of :meth:`to_json`; raises :class:`InputError` for anything else."""
        try:
            _check_count(data)
            return cls(
                removed={
                    checked_path(name): {int(axis): _indices(runs) for axis, runs in axes.items()}
                    for name, axes in data["removed"].items()
                },
                changes=tuple(map(AttributeChange.from_json, data["changes"])),
                remapped={
                    checked_path(k): tuple(map(whole_number, v))
                    for k, v in data["remapped"].items()
                },
                scaled={
                    checked_path(name): tuple(_scale(*row) for row in rows)
                    for name, rows in data.get("scaled", {}).items()
                },
                blocks=tuple(map(BlockCut.from_json, data.get("blocks", ()))),
                grouped={
                    checked_path(name): _groups(number)
                    for name, number in data.get("grouped", {}).items()
                },
                outcome=Outcome.from_json(data),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(f"this is not a plan of slimnet: {error!r}") from error


_WRITTEN = (
    *("removed", "changes", "remapped", "scaled", "groups", "blocks", "grouped"),
    *("untouched", "asked", "before", "after", "notes"),
)
"""What a plan is in JSON, in this order."""


def _runs(indices: Sequence[int]) -> list[list[int]]:
    """Sorted indices as runs [first, last]: short, and legible in a review."""
    values = np.asarray(indices, np.int64)
    if not len(values):
        return []
    breaks = np.flatnonzero(np.diff(values) != 1)
    firsts = values[np.concatenate([[0], breaks + 1])]
    lasts = values[np.concatenate([breaks, [len(values) - 1]])]
    return [[int(a), int(b)] for a, b in zip(firsts, lasts, strict=True)]


def _indices(runs: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(i for first, last in runs for i in range(first, last + 1))


def _check_count(data: Mapping[str, Any]) -> None:
    """Runs are short whatever they stand for: [[0, 10^10]] would fill the memory."""
    tables = [axes.values() for axes in data["removed"].values()]
    tables += [[row[1] for row in rows] for rows in data.get("scaled", {}).values()]
    runs = [run for table in tables for runs in table for run in runs]
    lengths = (whole_number(last) - whole_number(first) + 1 for first, last in runs)
    if sum(max(0, length) for length in lengths) > MOST_INDICES:
        raise ValueError(f"it removes more than {MOST_INDICES:,} indices")


MOST_INDICES = 2**24
"""Indices in a whole plan; half of all channels of ViT-H are 800 000."""


def _step(value: Any) -> int | str:
    return (
        checked_name(value, "attribute's name") if isinstance(value, str) else whole_number(value)
    )


def _groups(value: Any) -> int:
    if whole_number(value) < 2:
        raise ValueError(f"a convolution of {value} groups is none whose groups lose other columns")
    return int(value)


def _scale(axis: Any, runs: Sequence[Sequence[int]], factor: Any) -> Scale:
    return Scale(whole_number(axis), _indices(runs), float(factor))


def make_plan(
    coupling: Coupling,
    groups: Sequence[Group],
    layers: Sequence[LayerReport],
    removed: Mapping[int, Labels],
) -> Plan:
    """Write down what leaves when these atoms go: by group, as numbered within it."""
    return plan_with_survival(coupling, groups, layers, removed)[0]


def plan_with_survival(
    coupling: Coupling,
    groups: Sequence[Group],
    layers: Sequence[LayerReport],
    removed: Mapping[int, Labels],
) -> tuple[Plan, Survival]:
    """The same, and what it leaves."""
    axes = _removed_axes(groups, removed)
    apart = coupling.apart.items()
    grouped = {name: number for name, number in apart if COLUMNS in axes.get(name, ())}
    survival = _surviving(coupling, axes, grouped)
    plan = Plan(
        removed=axes,
        grouped=grouped,
        changes=_changes(coupling, survival),
        remapped=_remapped(coupling, survival),
        outcome=Outcome(
            groups=tuple(_cut(group, removed) for group in groups),
            untouched=tuple((x.name, x.reasons[0]) for x in layers if not x.prunable and x.reasons),
        ),
    )
    return plan, survival


def _removed_axes(
    groups: Sequence[Group], removed: Mapping[int, Labels]
) -> dict[str, dict[int, tuple[int, ...]]]:
    """Parameter or buffer → axis → the indices that leave, in order."""
    places: dict[str, dict[int, list[Labels]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        gone = np.isin(np.arange(group.size), removed.get(group.number, ()))
        for axis in group.axes if gone.any() else ():
            places[axis.name][axis.dim].append(axis.positions[gone[axis.members]])
    return {
        name: {d: tuple(np.sort(np.concatenate(x)).tolist()) for d, x in sorted(axes.items())}
        for name, axes in places.items()
    }


def surviving(coupling: Coupling, plan: Plan) -> Survival:
    """What a plan leaves of a coupling.

    Raises :class:`InputError` where the plan counts across groups that the network does not have.
    """
    return _surviving(coupling, plan.removed, plan.grouped)


def _surviving(
    coupling: Coupling,
    removed: Mapping[str, Mapping[int, tuple[int, ...]]],
    grouped: Mapping[str, int],
) -> Survival:
    gone = [np.empty(0, np.int64)]
    for name, axes in removed.items():
        if not _counts_alike(coupling, name, axes, grouped):
            raise InputError(f"the plan counts input channels of {name}, which has no such groups")
        weight = coupling.weights.get(name)
        for d, indices in axes.items():
            labels = weight.axes[d] if weight is not None else None
            if labels is not None:
                gone.append(coupling.atoms.of[labels[list(indices)]])
    return Survival.without(coupling.atoms, np.concatenate(gone))


def agrees(coupling: Coupling, plan: Plan) -> bool:
    """Whether the plan removes whole atoms of this coupling."""
    removed = plan.removed.items()
    if not all(_counts_alike(coupling, name, axes, plan.grouped) for name, axes in removed):
        return False
    survival = surviving(coupling, plan)
    return all(
        sorted(np.flatnonzero(~survival.along(labels))) == sorted(indices)
        for name, axes in plan.removed.items()
        if name in coupling.weights
        for d, indices in axes.items()
        if (labels := coupling.weights[name].axes[d]) is not None
    )


def _counts_alike(
    coupling: Coupling, name: str, axes: Collection[int], grouped: Mapping[str, int]
) -> bool:
    """Whether indices across groups, where the plan has any, are across those of the coupling."""
    if name not in coupling.weights or COLUMNS not in axes:
        return True
    return coupling.apart.get(name, 1) == grouped.get(name, 1)


def _cut(group: Group, removed: Mapping[int, Labels]) -> GroupCut:
    gone = removed.get(group.number, np.empty(0, np.int64))
    after = group.width - int(group.channels[gone].sum())
    reasons = tuple(str(reason) for reason in group.approximate) if len(gone) else ()
    return GroupCut(group.layers, group.width, after, reasons)


def _changes(coupling: Coupling, survival: Survival) -> tuple[AttributeChange, ...]:
    """Attributes that must hold another number, where the cut touches them."""
    changes = []
    for fix in coupling.fixes:
        new = fix.value(survival)
        if new is not None and new != fix.old:
            where = fix.attribute
            changes.append(AttributeChange(where.module, where.name, where.path, fix.old, new))
    return tuple(changes)


def _remapped(coupling: Coupling, survival: Survival) -> dict[str, tuple[int, ...]]:
    """Index buffers whose targets move up: for each, the new place of every old one."""
    tables = {remap.name: survival.along(remap.axis) for remap in coupling.remaps}
    return {
        name: tuple((np.cumsum(kept) - 1).tolist())
        for name, kept in tables.items()
        if not kept.all()
    }
