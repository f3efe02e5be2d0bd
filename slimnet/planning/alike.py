"""Which groups are alike, and may be ranked against one another.

Scores of unlike structures do not compare: the width of a residual stream, of a bottleneck's inside
and of an attention head have other sizes of weights and another say in the output. Isomorphic
Pruning (Fang et al., ECCV 2024) ranks like with like and takes the same share of every class.

Here two groups are *like* when the same parts meet in them: the multiset, over the parameter axes
that leave together, of (kind of module, what the axis is to it: out, in, scale, vector …, kernel
shape, dense or grouped or depth-wise). Widths, names and places do not matter: the insides of all
basic blocks of a ResNet are one class at any width, and the streams of two stages are one class
where as many blocks add to them. Fang et al. compare graphs; the multiset asks for the same parts
and does not look at how they are connected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

from torch import nn
from torch.nn.modules.conv import _ConvNd

from slimnet.coupling.groups import Group, ParameterAxis
from slimnet.network import Network, Owner

_Part: TypeAlias = tuple[str, str, tuple[int, ...], str]
"""Kind of module, role of the axis, kernel shape, how channels connect."""


def classes(network: Network, groups: Sequence[Group]) -> dict[int, int]:
    """For every group the number of its class; classes are numbered as they come."""
    owners, shapes = network.owners, network.shapes
    numbers: dict[frozenset[tuple[_Part, int]], int] = {}
    classes_of = {}
    for group in groups:
        parts = Counter(_part(axis, owners[axis.name], shapes[axis.name]) for axis in group.axes)
        classes_of[group.number] = numbers.setdefault(frozenset(parts.items()), len(numbers))
    return classes_of


def _part(axis: ParameterAxis, owner: Owner, shape: tuple[int, ...]) -> _Part:
    return owner.kind, axis.role, shape[2:], _connection(owner.module)


def _connection(module: nn.Module | None) -> str:
    if not isinstance(module, _ConvNd) or module.groups == 1:
        return "dense"
    return "depth-wise" if module.groups == module.in_channels else "grouped"
