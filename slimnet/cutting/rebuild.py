"""Rebuild a network smaller: apply a plan.

Blocks that leave are replaced by what stands for them. Then one loop: every parameter and buffer is
indexed by what survives; then the modules' own bookkeeping is brought up to date from a small
table. Knows plans and modules, no graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from slimnet.capture.modules import clone, named_modules, named_tensors, set_attribute
from slimnet.coupling.shortcut import replace_modules
from slimnet.errors import InputError
from slimnet.planning.plan import Plan


def rebuild(model: nn.Module, plan: Plan) -> nn.Module:
    """A new model of the same classes without what the plan removes; ``model`` stays as it is.

    Raises :class:`InputError` where the plan was made for another network.
    """
    _check_fits(model, plan)
    slim = clone(model, lambda name, tensor: cut(name, tensor, plan))
    replace_modules(slim, plan.stubs)
    adjust(slim, plan)
    return slim


def without_blocks(model: nn.Module, plan: Plan) -> nn.Module:
    """The network without the plan's blocks, on the same tensors; itself where none leaves."""
    if not plan.blocks:
        return model
    shorter = clone(model, lambda name, tensor: tensor)
    replace_modules(shorter, plan.stubs)
    return shorter


def cut(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    """One parameter or buffer without the removed indices; always a tensor of its own."""
    source = tensor.detach()
    new = source
    for axis, indices in plan.removed.get(name, {}).items():
        new = new.index_select(axis, survivors(source.shape[axis], indices).to(new.device))
    new = scaled(name, new, plan)
    if name in plan.remapped:
        new = torch.tensor(plan.remapped[name], dtype=new.dtype, device=new.device)[new]
    if new is source:
        return source.clone()
    if source.dim() == 4 and source.is_contiguous(memory_format=torch.channels_last):
        return new.contiguous(memory_format=torch.channels_last)
    return new


def scaled(name: str, values: Tensor, plan: Plan) -> Tensor:
    """The surviving values of a parameter, multiplied by what the plan folds into them."""
    removed = plan.removed.get(name, {})
    for scale in plan.scaled.get(name, ()):
        gone = removed.get(scale.axis, ())
        factor = torch.ones(values.shape[scale.axis] + len(gone), dtype=torch.float64)
        factor[list(scale.indices)] = scale.factor
        kept = factor[survivors(len(factor), gone)].to(values.device)
        shape = [-1 if d == scale.axis else 1 for d in range(values.dim())]
        values = (values.double() * kept.reshape(shape)).to(values.dtype)
    return values


def zero_removed(name: str, values: Tensor, plan: Plan) -> Tensor:
    """Set the removed elements to zero, in place: the reference that a cut must equal."""
    for axis, indices in plan.removed.get(name, {}).items():
        values.index_fill_(axis, torch.tensor(indices, device=values.device), 0)
    if any(name in block.zeroed for block in plan.blocks):
        values.zero_()
    return values


def survivors(length: int, removed: Sequence[int]) -> Tensor:
    """The indices that are left of an axis."""
    kept = np.ones(length, bool)
    kept[np.asarray(removed, np.int64)] = False
    return torch.from_numpy(np.flatnonzero(kept))


def _check_fits(model: nn.Module, plan: Plan) -> None:
    tensors = dict(named_tensors(model))
    for name, axes in plan.removed.items():
        if name not in tensors:
            raise InputError(f"the plan cuts {name}, which this network does not have")
        for axis, indices in axes.items():
            shape = tuple(tensors[name].shape)
            if axis >= len(shape) or (indices and indices[-1] >= shape[axis]):
                raise InputError(f"the plan does not fit {name} of shape {shape}")


def adjust(model: nn.Module, plan: Plan) -> None:
    """Bring attributes up to date, in place, once the tensors have their new shapes."""
    touched = {name.partition(".parametrizations.")[0] for name in plan.removed}
    touched |= {name.rpartition(".")[0] for name in plan.removed}
    modules = dict(named_modules(model))
    for change in plan.changes:
        module = modules[change.module]
        if change.attribute in vars(module):
            set_attribute(module, change.attribute, change.path, change.new)
    for path in touched & modules.keys():
        for kind, book in _BOOKS.items():
            if isinstance(modules[path], kind):
                _write(modules[path], book(modules[path]))


def _write(module: nn.Module, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name in vars(module):
            setattr(module, name, value)


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
    made: Tensor = getattr(module, f"{name}_v" if hasattr(module, f"{name}_v") else name)
    return made


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
