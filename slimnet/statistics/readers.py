"""The weights that read a group's channels: their names, and the axis of their input channels.

Of a parametrised layer the weight is what the parametrisation computes. Inside
``parametrize.cached()`` that is one tensor throughout, and it has the name of the parameter that it
is computed from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from slimnet.coupling.groups import Group
from slimnet.coupling.removal import part
from slimnet.network import Network


@dataclass(frozen=True, eq=False)
class Reader:
    """A weight that sums over channels."""

    name: str
    tensor: Tensor
    axis: int  # of its input channels
    groups: int = 1  # across which they are counted, where each loses other ones

    @property
    def channels(self) -> int:
        """How many it tells apart."""
        return self.tensor.shape[self.axis] * self.groups

    def gate(self, gradient: Tensor) -> Tensor:
        """[channels, 1]: the derivative by a gate that multiplies each channel that it reads."""
        product = self.tensor.detach().double() * gradient.double()
        every = torch.arange(self.channels, device=product.device)
        return part(product, self.axis, every, self.groups).flatten(1).sum(1, keepdim=True)

    def is_summed(self, view: Tensor, axis: int) -> bool:
        """Whether this axis of a view of the weight is that of its input channels."""
        length, stride = self.tensor.shape[self.axis], self.tensor.stride(self.axis)
        return view.shape[axis] == length and (view.stride(axis) == stride or length == 1)


def readers(network: Network, groups: Sequence[Group]) -> list[Reader]:
    """Every weight that reads channels of these groups; call it in ``parametrize.cached()``."""
    read = {axis.name: axis for g in groups for axis in g.axes if axis.role == "in"}
    plain = [
        Reader(name, tensor, read[name].dim, read[name].groups)
        for name, tensor in network.tensors.items()
        if name in read
    ]
    computed = {
        name: weight
        for path, module in network.modules.items()
        if parametrize.is_parametrized(module)
        for name, weight in _computed_weights(path, module)
    }
    return [replace(r, tensor=computed.get(r.name, r.tensor)) for r in plain]


def _computed_weights(path: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each parameter of a parametrisation, and the weight that it goes into."""
    for leaf, parts in module.parametrizations.items():  # type: ignore[union-attr, operator]
        for name, _ in parts.named_parameters():
            yield f"{path}.parametrizations.{leaf}.{name}".lstrip("."), getattr(module, leaf)
