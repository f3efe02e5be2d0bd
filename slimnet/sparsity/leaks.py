"""What a zeroed filter still adds to the network, and where to put it before its channel is cut.

A batch norm makes a constant of a channel that is zero, β − γ·mean/σ, and an activation makes
another. A cut removes it. Its effect on a layer that reads it is a constant as well, per output
channel and, where the layer pads with zeros, per position. Its mean over the positions goes into
the reader's bias, or off the running mean of the batch norm behind it: exactly the same network
where the layer does not pad, the nearest constant where it does. Where a reader has neither, the
constant is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from slimnet.capture.modules import evaluation_mode
from slimnet.capture.trace import capture
from slimnet.coupling.groups import Group
from slimnet.coupling.labels import Labels
from slimnet.coupling.removal import zero_part
from slimnet.criteria import cut_rows
from slimnet.example import map_tensors
from slimnet.network import Network
from slimnet.reconstruction.consumers import Consumer, consumers_of

Dead: TypeAlias = Mapping[int, np.ndarray[Any, np.dtype[np.bool_]]]
"""Number of a group → [atoms]: which are dead."""


@dataclass(frozen=True)
class Leaks:
    """How many readers of dead channels there were, by what became of what they read."""

    folded: int = 0  # exactly
    averaged: int = 0  # as the mean over positions: the reader pads
    lost: int = 0  # nowhere to put it


def dead_atoms(groups: Sequence[Group], tensors: Mapping[str, Tensor]) -> Dead:
    """Atoms that no layer makes anything of: all their rows are zero."""
    return {group.number: ~_alive(group, tensors) for group in groups}


def _alive(group: Group, tensors: Mapping[str, Tensor]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    outputs = [axis for axis in group.axes if axis.role == "out"]
    alive = np.full(group.size, not outputs)
    for axis in outputs:
        rows = cut_rows(tensors[axis.name], axis)
        alive[axis.members[rows.ne(0).any(1).cpu().numpy()]] = True
    return alive


def remove_leaks(
    network: Network, example: tuple[Any, ...], groups: Sequence[Group], dead: Dead
) -> Leaks:
    """Fold what dead channels add into their readers, then zero all that belongs to them."""
    example = map_tensors(lambda x: x.to(network.device), example)
    readers = list(_readers(network, example, groups, dead))
    fates = [reader.fold() for reader in _measured(network, example, readers)]
    _zero(network.tensors, groups, dead)
    return Leaks(fates.count("folded"), fates.count("averaged"), fates.count("lost"))


@dataclass(eq=False)
class _DeadInput:
    """The dead channels that a layer reads, and what they add to its output."""

    module: nn.Module
    channels: Labels  # of its input, the dead ones
    bias: Tensor | None
    mean: Tensor | None  # running mean of the batch norm behind it
    effect: Tensor | None = None  # what the dead channels add to its output

    @torch.no_grad()
    def measure(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """A hook before the layer's forward: what would be missing without the dead channels."""
        axis = 1 if isinstance(module, _ConvNd) else -1
        live = torch.ones(inputs[0].shape[axis], device=inputs[0].device, dtype=torch.bool)
        live[torch.from_numpy(self.channels).to(live.device)] = False
        alone = inputs[0].masked_fill(live.reshape(_along(axis, inputs[0].dim())), 0)
        forward = type(module).forward
        effect = forward(module, alone) - forward(module, torch.zeros_like(alone))
        self.effect = effect.movedim(axis, 0).flatten(1)  # [outputs, images and positions]

    @torch.no_grad()
    def fold(self) -> str:
        """Put the mean effect where it belongs; says what became of it."""
        if self.effect is None or not self.effect.any():
            return "none"
        mean = self.effect.mean(dim=1)
        if self.bias is not None:
            self.bias.add_(mean)
        elif self.mean is not None:
            self.mean.sub_(mean)
        else:
            return "lost"
        same = torch.allclose(self.effect, mean[:, None], rtol=1e-4, atol=1e-6)
        return "folded" if same else "averaged"


def _along(axis: int, dims: int) -> list[int]:
    shape = [1] * dims
    shape[axis] = -1
    return shape


def _readers(
    network: Network, example: tuple[Any, ...], groups: Sequence[Group], dead: Dead
) -> Iterator[_DeadInput]:
    modules, tensors = network.modules, network.tensors
    columns = _dead_columns(groups, dead)
    apart = {axis.name for group in groups for axis in group.axes if axis.groups > 1}
    for consumer in consumers_of(capture(network, example)):
        module = modules[consumer.weight.rpartition(".")[0]]
        if consumer.weight in columns and isinstance(module, (_ConvNd, nn.Linear)):
            channels = columns[consumer.weight]
            if consumer.weight not in apart:
                channels = _of_all_groups(module, channels)
            yield _reader(module, channels, consumer, tensors)


def _dead_columns(groups: Sequence[Group], dead: Dead) -> dict[str, Labels]:
    """Weight → the channels of its input that are dead."""
    columns: dict[str, Labels] = {}
    for group in groups:
        for axis in group.axes:
            gone = axis.positions[dead[group.number][axis.members]]
            if axis.role == "in" and len(gone):
                columns[axis.name] = np.union1d(columns.get(axis.name, gone), gone)
    return columns


def _reader(
    module: nn.Module, channels: Labels, consumer: Consumer, tensors: Mapping[str, Tensor]
) -> _DeadInput:
    bias = None if consumer.constants is None else tensors[consumer.constants]
    mean = None if consumer.norm is None else tensors[consumer.norm.mean]
    return _DeadInput(module, channels, bias, mean)


def _of_all_groups(module: nn.Module, channels: Labels) -> Labels:
    """Input channels of a layer whose weight knows those of one group."""
    if not isinstance(module, _ConvNd) or module.transposed:
        return channels
    blocks = np.arange(module.groups)[:, None] * module.weight.shape[1]
    return (blocks + channels).reshape(-1)


def _measured(
    network: Network, example: tuple[Any, ...], readers: Sequence[_DeadInput]
) -> Sequence[_DeadInput]:
    """The readers, after a pass in which each saw its input."""
    with ExitStack() as stack, torch.no_grad(), evaluation_mode(network):
        for reader in readers:
            handle = reader.module.register_forward_pre_hook(reader.measure)
            stack.callback(handle.remove)
        network.model(*example)
    return readers


@torch.no_grad()
def _zero(tensors: Mapping[str, Tensor], groups: Sequence[Group], dead: Dead) -> None:
    for group in groups:
        for axis in group.axes:
            gone = axis.positions[dead[group.number][axis.members]]
            if axis.role != "buffer" and len(gone):
                weight = tensors[axis.name]
                places = torch.from_numpy(gone).to(weight.device)
                zero_part(weight, axis.dim, places, axis.groups)
