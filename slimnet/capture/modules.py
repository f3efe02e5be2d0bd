"""Switch and clone a network without trusting its modules' methods.

Users' classes define ``training`` as a property, or hold things that ``copy.deepcopy`` cannot copy;
everything here reads and writes the modules' own tables.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimnet.capture.belongings import (
    PathStep,
    as_they_are,
    entries,
    put,
    remade,
)
from slimnet.capture.copying import COMPILED, Cloner
from slimnet.errors import InputError
from slimnet.exclusive import exclusive
from slimnet.network import TABLES, Network, own_attributes


def own_states(network: Network) -> dict[str, Any]:
    """What modules keep in a state dict beside tensors, by path (``get_extra_state``)."""
    return {
        path: module.get_extra_state()
        for path, module in network.modules.items()
        if type(module).get_extra_state is not nn.Module.get_extra_state
    }


@contextmanager
def no_collection() -> Iterator[None]:
    """Pause Python's garbage collector while very many small objects are made.

    Its scans cost a third of the time on a network of thousands of layers; nothing here is cyclic.
    """
    with exclusive():
        enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if enabled:
                gc.enable()


@contextmanager
def evaluation_mode(network: Network, *, training: bool = False) -> Iterator[None]:
    """Run in evaluation (or training) mode and leave no trace of the run.

    Flags, attributes that ``forward`` sets, what it puts into the user's lists, dicts and objects,
    and buffers that it exchanges are put back afterwards; in training mode, which updates running
    statistics in place, the buffers' values as well. Other threads wait: they may hold the same
    model.
    """
    with exclusive(), _as_it_was(network, training):
        yield


@contextmanager
def _as_it_was(network: Network, training: bool) -> Iterator[None]:
    modules = network.modules.values()
    before = [(module, _attributes(module)) for module in modules]
    put_back = as_they_are(value for m in modules for _, value in own_attributes(m))
    kept = [(t, t.clone()) for t in _buffers(modules)] if training else []
    try:
        for module in modules:
            _set_training(module, training)
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)
        put_back()
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """A module's attributes, the tables of parameters and buffers copied."""
    attributes = dict(vars(module))
    for table in ("_parameters", "_buffers"):
        attributes[table] = attributes[table].copy()
    return attributes


def _buffers(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    for module in modules:
        yield from (t for t in vars(module)["_buffers"].values() if t is not None)


def _set_training(module: nn.Module, flag: bool) -> None:
    vars(module).pop(COMPILED, None)  # what module.compile() would run hides the operators
    with suppress(AttributeError, TypeError):  # a read-only property, or a parameter of that name
        module.training = flag


def clone(network: Network, tensors: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """A new model of the same classes, whose parameters and buffers are what ``tensors`` gives.

    ``tensors(name, old)`` is called once for each distinct tensor, with its first name, and must
    return a tensor that the copy may own. Sharing is kept. Objects that cannot be copied (a Python
    module, a lock) are shared with the original; what leads back to it is bound to the copy
    (:mod:`.copying`).
    """
    memo: dict[int, Any] = {}
    with exclusive():  # another thread may be running the model in its own mode
        for name, tensor in network.tensors.items():
            if id(tensor) not in memo:
                memo[id(tensor)] = _like(tensor, tensors(name, tensor))
        return Cloner(memo, parts_of(network)).module(network.model)


def parts_of(network: Network) -> Iterator[Any]:
    """Its modules and tensors."""
    yield from network.modules.values()
    yield from network.tensors.values()


def copied(network: Network) -> nn.Module:
    """A copy with weights of its own."""
    return clone(network, lambda _, tensor: tensor.detach().clone())


def in_single(tensor: Tensor) -> Tensor:
    """In single precision where it is in half: sums of halves overflow, and squares vanish."""
    half = tensor.is_floating_point() and tensor.element_size() < _SINGLE
    return tensor.float() if half else tensor


_SINGLE = 4  # bytes


def single(network: Network) -> Network:
    """A copy that computes in single precision, of a network with halves; any other itself."""
    if all(in_single(t) is t for t in network.tensors.values()):
        return network
    return Network.of(clone(network, lambda _, tensor: in_single(tensor.detach()).clone()))


def _like(old: Tensor, new: Tensor) -> Tensor:
    """The new values as the same kind of tensor: a parameter stays one, frozen stays frozen."""
    if not isinstance(old, nn.Parameter):
        return new.detach()
    if type(old) is nn.Parameter:
        return nn.Parameter(new.detach(), requires_grad=old.requires_grad)
    alike: Tensor = Tensor._make_subclass(type(old), new.detach(), old.requires_grad)
    alike.__dict__.update(old.__dict__)
    return alike


def set_attribute(
    module: nn.Module,
    name: str,
    path: tuple[PathStep, ...],
    value: int,
    original: nn.Module | None = None,
) -> None:
    """Set an integer attribute, or an entry deep inside one, where there is one.

    What a clone shares with the ``original``, which could not be copied, is copied first.
    """
    attributes = vars(module)
    if name in TABLES:
        raise KeyError(name)
    if name in attributes:
        shared = None if original is None else vars(original).get(name)
        attributes[name] = _replaced(attributes[name], path, value, shared)
    elif isinstance(getattr(type(module), name, None), int):
        attributes[name] = value  # the class has it, for all its instances


def _replaced(value: Any, path: tuple[PathStep, ...], new: int, original: Any) -> Any:
    if not path:
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise InputError(f"a {type(value).__name__} is no number that could become {new}")
        return type(value)(new) if isinstance(value, np.integer) else new
    inside, originals = dict(entries(value)), dict(entries(original))
    if path[0] not in inside:
        return value
    entry = _replaced(inside[path[0]], path[1:], new, originals.get(path[0]))
    if isinstance(value, (list, tuple)):
        return remade(value, [entry if i == path[0] else x for i, x in enumerate(value)])
    if value is original:
        value = copy.copy(value)
    put(value, path[0], entry)
    return value
