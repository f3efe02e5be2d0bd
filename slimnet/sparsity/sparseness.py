"""How sparse a network is: what of it is zero, or so small that a criterion would remove it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from slimnet.blocks.blocks import find_blocks
from slimnet.capture.trace import capture
from slimnet.network import Network
from slimnet.sparsity.methods.slimming import batch_norm_scales
from slimnet.train.masks import single_weights

SMALL = 1e-3  # a scale below it counts as small


@dataclass(frozen=True)
class Share:
    """So many of all there are."""

    some: int
    all: int

    def __str__(self) -> str:
        return f"{self.some / self.all:.1%}" if self.all else "–"


@dataclass(frozen=True)
class Sparseness:
    """What of a network is zero or small."""

    scales: Share  # |γ| of batch norms under 1e-3
    filters: Share  # filters of convolutions that are all zero
    blocks: Share  # residual branches that add nothing
    weights: Share  # single weights of convolutions and linear layers that are zero

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


def sparseness(network: Network, example: tuple[Any, ...]) -> Sparseness:
    """Count what is zero or small in a network as it stands."""
    with torch.no_grad():
        return Sparseness(
            scales=_share(scale.abs() < SMALL for scale in batch_norm_scales(network)),
            filters=_share(filters.eq(0).all(1) for filters in _filters(network)),
            blocks=_silent(network, example),
            weights=_share(weight.eq(0) for _, weight in single_weights(network)),
        )


def _share(marked: Iterator[Tensor]) -> Share:
    counts = [(int(marks.sum()), marks.numel()) for marks in marked]
    return Share(sum(some for some, _ in counts), sum(all_ for _, all_ in counts))


def _filters(network: Network) -> Iterator[Tensor]:
    """[filters, rest] of every convolution."""
    for module in network.modules.values():
        if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd):
            yield module.weight.flatten(1)


def _silent(network: Network, example: tuple[Any, ...]) -> Share:
    tensors = network.tensors
    blocks = [block for block in find_blocks(network, capture(network, example)) if block.last]
    silent = [all(not tensors[name].any() for name in block.last) for block in blocks]
    return Share(sum(silent), len(blocks))
