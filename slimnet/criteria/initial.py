"""Criteria that read the weights before training: what a filter was, and how it grew."""

from __future__ import annotations

from torch import Tensor

from slimnet.criteria import CRITERIA, ChannelRows, Criterion

_SOURCE = "Zhou et al., Deconstructing Lottery Tickets, 2019"


def magnitude_at_initialisation(rows: ChannelRows) -> Tensor:
    """Σ|w₀| of a filter."""
    return rows.initial.abs().sum(dim=1)


def magnitude_increase(rows: ChannelRows) -> Tensor:
    """Σ(|w| − |w₀|) of a filter; negative where training made it smaller."""
    return (rows.weight.abs() - rows.initial.abs()).sum(dim=1)


CRITERIA.add(
    "magnitude-init",
    Criterion(magnitude_at_initialisation, ("out",), _SOURCE, needs=("initial",)),
)
CRITERIA.add(
    "magnitude-increase",
    Criterion(magnitude_increase, ("out",), _SOURCE, needs=("initial",)),
)
