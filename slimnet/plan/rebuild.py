"""Rebuild a network smaller: apply a plan.

Blocks that leave are replaced by what stands for them. Then one loop: every parameter and buffer is
indexed by what survives; then the modules' own bookkeeping is brought up to date from a small
table.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from slimnet.capture.books import books
from slimnet.capture.modules import clone, set_attribute
from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.plan.plan import Plan
from slimnet.plan.shortcut import replace_modules


def rebuild(network: Network, plan: Plan) -> nn.Module:
    """A new model of the same classes without what the plan removes; the network stays as it is.

    Raises :class:`InputError` where the plan was made for another network.
    """
    check_fits(network, plan)
    slim = clone(network, lambda name, tensor: cut(name, tensor, plan))
    if plan.stubs:
        replace_modules(Network.of(slim), plan.stubs)
    adjust(Network.of(slim), plan, network.modules)
    return slim


def without_blocks(network: Network, plan: Plan) -> Network:
    """The network without the plan's blocks, on the same tensors; itself where none leaves."""
    if not plan.blocks:
        return network
    shorter = clone(network, lambda name, tensor: tensor)
    replace_modules(Network.of(shorter), plan.stubs)
    return Network.of(shorter)


def cut(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    """One parameter or buffer without the removed indices; always a tensor of its own."""
    source = tensor.detach()
    new = scaled(name, plan.of(name).select(source), plan)
    if name in plan.remapped:
        new = torch.tensor(plan.remapped[name], dtype=new.dtype, device=new.device)[new]
    if new is source:
        return source.clone()
    if source.dim() == 4 and source.is_contiguous(memory_format=torch.channels_last):
        return new.contiguous(memory_format=torch.channels_last)
    return new


def scaled(name: str, values: Tensor, plan: Plan) -> Tensor:
    """The surviving values of a parameter, multiplied by what the plan folds into them."""
    removal = plan.of(name)
    before = removal.before(values.shape)
    for scale in plan.scaled.get(name, ()):
        factor = torch.ones(before[scale.axis], dtype=torch.float64)
        factor[list(scale.indices)] = scale.factor
        kept = factor[removal.kept(scale.axis, before)].to(values.device)
        shape = [-1 if d == scale.axis else 1 for d in range(values.dim())]
        values = (values.double() * kept.reshape(shape)).to(values.dtype)
    return values


def zero_removed(name: str, values: Tensor, plan: Plan) -> Tensor:
    """Set the removed elements to zero, in place: the reference that a cut must equal."""
    plan.of(name).zero_(values)
    if any(name in block.zeroed for block in plan.blocks):
        values.zero_()
    return values


def check_tables(network: Network, plan: Plan) -> None:
    """Raise :class:`InputError` where the plan scales or renumbers what the network does not have.

    The plan may come from a file of unknown origin.
    """
    _check_groups(network.modules, plan)
    tensors = network.tensors
    for name, scales in plan.scaled.items():
        shape = tensors[name].shape if name in tensors else ()
        for scale in scales:
            fits = 0 <= scale.axis < len(shape) and plan.of(name).groups == 1
            if not fits or not all(0 <= i < shape[scale.axis] for i in scale.indices):
                raise InputError(f"the plan does not fit {name} of shape {tuple(shape)}")
    for name, table in plan.remapped.items():
        if name not in tensors or tensors[name].is_floating_point():
            raise InputError(f"the plan renumbers {name}, which is no table of numbers here")
        places = tensors[name]
        if places.numel() and not -len(table) <= int(places.min()) <= int(places.max()) < len(
            table
        ):
            raise InputError(f"the plan renumbers {len(table)} places, and {name} has others")


def check_fits(network: Network, plan: Plan) -> None:
    """Raise :class:`InputError` where the plan was made for another network."""
    check_tables(network, plan)
    tensors = network.tensors
    for name in plan.removed:
        if name not in tensors:
            raise InputError(f"the plan cuts {name}, which this network does not have")
        if not plan.of(name).fits(tensors[name].shape):
            shape = tuple(tensors[name].shape)
            raise InputError(f"the plan does not fit {name} of shape {shape}")


def _check_groups(modules: Mapping[str, nn.Module], plan: Plan) -> None:
    """Indices that count across groups count across those that the convolution has."""
    for name, groups in plan.grouped.items():
        path = name.rpartition(".")[0]
        layer = modules.get(path)  # a program's do not say
        if isinstance(layer, _ConvNd) and layer.groups != groups:
            raise InputError(f"the plan counts {groups} groups of {path}, which has {layer.groups}")


def adjust(slim: Network, plan: Plan, originals: Mapping[str, nn.Module]) -> None:
    """Bring attributes up to date, in place, once the tensors have their new shapes.

    ``originals`` are the modules of the network that was cloned; they stay as they are.
    """
    touched = {name.partition(".parametrizations.")[0] for name in plan.removed}
    touched |= {name.rpartition(".")[0] for name in plan.removed}
    modules = slim.modules
    for change in plan.changes:
        module, original = modules[change.module], originals.get(change.module)
        set_attribute(module, change.attribute, change.path, change.new, original)
    for path in touched & modules.keys():
        for name, value in books(modules[path]).items():
            setattr(modules[path], name, value)
