"""The tests' own judge of a cut: the original with every removed element set to zero.

Independent of ``slimnet.proof.certificate``: it knows the plan's ``removed`` (tensor name to axis
to removed indices), which of them count across groups, and nothing else of the package. Weights are
drawn so that a wrong cut shows: no channel is near zero, no norm is an identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

Removed = Mapping[str, Mapping[int, tuple[int, ...]]]


def float64(make: Callable[[], nn.Module], example: Callable[[], tuple], seed: int) -> tuple:
    """(model in eval mode, example), both float64 and drawn from ``seed``."""
    torch.manual_seed(seed)
    model = make().double().eval()
    randomise(model)
    return model, tree_map(_double, example())


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Draw every parameter and running statistic; zeros, ones and identities hide wrong cuts."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            fan_in = parameter.numel() / parameter.shape[0]
            parameter.normal_(std=1 / math.sqrt(max(fan_in, 1)))
        else:
            parameter.uniform_(0.5, 1.5).mul_(torch.randn_like(parameter).sign())
    for name, statistic in model.named_buffers():
        if name.endswith("running_var"):
            statistic.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            statistic.normal_()


def zeroed(
    make: Callable[[], nn.Module],
    original: nn.Module,
    removed: Removed,
    grouped: Mapping[str, int] | None = None,
) -> nn.Module:
    """A fresh network with the original's state and every removed element set to zero.

    Of the weights of ``grouped`` convolutions, indices of axis 1 are input channels.
    """
    reference = make().double().eval()
    reference.load_state_dict(original.state_dict())
    state = reference.state_dict()
    with torch.no_grad():
        for name, axes in removed.items():
            for axis, indices in axes.items():
                if axis == 1 and name in (grouped or {}):
                    _zero_channels(state[name], indices, grouped[name])
                elif not _is_direction_of_removed_norm(name, axis, removed):
                    state[name].index_fill_(axis, torch.tensor(indices), 0)
    return reference


def _zero_channels(weight: Tensor, channels: tuple[int, ...], groups: int) -> None:
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    for channel in channels:
        group = channel // columns
        weight[group * rows : (group + 1) * rows, channel % columns] = 0


def outputs(model: nn.Module, example: tuple) -> list[Tensor]:
    """Every tensor that one call gives; the example itself is never touched."""
    return [leaf for leaf in tree_leaves(model(*clone(example))) if isinstance(leaf, Tensor)]


def clone(example: Any) -> Any:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, example)


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest difference, relative to each expected tensor's largest element."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return math.inf
    pairs = zip(found, expected, strict=True)
    return max(_difference(mine, theirs) for mine, theirs in pairs)


def _difference(found: Tensor, expected: Tensor) -> float:
    error = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
    return math.inf if error.isnan() else error.item()


def _is_direction_of_removed_norm(name: str, axis: int, removed: Removed) -> bool:
    """weight_norm divides by the norm of ``original1``: zeroing its length is enough."""
    length = name.removesuffix("original1") + "original0"
    return name.endswith("original1") and axis in removed.get(length, {})


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
