"""Walk, switch and clone modules without trusting their methods.

Users' classes hide ``modules``, define ``training`` as a property, or hold things that
``copy.deepcopy`` cannot copy; everything here reads ``_modules``, ``_parameters`` and ``_buffers``.
"""

from __future__ import annotations

import copy
import gc
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import MethodType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

_Named: TypeAlias = "tuple[list[tuple[str, nn.Module]], list[tuple[str, Tensor]]]"
_walked: dict[int, _Named] = {}


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
    _walked[id(model)] = (list(_modules(model)), list(_tensors(model)))
    try:
        yield
    finally:
        del _walked[id(model)]


def named_modules(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Every module once, with its path, parents first."""
    known = _walked.get(id(model))
    return known[0] if known else _modules(model)


def named_tensors(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Every parameter and buffer with its path; a shared one under each of its names."""
    known = _walked.get(id(model))
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


def kind_of(model: nn.Module) -> torch.dtype | None:
    """The type of the first parameter of real numbers, else buffer; None without any."""
    found = [(name, t) for name, t in named_tensors(model) if t.is_floating_point()]
    own = [t.dtype for _, t in found if isinstance(t, nn.Parameter)]
    return next(iter([*own, *(t.dtype for _, t in found)]), None)


def first_names(model: nn.Module) -> dict[str, str]:
    """For every name of a parameter or buffer the first name of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(t), name) for name, t in named_tensors(model)}


@contextmanager
def no_collection() -> Iterator[None]:
    """Pause Python's garbage collector while very many small objects are made.

    Its scans cost a third of the time on a network of thousands of layers; nothing here is cyclic.
    """
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

    Flags, attributes that ``forward`` sets and buffers that it exchanges are put back afterwards;
    in training mode, which updates running statistics in place, the buffers' values as well.
    """
    modules = [module for _, module in named_modules(model)]
    before = [(module, _attributes(module)) for module in modules]
    filled = [(value, value.copy()) for _, held in before for value in _collections(held)]
    kept = [(t, t.clone()) for t in _buffers(model)] if training else []
    try:
        for module in modules:
            _set_training(module, training)
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)
        for collection, content in filled:
            _refill(collection, content)
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """A module's attributes, the tables of parameters and buffers copied."""
    attributes = dict(vars(module))
    for table in ("_parameters", "_buffers"):
        attributes[table] = attributes[table].copy()
    return attributes


def _collections(attributes: dict[str, Any]) -> Iterator[Any]:
    """The user's own lists, dicts and sets, which a forward may add to."""
    for name, value in attributes.items():
        if not name.startswith("_") and type(value) in (list, dict, set):
            yield value


def _refill(collection: Any, content: Any) -> None:
    if len(collection) != len(content):
        collection.clear()
        add = collection.extend if isinstance(collection, list) else collection.update
        add(content)


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
    for name, tensor in named_tensors(model):
        if id(tensor) not in memo:
            memo[id(tensor)] = _like(tensor, tensors(name, tensor))
    return _Cloner(memo).module(model)


def copied(model: nn.Module) -> nn.Module:
    """A copy with weights of its own."""
    return clone(model, lambda _, tensor: tensor.detach().clone())


def in_single(tensor: Tensor) -> Tensor:
    """In single precision where it is in half: sums of halves overflow, and squares vanish."""
    half = tensor.is_floating_point() and tensor.element_size() < _SINGLE
    return tensor.float() if half else tensor


_SINGLE = 4  # bytes


def single(model: nn.Module) -> nn.Module:
    """A copy that computes in single precision, of a network with halves; any other itself."""
    if all(in_single(t) is t for _, t in named_tensors(model)):
        return model
    return clone(model, lambda _, tensor: in_single(tensor.detach()).clone())


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


def set_attribute(module: nn.Module, name: str, path: tuple[int, ...], value: int) -> None:
    """Set an integer attribute, or an entry deep inside a tuple or list attribute."""
    attributes = vars(module)
    attributes[name] = _replaced(attributes[name], path, value)


def _replaced(value: Any, path: tuple[int, ...], new: int) -> Any:
    if not path:
        return new
    entries = list(value)
    entries[path[0]] = _replaced(entries[path[0]], path[1:], new)
    return type(value)(entries)
