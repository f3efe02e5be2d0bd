"""The baseline of a study that gets smaller on paper and no faster: single weights zeroed.

It stands among the criteria as ``unstructured``; its ratio is the share of the weights that are
zero. Nothing is cut, so it has no certificate, all MACs and, measured, the dense network's latency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from slimnet.network import Network
from slimnet.study.run import Candidate
from slimnet.train.sparsity.unstructured import Unstructured, magnitude_masks, single_weights

UNSTRUCTURED = "unstructured"


def cutting(criteria: Sequence[str]) -> tuple[str, ...]:
    """Those of a study's criteria that choose channels to cut."""
    return tuple(name for name in criteria if name != UNSTRUCTURED)


def masked_candidate(
    model: nn.Module, rate: float, macs: int, latency: Mapping[str, Any] | None = None
) -> Candidate:
    """``model``, which the caller hands over, with the share ``rate`` of its weights zeroed.

    The masks are held in every retraining, also from fresh weights. ``params`` counts what is left.
    """
    network = Network.of(model)
    masks = magnitude_masks(dict(single_weights(network)), rate)
    with torch.no_grad():
        for name, weight in single_weights(network):
            weight.mul_(masks[name])
    zeros = sum(int(mask.eq(0).sum()) for mask in masks.values())
    return Candidate(
        model=model,
        macs=macs,
        params=sum(parameter.numel() for parameter in model.parameters()) - zeros,
        latency=latency,
        achieved={"asked": {"ratio": rate}, "remarks": [f"{zeros:,} single weights are zero"]},
        callbacks=lambda: (Unstructured(rate, masks),),
    )
