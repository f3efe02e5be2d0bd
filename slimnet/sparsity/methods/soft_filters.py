"""Soft filter pruning: after every epoch the smallest filters become zero, and train on.

A filter that was zeroed gets gradients like any other and may grow again. When the training ends,
the channels whose filters are zero everywhere still carry what their batch norm makes of nothing, a
constant. It is moved into the layers that read it (:mod:`slimnet.sparsity.leaks`), and everything
that belongs to such a channel is zeroed, so that the network equals what is left when they are cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from slimnet.capture.passes import capture_passes
from slimnet.coupling.groups import Group
from slimnet.coupling.labels import Labels
from slimnet.inspection import analyse
from slimnet.network import Network
from slimnet.sparsity.leaks import Leaks, dead_atoms, remove_leaks
from slimnet.sparsity.method import SPARSIFIERS, Sparsifier, nothing_to_do
from slimnet.train.callback import Callback, Moment


class SoftFilters(Callback):
    """After every epoch: of each convolution's n filters that can leave, int(n · rate) are zeroed.

    ``rate`` is one minus the keep rate that the authors' scripts take. Filters are ranked by their
    L2 norm. Filters that cannot leave (those that make the network's outputs) stay.
    """

    def __init__(
        self, filters: Mapping[str, Labels], groups: Sequence[Group], example: Any, rate: float
    ) -> None:
        self.filters = filters  # weight of a convolution → those that can leave
        self.groups = groups
        self.example = example
        self.rate = rate
        self.leaks = Leaks()  # what became of them, once the training has ended

    @torch.no_grad()
    def on_epoch_end(self, moment: Moment) -> None:
        """Zero the smallest."""
        tensors = Network.of(moment.model).tensors
        for name, filters in self.filters.items():
            zero_smallest(tensors[name], filters, self.rate)

    def on_end(self, moment: Moment) -> None:
        """Make the network equal to its cut."""
        network = Network.of(moment.model)
        dead = dead_atoms(self.groups, network.tensors)
        self.leaks = remove_leaks(network, self.example, self.groups, dead)


def zero_smallest(weight: Tensor, filters: Labels, rate: float) -> None:
    """Set int(n · rate) of these n filters, the rows of ``weight``, to zero in place."""
    places = torch.from_numpy(filters).to(weight.device)
    norms = weight[places].flatten(1).norm(dim=1)
    smallest = norms.argsort(stable=True)[: int(len(places) * rate)]
    weight.index_fill_(0, places[smallest], 0)


def removable_filters(network: Network, groups: Sequence[Group]) -> dict[str, Labels]:
    """The rows of every convolution's weight that some group would remove."""
    rows = {
        f"{path}.weight".lstrip(".")
        for path, module in network.modules.items()
        if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd)
    }
    filters: dict[str, Labels] = {}
    for axis in (axis for group in groups for axis in group.axes):
        if axis.role == "out" and axis.name in rows:
            others = filters.get(axis.name, axis.positions)
            filters[axis.name] = np.union1d(others, axis.positions)
    return filters


def _make(model: nn.Module, example: tuple[Any, ...], rate: float) -> SoftFilters:
    network = Network.of(model)
    groups = analyse(network, capture_passes(network, example), ()).groups
    filters = removable_filters(network, groups)
    if not filters:
        raise nothing_to_do("soft-filters", "convolutions whose filters can leave")
    return SoftFilters(filters, groups, example, rate)


SPARSIFIERS.add(
    "soft-filters",
    Sparsifier(
        make=_make,
        knob="rate",
        default=0.3,
        cut="--criterion l2",
        source="He et al., Soft Filter Pruning for Accelerating Deep Convolutional Neural "
        "Networks, 2018",
        meaning="after every epoch the filters of smallest norm are zeroed, and may grow again",
    ),
)
