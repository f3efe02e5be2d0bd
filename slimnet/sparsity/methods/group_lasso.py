"""Group lasso on coupled groups: the L2 norm of everything that leaves together, by sub-gradient.

The penalty is strength · Σ ‖w‖₂, one norm for each atom of each group as
``slimnet.coupling.groups`` finds them: rows of the layers that make a channel, columns of those
that read it, and the scale and shift between. What must leave together is so driven to zero
together (Wen et al. 2016 with the groups of Fang et al., DepGraph, 2023). An element that belongs
to an atom by two of its axes, as in a layer between tied channels, counts in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.capture.passes import capture_passes
from slimnet.coupling.groups import Group, ParameterAxis
from slimnet.coupling.removal import add_part, part
from slimnet.inspection import analyse
from slimnet.network import Network
from slimnet.sparsity.method import SPARSIFIERS, Sparsifier, nothing_to_do
from slimnet.train.callback import Callback, Moment


class GroupLasso(Callback):
    """Before each step: w.grad += strength · w / ‖w‖₂ for the elements w of every atom."""

    def __init__(self, groups: Sequence[Group], strength: float) -> None:
        self.groups = groups
        self.strength = strength
        self._indices: dict[int, tuple[Tensor, Tensor]] = {}  # by the axis' id

    def on_start(self, moment: Moment) -> None:
        """Bring every axis' positions and members to the device."""
        tensors = Network.of(moment.model).tensors
        for group in self.groups:
            for axis in _weights(group):
                place = tensors[axis.name].device
                self._indices[id(axis)] = (
                    torch.from_numpy(axis.positions).to(place),
                    torch.from_numpy(axis.members).to(place),
                )

    @torch.no_grad()
    def on_gradients(self, moment: Moment) -> None:
        """The sub-gradient of the penalty, with 0 at 0."""
        tensors = Network.of(moment.model).tensors
        for group in self.groups:
            norms = self.norms(group, tensors)
            pulls = torch.where(norms > 0, self.strength / norms, 0)
            for axis in _weights(group):
                self._pull(tensors[axis.name], axis, pulls)

    def norms(self, group: Group, tensors: Mapping[str, Tensor]) -> Tensor:
        """[atoms]: the L2 norm of everything that belongs to each."""
        squares: Tensor | None = None
        for axis in _weights(group):
            positions, members = self._indices[id(axis)]
            rows = part(tensors[axis.name], axis.dim, positions, axis.groups)
            sums = rows.square().flatten(1).sum(1) if rows.dim() > 1 else rows.square()
            squares = sums.new_zeros(group.size) if squares is None else squares
            squares.index_add_(0, members, sums)
        return torch.zeros(group.size) if squares is None else squares.sqrt()

    def _pull(self, weight: Tensor, axis: ParameterAxis, pulls: Tensor) -> None:
        if weight.grad is None:
            return
        positions, members = self._indices[id(axis)]
        rows = part(weight, axis.dim, positions, axis.groups)
        rows = rows * pulls[members].reshape(-1, *[1] * (rows.dim() - 1))
        add_part(weight.grad, axis.dim, positions, rows, axis.groups)


def _weights(group: Group) -> Iterator[ParameterAxis]:
    """What of a group is trained; running statistics are not."""
    return (axis for axis in group.axes if axis.role != "buffer")


def _make(model: nn.Module, example: tuple[Any, ...], strength: float) -> GroupLasso:
    network = Network.of(model)
    groups = analyse(network, capture_passes(network, example), ()).groups
    if not groups:
        raise nothing_to_do("group-lasso", "channels that can leave")
    return GroupLasso(groups, strength)


SPARSIFIERS.add(
    "group-lasso",
    Sparsifier(
        make=_make,
        knob="strength",
        default=1e-3,
        cut="--criterion l2",
        source="Wen et al., Learning Structured Sparsity in Deep Neural Networks, 2016; groups as "
        "in Fang et al., DepGraph, 2023",
        meaning="a penalty on the norm of all weights that leave together with a channel",
    ),
)
