"""Sparse structure selection: a scale λ for each residual branch, most of which become zero.

λ starts at 1 and multiplies the last affine layer of its branch, and so what the branch adds to
its shortcut. It is trained with an L1 penalty by accelerated proximal gradient descent: the soft
threshold stands inside the momentum step, so that scales become exactly zero and stay there. At
the end each λ is multiplied into its layer: a branch of scale zero then adds exactly nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from slimnet.blocks.blocks import Block, find_blocks
from slimnet.capture.trace import capture
from slimnet.network import Network
from slimnet.sparsity.method import SPARSIFIERS, Sparsifier, nothing_to_do
from slimnet.train.callback import Callback, Moment


class BlockScales(Callback):
    """λ of every branch, its momentum v, and their step after each of the optimiser's.

    z = soft(λ − η·∂loss/∂λ, η·strength);  v ← z − λ + μ·v;  λ ← z + μ·v
    with the optimiser's learning rate η and momentum μ.
    """

    def __init__(self, blocks: Sequence[Block], strength: float) -> None:
        self.blocks = blocks
        self.strength = strength
        self.scales = torch.empty(0)  # [blocks], once the training has started
        self.velocity = torch.empty(0)
        self._orders: dict[nn.Module, tuple[str, ...]] = {}  # of the parameters, as they were

    def on_start(self, moment: Moment) -> None:
        """Put the scales between the branches' last parameters and those who use them."""
        network = Network.of(moment.model)
        place, kind = network.device, network.tensors[self.blocks[0].last[0]].dtype
        self.scales = torch.ones(len(self.blocks), device=place, dtype=kind, requires_grad=True)
        self.velocity = torch.zeros(len(self.blocks), device=place, dtype=kind)
        for number, owner, leaf in self._scaled(network.modules):
            self._orders.setdefault(owner, tuple(owner._parameters))
            parametrize.register_parametrization(owner, leaf, _Scaled(self.scales, number))

    @torch.no_grad()
    def on_step_end(self, moment: Moment) -> None:
        """One step of accelerated proximal gradient descent."""
        if self.scales.grad is None:
            return
        settings = moment.optimizer.param_groups[0]
        rate, momentum = settings["lr"], settings["momentum"]
        moved = soft_threshold(self.scales - rate * self.scales.grad, rate * self.strength)
        self.velocity.copy_(moved - self.scales + momentum * self.velocity)
        self.scales.copy_(moved + momentum * self.velocity)
        self.scales.grad = None

    def on_end(self, moment: Moment) -> None:
        """Multiply every scale into its layer: a plain network is left."""
        for _, owner, leaf in self._scaled(Network.of(moment.model).modules):
            parametrize.remove_parametrizations(owner, leaf)
        for owner, order in self._orders.items():
            owner._parameters = {name: owner._parameters[name] for name in order}

    def state(self) -> Mapping[str, Tensor]:
        """λ and v."""
        return {"scales": self.scales.detach(), "velocity": self.velocity}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """λ and v as they were."""
        self.scales.copy_(state["scales"])
        self.velocity.copy_(state["velocity"])

    def _scaled(self, modules: Mapping[str, nn.Module]) -> Iterator[tuple[int, nn.Module, str]]:
        """For every parameter that a scale multiplies: the scale's number, and where it is."""
        for number, block in enumerate(self.blocks):
            for name in block.last:
                path, _, leaf = name.rpartition(".")
                yield number, modules[path], leaf


class _Scaled(nn.Module):
    """A parameter times a scale, which is no parameter of the network."""

    def __init__(self, scales: Tensor, number: int) -> None:
        super().__init__()
        self.scales = scales
        self.number = number

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scales[self.number]


def soft_threshold(values: Tensor, threshold: float) -> Tensor:
    """sign(x) · max(|x| − threshold, 0)."""
    return values.sign() * (values.abs() - threshold).clamp(min=0)


def scalable(blocks: Sequence[Block]) -> list[Block]:
    """Branches with last parameters of their own, which no other branch scales as well."""
    names = [name for block in blocks for name in block.last]
    plain = {name for name in names if names.count(name) == 1 and "parametrizations" not in name}
    return [block for block in blocks if block.last and plain.issuperset(block.last)]


def _make(model: nn.Module, example: tuple[Any, ...], strength: float) -> BlockScales:
    network = Network.of(model)
    blocks = scalable(find_blocks(network, capture(network, example)))
    if not blocks:
        raise nothing_to_do("block-scales", "residual branches")
    return BlockScales(blocks, strength)


SPARSIFIERS.add(
    "block-scales",
    Sparsifier(
        make=_make,
        knob="strength",
        default=0.01,
        cut="--drop-blocks {blocks}",
        source="Huang and Wang, Data-Driven Sparse Structure Selection for Deep Neural Networks, "
        "2018",
        meaning="an L1 penalty on one scale for each residual branch",
    ),
)
