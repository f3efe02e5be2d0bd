"""Criteria that read the weights as they are, and the random baseline."""

from __future__ import annotations

import torch
from torch import Tensor

from slimnet.criteria import CRITERIA, ChannelRows, Criterion


def l1(rows: ChannelRows) -> Tensor:
    """Σ|W| of a filter."""
    return rows.weight.abs().sum(dim=1)


def l2(rows: ChannelRows) -> Tensor:
    """√ΣW² of a filter."""
    norms: Tensor = torch.linalg.vector_norm(rows.weight, dim=1)
    return norms


def scale(rows: ChannelRows) -> Tensor:
    """|γ| of the batch norm over a channel."""
    return rows.weight.abs().sum(dim=1)


def random(rows: ChannelRows) -> Tensor:
    """Uniform numbers: the baseline that every criterion has to beat."""
    return torch.rand(rows.weight.shape[0], generator=rows.generator)


CRITERIA.add(
    "l1", Criterion(l1, ("out",), "Li et al., Pruning Filters for Efficient ConvNets, 2017")
)
CRITERIA.add("l2", Criterion(l2, ("out",), "He et al., Soft Filter Pruning, 2018"))
CRITERIA.add(
    "bn-scale", Criterion(scale, ("scale",), "Liu et al., Network Slimming, 2017", across="none")
)
CRITERIA.add("random", Criterion(random, ("out",), "baseline", across="none"))
