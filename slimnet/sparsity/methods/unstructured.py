"""Unstructured magnitude pruning: single weights become zero once, and stay zero.

The baseline that gets smaller on paper and no faster: every tensor keeps its shape, so that the
network costs what the dense one costs (Han et al. 2015; one global threshold over the weights of
convolutions and linear layers, biases and norms excluded).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from slimnet.network import Network
from slimnet.sparsity.method import SPARSIFIERS, Sparsifier, nothing_to_do
from slimnet.train.callback import Moment
from slimnet.train.masks import Held, magnitude_masks, single_weights


class Unstructured(Held):
    """Before the first step the smallest weights are zeroed; after every step they are again."""

    def __init__(self, rate: float) -> None:
        super().__init__({})
        self.rate = rate

    def on_start(self, moment: Moment) -> None:
        """Choose what goes."""
        weights = dict(single_weights(Network.of(moment.model)))
        self.masks = magnitude_masks(weights, self.rate)
        super().on_start(moment)


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
