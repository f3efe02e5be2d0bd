"""Where the milliseconds of networks go, layer by layer: what a page shows of their profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MOST = 24
"""Layers that have a row of their own."""


@dataclass(frozen=True)
class LayerTimes:
    """A column for each network, a row for each layer: those that take the first longest."""

    networks: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float]]]  # layer, ms of each network


def layer_times(networks: Mapping[str, Mapping[str, float]]) -> LayerTimes:
    """Of ms by layer, by network; what is not among the longest is one row."""
    first = next(iter(networks.values()), {})
    names = dict.fromkeys(name for times in networks.values() for name in times)
    ordered = sorted(names, key=lambda name: -first.get(name, 0.0))
    rows = [(name, [times.get(name, 0.0) for times in networks.values()]) for name in ordered]
    shown, rest = rows[:MOST], [ms for _, ms in rows[MOST:]]
    if rest:
        shown.append((f"{len(rest)} others", [sum(column) for column in zip(*rest, strict=True)]))
    return LayerTimes(list(networks), shown)
