"""Criteria: how much each channel matters.

A criterion is a formula over tensors that are already cut per channel, ``[channels, rest]``; it
never sees layer types. It says which roles of parameters it reads (the ``out`` axes of the layers
that make a channel, the ``in`` axes of those that read it, the ``scale`` of the norms over it) and
what it needs beside the weights. To add one: one file in this folder with one ``CRITERIA.add``.
What scores a whole group at once is any other object with the attributes of
:class:`CriterionProtocol`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from slimnet.coupling.groups import Group, ParameterAxis
from slimnet.coupling.removal import part
from slimnet.errors import InputError, PruneError
from slimnet.registry import Registry
from slimnet.statistics.statistics import Need, Statistics

Scores: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

REDUCE: dict[str, Callable[[Scores], Scores]] = {  # [layers, atoms] → [atoms]
    "sum": lambda layers: layers.sum(axis=0),
    "mean": lambda layers: layers.mean(axis=0),
    "max": lambda layers: layers.max(axis=0),
    "prod": lambda layers: layers.prod(axis=0),
    "first": lambda layers: layers[0],
}
"""What makes one score of those that the coupled layers of a group give a channel."""

ACROSS: dict[str, Callable[[Scores], float]] = {
    "mean": lambda scores: float(np.abs(scores).mean()),
    "max": lambda scores: float(np.abs(scores).max()),
    "sum": lambda scores: float(np.abs(scores).sum()),
    "l2": lambda scores: float(np.sqrt(np.square(scores).sum())),
    "none": lambda scores: 1.0,
}
"""What a group's scores are divided by before they are compared with those of other groups."""

_Unread = torch.empty(0)


@dataclass(frozen=True, eq=False)
class ChannelRows:
    """One layer's part of a group, a row for each channel; what was not asked for is empty."""

    weight: Tensor  # [channels, rest]
    generator: torch.Generator
    gradient: Tensor = _Unread  # [channels, rest] of the mean loss
    gate: Tensor = _Unread  # [channels, 1]: squared derivative of the loss by a gate
    initial: Tensor = _Unread  # [channels, rest]
    activation: Tensor = _Unread  # [channels, 2]: mean |x|, share of zeros


class CriterionProtocol(Protocol):
    """What the registry holds: whatever scores a group."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the axes that it reads."""

    @property
    def source(self) -> str:
        """The paper."""

    @property
    def across(self) -> str:
        """What makes its scores comparable across groups: a key of :data:`ACROSS`."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it reads beside the weights."""

    def scores(
        self,
        group: Group,
        tensors: Mapping[str, Tensor],
        statistics: Statistics,
        generator: torch.Generator,
    ) -> Scores | None:
        """[atoms], the least important lowest; None where it has nothing to read."""


@dataclass(frozen=True)
class Criterion:
    """A formula for one layer, what it reads, and how scores of several layers meet."""

    formula: Callable[[ChannelRows], Tensor]  # → [channels]
    roles: tuple[str, ...]
    source: str
    across: str = "mean"
    needs: tuple[Need, ...] = ()
    reduce: str = "sum"  # over a group's coupled layers: a key of REDUCE
    pool: Literal["sum", "mean"] = "sum"  # over an atom's channels within one layer

    def scores(
        self,
        group: Group,
        tensors: Mapping[str, Tensor],
        statistics: Statistics,
        generator: torch.Generator,
    ) -> Scores | None:
        """Every coupled layer by the formula, then one number for each atom."""
        layers = []
        for axis in self._read(group):
            rows = self._rows(axis, tensors, statistics, generator)
            if rows is not None:
                layers.append(self._pooled(self.formula(rows), axis, group.size))
        return REDUCE[self.reduce](np.stack(layers)) if layers else None

    def _pooled(self, values: Tensor, axis: ParameterAxis, size: int) -> Scores:
        """[channels] → [atoms]."""
        totals = np.zeros(size)
        np.add.at(totals, axis.members, values.double().cpu().numpy())
        if self.pool == "mean":
            totals /= np.bincount(axis.members, minlength=size).clip(min=1)
        return totals

    def _read(self, group: Group) -> list[ParameterAxis]:
        read = [axis for axis in group.axes if axis.role in self.roles]
        if not read and "out" in self.roles:  # made by raw parameters alone
            read = [axis for axis in group.axes if axis.role in ("vector", "in")]
        return read

    def _rows(
        self,
        axis: ParameterAxis,
        tensors: Mapping[str, Tensor],
        statistics: Statistics,
        generator: torch.Generator,
    ) -> ChannelRows | None:
        """None where something that it needs is not known of this parameter."""
        parts = {}
        for need in self.needs:
            tensor = getattr(statistics, need).get(axis.name)
            if tensor is None:
                return None
            own = axis if need not in ("activations", "gates") else replace(axis, dim=0, groups=1)
            parts[_FIELDS[need]] = cut_rows(tensor, own)
        return ChannelRows(cut_rows(tensors[axis.name], axis), generator, **parts)


_FIELDS = {
    "gradients": "gradient",
    "gates": "gate",
    "initial": "initial",
    "activations": "activation",
}


def cut_rows(tensor: Tensor, axis: ParameterAxis) -> Tensor:
    """[positions, rest]: the part of a tensor that belongs to each position of an axis."""
    rows = tensor.detach().movedim(axis.dim, 0)
    if axis.groups > 1 or len(axis.positions) != rows.shape[0]:
        positions = torch.from_numpy(axis.positions).to(tensor.device)
        rows = part(tensor.detach(), axis.dim, positions, axis.groups)
    return rows.flatten(1) if rows.dim() > 1 else rows[:, None]


CRITERIA: Registry[CriterionProtocol] = Registry("criterion", "slimnet.criteria", folder=__name__)


def load_criteria() -> Registry[CriterionProtocol]:
    """The registry with every criterion of this folder in it."""
    CRITERIA.load()
    return CRITERIA


_GRADIENTS = "reads gradients: give images with labels (--data digits|npz:FILE|…)"
_WANTED: dict[Need, str] = {
    "gradients": _GRADIENTS,
    "gates": _GRADIENTS,
    "activations": "reads activations: give images (--data digits|npz:FILE|…)",
    "inputs": "reads what the layers are given: give images (--data digits|npz:FILE|…)",
    "initial": "reads the weights at initialisation: give them (--init FILE)",
}


@dataclass(frozen=True)
class CriterionOptions:
    """What was asked for: a criterion, and how its scores meet.

    Raises :class:`InputError` for names that are not known.
    """

    criterion: str = "l1"
    across: str | None = None  # a key of ACROSS; None: the criterion's own
    reduce: str | None = None  # a key of REDUCE; None: the criterion's own

    def __post_init__(self) -> None:
        chosen = load_criteria()[self.criterion]
        _check_option("across", self.across, ACROSS)
        _check_option("reduce", self.reduce, REDUCE)
        _reducing(self.criterion, chosen, self.reduce)

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the criterion reads beside the weights."""
        return load_criteria()[self.criterion].needs


def usual(*, repair: bool) -> str:
    """The criterion that chooses where none is named."""
    return "obs" if repair else "l1"


def usual_scope(criterion: str, *, repair: bool) -> Literal["local", "harm"]:
    """The scope where none is named: by harm where the criterion's scores are a harm, an error."""
    measures = {"inputs", "gates"} & set(load_criteria()[criterion].needs)
    return "harm" if repair and measures else "local"


def check_needs(criterion: str, *, data: bool, init: bool) -> None:
    """Raise :class:`InputError` where a criterion needs what was not given."""
    for need in load_criteria()[criterion].needs:
        if not (init if need == "initial" else data):
            raise InputError(f"criterion {criterion} {_WANTED[need]}")


def score(
    groups: Sequence[Group],
    tensors: Mapping[str, Tensor],
    criterion: str,
    *,
    seed: int = 0,
    statistics: Statistics | None = None,
    reduce: str | None = None,
) -> dict[int, Scores]:
    """Scores [atoms] for every group that the criterion can judge; the least important go first.

    ``reduce`` makes one score of those of a group's coupled layers; the criterion's own by default.
    Raises :class:`InputError` where the criterion needs what ``statistics`` lacks, and
    :class:`PruneError` where it finds nothing to read in the whole network.
    """
    chosen = _reducing(criterion, load_criteria()[criterion], reduce)
    statistics = statistics or Statistics()
    for need in chosen.needs if groups else ():
        if not statistics.has(need):
            raise InputError(f"criterion {criterion} {_WANTED[need]}")
    generator = torch.Generator().manual_seed(seed)
    each = {g.number: chosen.scores(g, tensors, statistics, generator) for g in groups}
    scores = {number: values for number, values in each.items() if values is not None}
    if groups and not scores:
        raise PruneError(_nothing_to_read(criterion, load_criteria()))
    return scores


def _nothing_to_read(criterion: str, criteria: Registry[CriterionProtocol]) -> str:
    others = ", ".join(name for name in criteria if name != criterion and not criteria[name].needs)
    read = " or ".join(criteria[criterion].roles)
    varies = "inputs" in criteria[criterion].needs
    that = " whose answers vary over the calibration images" if varies else ""
    return (
        f"criterion {criterion} reads the {read} of every channel, and this network has none{that};"
        f" choose another one: {others}"
    )


def _reducing(name: str, chosen: CriterionProtocol, reduce: str | None) -> CriterionProtocol:
    if reduce is None:
        return chosen
    if not isinstance(chosen, Criterion):
        raise InputError(f"criterion {name} judges a group as a whole: there is nothing to reduce")
    return replace(chosen, reduce=reduce)


def normalized(scores: Scores, criterion: str, across: str | None = None) -> Scores:
    """The scores of one group [atoms], divided so that they compare with those of other groups.

    ``across`` says what a group's scores are divided by; the criterion's own by default.
    """
    divisor = ACROSS[across or load_criteria()[criterion].across](scores)
    return scores / divisor if divisor > 0 else scores


def _check_option(option: str, value: str | None, values: Mapping[str, Any]) -> None:
    """None stands for the criterion's own."""
    if value is not None and value not in values:
        raise InputError(f"unknown {option} {value!r}: the known ones are {', '.join(values)}")
