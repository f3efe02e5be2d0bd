"""Channels that nobody reads leave before all others, whatever their scores.

Takes which atoms are read, gives for each group the atoms that go at once: as many as its rungs
let go. A group that nobody reads at all goes whole, where its layers keep other channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slimnet.coupling.groups import Group
from slimnet.coupling.labels import Labels
from slimnet.criteria import Scores
from slimnet.planning.budget import Limits
from slimnet.planning.ladder import ladder


def unread_atoms(
    groups: Sequence[Group],
    unread: np.ndarray[Any, np.dtype[np.bool_]],
    limits: Limits,
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[int, Labels]:
    """Per group: the atoms that nobody reads and that may go; names prescribe the others' width."""
    atoms = {}
    for group in groups:
        places = np.flatnonzero(unread[group.atoms])
        if len(places) and limits.fixed_ratio(group) is None:
            kept = _kept(group, group.size - len(places), limits, shapes)
            atoms[group.number] = places[: group.size - kept]
    return {number: places for number, places in atoms.items() if len(places)}


def _kept(group: Group, read: int, limits: Limits, shapes: Mapping[str, tuple[int, ...]]) -> int:
    if not read and limits.min_channels is None and not _fills(group, shapes):
        return 0
    rungs = ladder(group, limits, group.size)
    return min(max(-(-read // rungs.step) * rungs.step, rungs.least), group.size)


def _fills(group: Group, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether an axis would be left without any slot."""
    return any(
        len(axis.positions) == shapes[axis.name][axis.dim] * axis.groups for axis in group.axes
    )


def without(scores: Mapping[int, Scores], gone: Mapping[int, Labels]) -> dict[int, Scores]:
    """Scores in which these atoms are as good as gone: -inf."""
    lowered = dict(scores)
    for number, places in gone.items():
        if number in scores:
            lowered[number] = scores[number].copy()
            lowered[number][places] = -np.inf
    return lowered
