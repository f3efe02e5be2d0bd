"""What torch's own modules keep of their weights' shapes: ``in_channels``, ``num_features`` ….

Each is computed from the shapes as they are now. After a cut that gives the new numbers; while a
network is recorded, when shapes are sizes that remember their tensor, it gives each number its
source.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd


def books(module: nn.Module) -> dict[str, Any]:
    """The module's own bookkeeping, by attribute; nothing for a class of the user's own making."""
    numbers: dict[str, Any] = {}
    for kind, book in _BOOKS.items():
        if isinstance(module, kind):
            numbers.update(book(module))
    return {name: value for name, value in numbers.items() if name in vars(module)}


def _convolution(module: Any) -> dict[str, Any]:
    first, second = module.weight.shape[:2]
    if module.transposed:
        return {"in_channels": first, "out_channels": second * module.groups}
    return {"in_channels": second * module.groups, "out_channels": first}


def _linear(module: Any) -> dict[str, Any]:
    return {"in_features": module.weight.shape[1], "out_features": module.weight.shape[0]}


def _batch_norm(module: Any) -> dict[str, Any]:
    tensor = module.running_mean if module.running_mean is not None else module.weight
    return {} if tensor is None else {"num_features": tensor.shape[0]}


def _layer_norm(module: Any) -> dict[str, Any]:
    return {} if module.weight is None else {"normalized_shape": tuple(module.weight.shape)}


def _group_norm(module: Any) -> dict[str, Any]:
    return {} if module.weight is None else {"num_channels": module.weight.shape[0]}


def _recurrent(module: Any) -> dict[str, Any]:
    columns = {name: _weight(module, f"weight_{name}_l0").shape[1] for name in ("ih", "hh")}
    inputs, outputs = columns.values()
    if not module.proj_size:
        return {"input_size": inputs, "hidden_size": outputs}
    units = _weight(module, "weight_hr_l0").shape[1]
    return {"input_size": inputs, "hidden_size": units, "proj_size": outputs}


def _weight(module: nn.Module, name: str) -> Tensor:
    """A weight, also one that a hook makes anew of its direction in every pass."""
    weight: Tensor = getattr(module, f"{name}_v" if hasattr(module, f"{name}_v") else name)
    return weight


def _attention(module: Any) -> dict[str, Any]:
    width = module.out_proj.weight.shape[1]
    whole = module.in_proj_weight is not None
    return {
        "embed_dim": width,
        "head_dim": width // module.num_heads,
        "kdim": width if whole else module.k_proj_weight.shape[1],
        "vdim": width if whole else module.v_proj_weight.shape[1],
    }


_BOOKS: dict[type, Callable[[Any], dict[str, Any]]] = {
    _ConvNd: _convolution,
    nn.Linear: _linear,
    _NormBase: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Bilinear: lambda module: dict(
        zip(("out_features", "in1_features", "in2_features"), module.weight.shape, strict=True)
    ),
    nn.PReLU: lambda module: {"num_parameters": module.weight.numel()},
    nn.Embedding: lambda module: {"embedding_dim": module.weight.shape[1]},
    nn.MultiheadAttention: _attention,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: lambda module: {
        "input_size": module.weight_ih.shape[1],
        "hidden_size": module.weight_hh.shape[1],
    },
}
