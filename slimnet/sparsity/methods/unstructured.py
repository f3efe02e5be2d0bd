"""Unstructured magnitude pruning: single weights become zero once, and stay zero.

The baseline that gets smaller on paper and no faster: every tensor keeps its shape, so that the
network costs what the dense one costs (Han et al. 2015; one global threshold over the weights of
convolutions and linear layers, biases and norms excluded).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.prune import L1Unstructured

from slimnet.network import Network
from slimnet.sparsity.method import SPARSIFIERS, Sparsifier, nothing_to_do
from slimnet.train.callback import Callback, Moment


class Unstructured(Callback):
    """Before the first step the smallest weights are zeroed; after every step they are again.

    The weights are masked, not their gradients: momentum alone would revive a weight. ``masks``
    that were made before are held instead.
    """

    def __init__(self, rate: float, masks: Mapping[str, Tensor] | None = None) -> None:
        self.rate = rate
        self.masks = dict(masks or {})  # weight → 1 where it stays

    def on_start(self, moment: Moment) -> None:
        """Choose what goes."""
        network = Network.of(moment.model)
        weights = dict(single_weights(network))
        masks = self.masks or magnitude_masks(weights, self.rate)
        self.masks = {name: mask.to(weights[name]) for name, mask in masks.items()}
        self._hold(network)

    def on_step_end(self, moment: Moment) -> None:
        """Hold it."""
        self._hold(Network.of(moment.model))

    def state(self) -> Mapping[str, Tensor]:
        """The masks."""
        return self.masks

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The same masks again."""
        self.masks = {name: state[name].to(mask) for name, mask in self.masks.items()}

    @torch.no_grad()
    def _hold(self, network: Network) -> None:
        for name, weight in single_weights(network):
            weight.mul_(self.masks[name])


def magnitude_masks(weights: Mapping[str, Tensor], rate: float) -> dict[str, Tensor]:
    """0 for the share ``rate`` of all elements that is smallest in magnitude, else 1."""
    values = torch.cat([weight.detach().flatten() for weight in weights.values()])
    mask = L1Unstructured(amount=rate).compute_mask(values, torch.ones_like(values))
    parts = mask.split([weight.numel() for weight in weights.values()])
    pairs = zip(weights.items(), parts, strict=True)
    return {name: part.view_as(weight) for (name, weight), part in pairs}


def single_weights(network: Network) -> Iterator[tuple[str, nn.Parameter]]:
    """The weight of every convolution and linear layer, once each."""
    for path, module in network.modules.items():
        name = f"{path}.weight".lstrip(".")
        layer = isinstance(module, (_ConvNd, nn.Linear))
        if layer and isinstance(module.weight, nn.Parameter) and network.first[name] == name:
            yield name, module.weight


def _make(model: nn.Module, example: tuple[Any, ...], rate: float) -> Unstructured:
    if not any(True for _ in single_weights(Network.of(model))):
        raise nothing_to_do("unstructured", "the weights of convolutions and linear layers")
    return Unstructured(rate)


SPARSIFIERS.add(
    "unstructured",
    Sparsifier(
        make=_make,
        knob="rate",
        default=0.9,
        cut="",
        source="Han et al., Learning both Weights and Connections for Efficient Neural Networks, "
        "2015",
        meaning="single weights of least magnitude are zeroed once and held: no faster",
    ),
)
