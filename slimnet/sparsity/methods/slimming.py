"""Network slimming: an L1 penalty on the scales of batch norms, by its sub-gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimnet.network import Network
from slimnet.sparsity.method import SPARSIFIERS, Sparsifier, nothing_to_do
from slimnet.train.callback import Callback, Moment


class Slimming(Callback):
    """Before each step: γ.grad += strength · sign(γ), for every batch norm."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def on_gradients(self, moment: Moment) -> None:
        """The sub-gradient of strength · Σ|γ|, with 0 at 0."""
        for scale in batch_norm_scales(Network.of(moment.model)):
            if scale.grad is not None:
                scale.grad.add_(torch.sign(scale.detach()), alpha=self.strength)


def batch_norm_scales(network: Network) -> Iterator[nn.Parameter]:
    """γ of every batch norm that has one."""
    for module in network.modules.values():
        if isinstance(module, _BatchNorm) and module.weight is not None:
            yield module.weight


def _make(model: nn.Module, example: tuple[Any, ...], strength: float) -> Slimming:
    if not any(True for _ in batch_norm_scales(Network.of(model))):
        raise nothing_to_do("slimming", "the scales of batch norms")
    return Slimming(strength)


SPARSIFIERS.add(
    "slimming",
    Sparsifier(
        make=_make,
        knob="strength",
        default=1e-4,  # the authors' for VGG; 1e-5 for PreResNet-164 and DenseNet-40
        cut="--criterion bn-scale --scope global",
        source="Liu et al., Learning Efficient Convolutional Networks through Network Slimming, "
        "2017",
        meaning="an L1 penalty on the scales of batch norms",
    ),
)
