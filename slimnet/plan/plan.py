"""The plan: which indices of which parameters go, and what else has to change with them.

A plan is plain data: it can be read, saved as JSON, and applied to any checkpoint of the same
network. The stages that decide on a cut change no model; they give a plan. To apply a plan, the
model's tensors and modules are enough: no pass has to be recorded.
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
from slimnet.ranges import MOST_INDICES, indices_in, ranges_of


@dataclass(frozen=True)
class AttributeChange:
    """One integer attribute of a module that the cut changes."""

    module: str
    attribute: str
    path: tuple[int | str, ...]  # into the attribute's value: indices, keys, attributes
    old: int
    new: int

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> AttributeChange:
        """Read what :func:`dataclasses.asdict` gave."""
        change = cls(**{**row, "path": tuple(map(_path_entry, row["path"]))})
        checked_path(change.module, "module")
        checked_name(change.attribute, "attribute's name")
        whole_number(change.old), whole_number(change.new)
        return change


@dataclass(frozen=True)
class Scale:
    """A factor for some indices of one axis of a parameter; indices count before the cut."""

    axis: int
    indices: tuple[int, ...]
    factor: float


@dataclass(frozen=True)
class BlockCut:
    """A residual branch that leaves: only the shortcut of the block stays."""

    name: str
    stubs: tuple[Stub, ...]  # which modules leave, and what replaces each
    zeroed: tuple[str, ...]  # parameters; with these at zero, the original's branch gives zero

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

    :attr:`outcome` only reports: what was asked for, what was achieved, and why.
    """

    removed: Mapping[str, Mapping[int, tuple[int, ...]]]  # parameter or buffer → axis → indices
    changes: tuple[AttributeChange, ...] = ()
    remapped: Mapping[str, tuple[int, ...]] = field(
        default_factory=dict
    )  # buffer → old → new index
    scaled: Mapping[str, tuple[Scale, ...]] = field(default_factory=dict)  # parameter → factors
    blocks: tuple[BlockCut, ...] = ()
    # weight of a grouped convolution → its number of groups, where each loses different columns:
    # the indices along axis 1 are then input channels (:mod:`slimnet.coupling.removal`)
    grouped: Mapping[str, int] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()  # those that somebody reads, all where empty; others may change
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
        """Costs of the network before the cut: macs, params, bytes, and those of plug-ins."""
        return self.outcome.before

    @property
    def after(self) -> Mapping[str, float] | None:
        """Costs after the cut, by the same names."""
        return self.outcome.after

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences: where the result differs from what was asked for, and why."""
        return self.outcome.notes

    def reporting(self, **facts: Any) -> Plan:
        """The same cut, with these fields of its outcome replaced."""
        return replace(self, outcome=replace(self.outcome, **facts))

    @property
    def stubs(self) -> tuple[Stub, ...]:
        """What replaces the modules of all blocks that leave."""
        return tuple(stub for block in self.blocks for stub in block.stubs)

    def of(self, name: str) -> Removal:
        """What is removed from a parameter or buffer."""
        return Removal(self.removed.get(name, {}), self.grouped.get(name, 1))

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists; the outcome's fields stand on the same level."""
        data = asdict(self)
        data |= data.pop("outcome")
        data["removed"] = {
            name: {str(axis): ranges_of(indices) for axis, indices in axes.items()}
            for name, axes in self.removed.items()
        }
        data["scaled"] = {
            name: [[scale.axis, ranges_of(scale.indices), scale.factor] for scale in scales]
            for name, scales in self.scaled.items()
        }
        return {name: data[name] for name in _WRITTEN}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse of :meth:`to_json`; raises :class:`InputError` for anything else."""
        try:
            _check_index_count(data)
            return cls(
                removed={
                    checked_path(name): {int(axis): indices_in(runs) for axis, runs in axes.items()}
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
                outputs=tuple(checked_path(x, "output") for x in data.get("outputs", ())),
                outcome=Outcome.from_json(data),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(f"this is not a plan of slimnet: {error!r}") from error


_WRITTEN = (
    *("removed", "changes", "remapped", "scaled", "groups", "blocks", "grouped", "outputs"),
    *("untouched", "asked", "before", "after", "notes"),
)
"""The keys of a plan in JSON, in this order."""


def _check_index_count(data: Mapping[str, Any]) -> None:
    """Refuse a file whose few runs stand for more indices than memory holds: [[0, 10^10]]."""
    tables = [axes.values() for axes in data["removed"].values()]
    tables += [[row[1] for row in rows] for rows in data.get("scaled", {}).values()]
    runs = [run for table in tables for runs in table for run in runs]
    lengths = (whole_number(last) - whole_number(first) + 1 for first, last in runs)
    if sum(max(0, length) for length in lengths) > MOST_INDICES:
        raise ValueError(f"it removes more than {MOST_INDICES:,} indices")


def _path_entry(value: Any) -> int | str:
    return (
        checked_name(value, "attribute's name") if isinstance(value, str) else whole_number(value)
    )


def _groups(value: Any) -> int:
    if whole_number(value) < 2:
        raise ValueError(f"a convolution of {value} groups is none whose groups lose other columns")
    return int(value)


def _scale(axis: Any, runs: Sequence[Sequence[int]], factor: Any) -> Scale:
    return Scale(whole_number(axis), indices_in(runs), float(factor))


def make_plan(
    coupling: Coupling,
    groups: Sequence[Group],
    layers: Sequence[LayerReport],
    removed: Mapping[int, Labels],
) -> Plan:
    """The plan that removes these atoms: group number → atoms, counted from 0 in each group."""
    return plan_with_survival(coupling, groups, layers, removed)[0]


def plan_with_survival(
    coupling: Coupling,
    groups: Sequence[Group],
    layers: Sequence[LayerReport],
    removed: Mapping[int, Labels],
) -> tuple[Plan, Survival]:
    """The plan of :func:`make_plan`, and which slots survive it."""
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
            groups=tuple(_group_cut(group, removed) for group in groups),
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
    """Which slots of a coupling survive a plan.

    Raises :class:`InputError` where the plan numbers a weight's columns across other groups than
    the coupling does.
    """
    return _surviving(coupling, plan.removed, plan.grouped)


def _surviving(
    coupling: Coupling,
    removed: Mapping[str, Mapping[int, tuple[int, ...]]],
    grouped: Mapping[str, int],
) -> Survival:
    gone = [np.empty(0, np.int64)]
    for name, axes in removed.items():
        if not _number_columns_alike(coupling, name, axes, grouped):
            raise InputError(f"the plan counts input channels of {name}, which has no such groups")
        weight = coupling.weights.get(name)
        for d, indices in axes.items():
            labels = weight.axes[d] if weight is not None else None
            if labels is not None:
                gone.append(coupling.atoms.of[labels[list(indices)]])
    return Survival.without(coupling.atoms, np.concatenate(gone))


def agrees(coupling: Coupling, plan: Plan) -> bool:
    """Whether the plan fits this coupling: of each atom, it removes all slots or none."""
    removed = plan.removed.items()
    if not all(_number_columns_alike(coupling, name, axes, plan.grouped) for name, axes in removed):
        return False
    survival = surviving(coupling, plan)
    return all(
        sorted(np.flatnonzero(~survival.along(labels))) == sorted(indices)
        for name, axes in plan.removed.items()
        if name in coupling.weights
        for d, indices in axes.items()
        if (labels := coupling.weights[name].axes[d]) is not None
    )


def _number_columns_alike(
    coupling: Coupling, name: str, axes: Collection[int], grouped: Mapping[str, int]
) -> bool:
    """Whether both number the columns of a grouped convolution's weight in the same way."""
    if name not in coupling.weights or COLUMNS not in axes:
        return True
    return coupling.apart.get(name, 1) == grouped.get(name, 1)


def _group_cut(group: Group, removed: Mapping[int, Labels]) -> GroupCut:
    gone = removed.get(group.number, np.empty(0, np.int64))
    after = group.width - int(group.channels[gone].sum())
    reasons = tuple(str(reason) for reason in group.approximate) if len(gone) else ()
    return GroupCut(group.layers, group.width, after, reasons)


def _changes(coupling: Coupling, survival: Survival) -> tuple[AttributeChange, ...]:
    """Integer attributes of modules that need a new value after the cut."""
    changes = []
    for fix in coupling.fixes:
        new = fix.value(survival)
        if new is not None and new != fix.old:
            where = fix.attribute
            changes.append(AttributeChange(where.module, where.name, where.path, fix.old, new))
    return tuple(changes)


def _remapped(coupling: Coupling, survival: Survival) -> dict[str, tuple[int, ...]]:
    """Index buffer → for every index of the axis that it points into, its index after the cut."""
    tables = {remap.name: survival.along(remap.axis) for remap in coupling.remaps}
    return {
        name: tuple((np.cumsum(kept) - 1).tolist())
        for name, kept in tables.items()
        if not kept.all()
    }
