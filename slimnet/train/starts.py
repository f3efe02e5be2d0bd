"""Which weights a retraining starts from: one row each.

A start writes into a network that its caller owns. What it needs beside the network comes in one
value (:class:`Sources`): the seed, who repairs, and the dense network's weights of earlier on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.registry import Registry
from slimnet.train.init import reinitialise
from slimnet.train.masks import single_weights

Repairer: TypeAlias = Callable[[nn.Module, int], None]
"""Writes into a slim network the weights of a repair, on images that the seed draws."""
Earlier: TypeAlias = Callable[[nn.Module, int], None]
"""Writes the weights that the dense network had after so many epochs, cut as the network is."""


@dataclass(frozen=True)
class Sources:
    """Where the weights of a slim network may come from, beside the cut itself."""

    seed: int
    repair: Repairer | None = None  # None: nothing was cut
    earlier: Earlier | None = None  # None: nobody kept them
    epoch: int = 0  # which of the earlier ones

    def rewind(self, model: nn.Module) -> None:
        """Write the earlier weights; raises ``InputError`` where nobody kept them."""
        if self.earlier is None:
            raise InputError(
                f"the weights of epoch {self.epoch} are needed: give the folder where slimnet "
                f"train --snapshots {self.epoch} kept them, with --history"
            )
        self.earlier(model, self.epoch)


Start: TypeAlias = Callable[[nn.Module, Sources], None]
"""Prepares the slim network, in place."""
STARTS: Registry[Start] = Registry("start", "slimnet.starts")
STARTS.add("surviving", lambda model, sources: None)  # the weights that the cut left
STARTS.add("fresh", lambda model, sources: reinitialise(model, sources.seed))
STARTS.add("earlier", lambda model, sources: sources.rewind(model))


@STARTS.register("repaired")
def _repaired(model: nn.Module, sources: Sources) -> None:
    if sources.repair is None:
        raise InputError("nothing was cut from it, so there is nothing to repair")
    sources.repair(model, sources.seed)


@STARTS.register("signs")
def _signs(model: nn.Module, sources: Sources) -> None:
    """Of the earlier weights only the signs: one magnitude for each layer, its deviation."""
    sources.rewind(model)
    for weight, _ in _layers(model):
        weight.copy_(weight.sign() * weight.std(correction=0))


@STARTS.register("fresh-signs")
def _fresh_signs(model: nn.Module, sources: Sources) -> None:
    """Fresh magnitudes under the signs of the earlier weights."""
    sources.rewind(model)
    signs = [weight.sign() for weight, _ in _layers(model)]
    reinitialise(model, sources.seed)
    for (weight, _), sign in zip(_layers(model), signs, strict=True):
        weight.copy_(weight.abs() * sign)


@STARTS.register("shuffled")
def _shuffled(model: nn.Module, sources: Sources) -> None:
    """The earlier weights of each layer in another order: their distribution is all that stays."""
    sources.rewind(model)
    generator = torch.Generator().manual_seed(sources.seed)
    for weight, _ in _layers(model):
        order = torch.randperm(weight.numel(), generator=generator)
        weight.copy_(weight.flatten()[order.to(weight.device)].view_as(weight))


def _layers(model: nn.Module) -> Iterator[tuple[Tensor, str]]:
    """The weights of convolutions and linear layers, to be written."""
    for name, weight in single_weights(Network.of(model)):
        yield weight.detach(), name
