"""The geometric median: filters close to all others can be replaced by them."""

from __future__ import annotations

import torch
from torch import Tensor

from slimnet.criteria import CRITERIA, ChannelRows, Criterion


def median_distance(rows: ChannelRows) -> Tensor:
    """Σ‖Wᵢ − Wⱼ‖ to the other filters of the layer, of those that belong to the same group."""
    weight = rows.weight.to(torch.promote_types(rows.weight.dtype, torch.float32))
    return torch.cdist(weight, weight).sum(dim=1)


CRITERIA.add(
    "fpgm",
    Criterion(
        median_distance,
        ("out",),
        "He et al., Filter Pruning via Geometric Median for Deep CNN Acceleration, 2019",
    ),
)
