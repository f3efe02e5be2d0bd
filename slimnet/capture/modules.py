"""Walk, switch and clone modules without trusting their methods.

Users' classes hide ``modules``, define ``training`` as a property, or hold things that
``copy.deepcopy`` cannot copy; everything here reads ``_modules``, ``_parameters`` and ``_buffers``.
"""

from __future__ import annotations

import copy
import gc
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import MethodType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from slimnet.capture.belongings import (
    TABLES,
    Step,
    as_they_are,
    entries,
    own_attributes,
    put,
    remade,
)
from slimnet.errors import InputError
from slimnet.exclusive import exclusive

_Named: TypeAlias = "tuple[list[tuple[str, nn.Module]], list[tuple[str, Tensor]]]"


class _Walked(threading.local):
    """What this thread has walked: another may walk the same model at another time."""

    def __init__(self) -> None:
        self.models: dict[int, _Named] = {}


_walked = _Walked()


class Held(nn.Module):
    """A layer of which only the tensors are known, and what operators take them for.

    ``roles`` says of a tensor that it is a "weight" [out, in, …], a "transposed" one [in, out, …],
    or the "scale" of a batch norm; ``kind`` is the name of the class that it had, or the operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kind = ""
        self.roles: dict[str, str] = {}


@contextmanager
def unchanging(model: nn.Module) -> Iterator[None]:
    """Walk a model once: inside, its modules, parameters and buffers are taken to stay the same."""
    known = _walked.models
    before = known.copy()
    known[id(model)] = (list(_modules(model)), list(_tensors(model)))
    try:
        yield
    finally:
        known.clear()
        known.update(before)


def named_modules(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Every module once, with its path, parents first."""
    known = _walked.models.get(id(model))
    return known[0] if known else _modules(model)


def named_tensors(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Every parameter and buffer with its path; a shared one under each of its names."""
    known = _walked.models.get(id(model))
    return known[1] if known else _tensors(model)


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    seen: set[int] = set()
    stack = [("", model)]
    while stack:
        path, module = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield path, module
        children = module.__dict__["_modules"]
        if children:
            prefix = f"{path}." if path else ""
            stack.extend(
                (prefix + name, child)
                for name, child in reversed(children.items())
                if child is not None
            )


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, module in _modules(model):
        prefix = f"{path}." if path else ""
        for kind in ("_parameters", "_buffers"):
            for name, tensor in module.__dict__[kind].items():
                if tensor is not None:
                    yield prefix + name, tensor


def device_of(model: nn.Module) -> torch.device:
    """Where the first parameter or buffer is; the CPU for a network without any."""
    return next((t.device for _, t in named_tensors(model)), torch.device("cpu"))


def first_names(model: nn.Module) -> dict[str, str]:
    """For every name of a parameter or buffer the first name of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(t), name) for name, t in named_tensors(model)}


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
def evaluation_mode(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """Run in evaluation (or training) mode and leave no trace of the run.

    Flags, attributes that ``forward`` sets, what it puts into the user's lists, dicts and objects,
    and buffers that it exchanges are put back afterwards; in training mode, which updates running
    statistics in place, the buffers' values as well. Other threads wait: they may hold the same
    model.
    """
    with exclusive(), _as_it_was(model, training):
        yield


@contextmanager
def _as_it_was(model: nn.Module, training: bool) -> Iterator[None]:
    modules = [module for _, module in named_modules(model)]
    before = [(module, _attributes(module)) for module in modules]
    put_back = as_they_are(value for m in modules for _, value in own_attributes(m))
    kept = [(t, t.clone()) for t in _buffers(model)] if training else []
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


def _buffers(model: nn.Module) -> Iterator[Tensor]:
    for _, module in named_modules(model):
        yield from (t for t in vars(module)["_buffers"].values() if t is not None)


def _set_training(module: nn.Module, flag: bool) -> None:
    with suppress(AttributeError, TypeError):  # a read-only property, or a parameter of that name
        module.training = flag


def clone(model: nn.Module, tensors: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """A new model of the same classes, whose parameters and buffers are what ``tensors`` gives.

    ``tensors(name, old)`` is called once for each distinct tensor, with its first name, and must
    return a tensor that the copy may own. Sharing is kept. Objects that cannot be copied (a Python
    module, a lock) are shared with the original.
    """
    memo: dict[int, Any] = {}
    with exclusive():  # another thread may be running the model in its own mode
        for name, tensor in named_tensors(model):
            if id(tensor) not in memo:
                memo[id(tensor)] = _like(tensor, tensors(name, tensor))
        return _Cloner(memo).module(model)


def copied(model: nn.Module) -> nn.Module:
    """A copy with weights of its own."""
    return clone(model, lambda _, tensor: tensor.detach().clone())


def _like(old: Tensor, new: Tensor) -> Tensor:
    """The new values as the same kind of tensor: a parameter stays one, frozen stays frozen."""
    if not isinstance(old, nn.Parameter):
        return new.detach()
    if type(old) is nn.Parameter:
        return nn.Parameter(new.detach(), requires_grad=old.requires_grad)
    made: Tensor = Tensor._make_subclass(type(old), new.detach(), old.requires_grad)
    made.__dict__.update(old.__dict__)
    return made


class _Cloner:
    """A deep copy that knows modules and shares what cannot be copied."""

    def __init__(self, memo: dict[int, Any]) -> None:
        self.memo = memo
        self.kept: list[Any] = []  # keeps ids in the memo alive

    def clone(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind in _IMMUTABLE:
            return value
        if kind in _CONTAINERS and not value:
            return kind()
        if id(value) in self.memo:
            return self.memo[id(value)]
        if isinstance(value, nn.Module):
            return self.module(value)
        if kind in _CONTAINERS:
            return self._container(value)
        if isinstance(value, MethodType):
            return MethodType(value.__func__, self.clone(value.__self__))
        return self._leaf(value)

    def module(self, module: nn.Module) -> nn.Module:
        """A new module with a copy of everything that this one holds."""
        new = object.__new__(type(module))  # a traced module's own __new__ makes another class
        self.memo[id(module)] = new
        clone = self.clone
        new.__dict__.update({name: clone(value) for name, value in vars(module).items()})
        return new

    def _container(self, value: Any) -> Any:
        if isinstance(value, dict):
            new = type(value)()
            self.memo[id(value)] = new
            new.update({key: self.clone(entry) for key, entry in value.items()})
            return new
        new = type(value)(self.clone(entry) for entry in value)
        self.memo[id(value)] = new
        self.kept.append(value)
        return new

    def _leaf(self, value: Any) -> Any:
        if isinstance(value, type) or callable(value):
            return value
        try:
            new = copy.deepcopy(value, self.memo)
        except Exception:  # anything a user's object may raise: share it instead
            new = value
        self.memo[id(value)] = new
        self.kept.append(value)
        return new


_IMMUTABLE = frozenset((bool, int, float, str, bytes))
_CONTAINERS = frozenset((dict, OrderedDict, list, tuple, set))


def set_attribute(
    module: nn.Module,
    name: str,
    path: tuple[Step, ...],
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
        given = None if original is None else vars(original).get(name)
        attributes[name] = _replaced(attributes[name], path, value, given)
    elif isinstance(getattr(type(module), name, None), int):
        attributes[name] = value  # the class has it, for all its instances


def _replaced(value: Any, path: tuple[Step, ...], new: int, original: Any) -> Any:
    if not path:
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise InputError(f"a {type(value).__name__} is no number that could become {new}")
        return type(value)(new) if isinstance(value, np.integer) else new
    held, given = dict(entries(value)), dict(entries(original))
    if path[0] not in held:
        return value
    entry = _replaced(held[path[0]], path[1:], new, given.get(path[0]))
    if isinstance(value, (list, tuple)):
        return remade(value, [entry if i == path[0] else x for i, x in enumerate(value)])
    if value is original:
        value = copy.copy(value)
    put(value, path[0], entry)
    return value
