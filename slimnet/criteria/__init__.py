"""Criteria: how much each channel matters.

A criterion is a formula over tensors that are already cut per channel, ``[channels, rest]``; it
never sees layer types. It says which roles of parameters it reads: the ``out`` axes of the layers
that make a channel, the ``scale`` of the norms over it. To add one: one file in this folder with
one ``CRITERIA.add``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from slimnet.errors import PruneError
from slimnet.groups import Group, Slot
from slimnet.registry import Registry, import_all

Scores: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Criterion:
    """A formula, what it reads, and how its scores compare across layers."""

    formula: Callable[[Tensor, torch.Generator], Tensor]  # [channels, rest] → [channels]
    roles: tuple[str, ...]
    source: str  # the paper
    across: str = "mean"  # for one global threshold: divide by the group's mean, or "raw"


CRITERIA: Registry[Criterion] = Registry("criterion")


def load_criteria() -> Registry[Criterion]:
    """The registry with every criterion of this folder in it."""
    import_all(__name__, list(__path__))
    return CRITERIA


def score(
    groups: Sequence[Group], tensors: Mapping[str, Tensor], criterion: str, *, seed: int = 0
) -> dict[int, Scores]:
    """Scores [atoms] for every group that the criterion can judge; the least important go first.

    A group's score of an atom is the sum over its coupled layers. Raises :class:`PruneError`
    where the criterion finds nothing to read in the whole network.
    """
    known = load_criteria()
    chosen = known[criterion]
    generator = torch.Generator().manual_seed(seed)
    scores = {g.number: _score(g, tensors, chosen, generator) for g in groups}
    found = {number: values for number, values in scores.items() if values is not None}
    if groups and not found:
        read = " or ".join(chosen.roles)
        raise PruneError(
            f"criterion {criterion} reads the {read} of every channel, and this network has none; "
            f"choose another one: {', '.join(name for name in known if name != criterion)}"
        )
    return found


def comparable(scores: Scores, criterion: str) -> Scores:
    """Scores that may be compared across groups."""
    if load_criteria()[criterion].across == "raw":
        return scores
    mean = float(scores.mean())
    return scores / mean if mean > 0 else scores


def _score(
    group: Group, tensors: Mapping[str, Tensor], criterion: Criterion, generator: torch.Generator
) -> Scores | None:
    read = [slot for slot in group.slots if slot.role in criterion.roles]
    if not read and "out" in criterion.roles:  # made by raw parameters alone
        read = [slot for slot in group.slots if slot.role in ("vector", "in")]
    if not read:
        return None
    total = np.zeros(group.size)
    for slot in read:
        values = criterion.formula(_cut(slot, tensors[slot.name]), generator)
        np.add.at(total, slot.members, values.double().cpu().numpy())
    return total


def _cut(slot: Slot, tensor: Tensor) -> Tensor:
    """[positions, rest]: the part of a parameter that belongs to each position."""
    rows = tensor.detach().movedim(slot.axis, 0)
    if len(slot.positions) != rows.shape[0]:
        rows = rows[torch.from_numpy(slot.positions).to(rows.device)]
    return rows.flatten(1) if rows.dim() > 1 else rows[:, None]
