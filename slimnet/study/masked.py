"""The baseline of a study that gets smaller on paper and no faster: single weights zeroed.

It stands among the criteria as ``unstructured``; its ratio is the share of the weights that are
zero. Nothing is cut, so it has no certificate, all MACs and, measured, the dense network's latency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from slimnet.network import Network
from slimnet.study.candidate import Candidate
from slimnet.study.cells import UNSTRUCTURED
from slimnet.study.facts import Facts, LatencyFacts
from slimnet.train import Callback
from slimnet.train.masks import Held, magnitude_masks, single_weights


def cutting(criteria: Sequence[str]) -> tuple[str, ...]:
    """Those of a study's criteria that choose channels to cut."""
    return tuple(name for name in criteria if name != UNSTRUCTURED)


def masked_candidate(
    model: nn.Module, rate: float, macs: int, latency: LatencyFacts | None = None
) -> Candidate:
    """``model``, which the caller hands over, with the share ``rate`` of its weights zeroed.

    ``params`` counts what is left.
    """
    network = Network.of(model)
    masks = _masks(network, rate)
    with torch.no_grad():
        for name, weight in single_weights(network):
            weight.mul_(masks[name])
    zeros = sum(int(mask.eq(0).sum()) for mask in masks.values())
    facts = Facts(
        macs=macs,
        params=sum(parameter.numel() for parameter in model.parameters()) - zeros,
        latency=latency,
        achieved={"asked": {"ratio": rate}, "remarks": [f"{zeros:,} single weights are zero"]},
    )
    return Candidate(model, facts, masked=rate)


def holding(dense: nn.Module, rate: float) -> Callback:
    """Holds the zeros of :func:`masked_candidate` of ``dense``, also from fresh weights."""
    return Held(_masks(Network.of(dense), rate))


def _masks(network: Network, rate: float) -> Mapping[str, Tensor]:
    return magnitude_masks(dict(single_weights(network)), rate)
