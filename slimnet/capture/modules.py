"""Walk, switch and clone modules without trusting their methods.

Users' classes hide ``modules``, define ``training`` as a property, or hold things that
``copy.deepcopy`` cannot copy; everything here reads ``_modules``, ``_parameters`` and ``_buffers``.
"""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
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
from slimnet.capture.copying import COMPILED, Cloner
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
    """Every module once, with its path, parents first.

    Not the scripted parts: what they hold lies outside of Python, and they are copied as a whole.
    """
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
        children = module.__dict__.get("_modules")  # TorchScript keeps them elsewhere
        if children:
            prefix = f"{path}." if path else ""
            stack.extend(
                (prefix + name, child)
                for name, child in reversed(children.items())
                if child is not None and not isinstance(child, torch.jit.ScriptModule)
            )


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, module in _modules(model):
        prefix = f"{path}." if path else ""
        for kind in ("_parameters", "_buffers"):
            for name, tensor in module.__dict__.get(kind, {}).items():
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


def own_names(model: nn.Module) -> Callable[[str], str]:
    """Tells the name that :func:`named_tensors` has for a tensor, of any name that leads to it.

    A module under two names has its tensors under the first one only.
    """
    known: dict[int, str] = {}
    for name, tensor in named_tensors(model):
        known.setdefault(id(tensor), name)

    def own(name: str) -> str:
        *path, leaf = name.split(".")
        module: Any = model
        for part in path:
            module = None if module is None else vars(module)["_modules"].get(part)
        kinds = () if module is None else ("_parameters", "_buffers")
        found = (vars(module)[kind].get(leaf) for kind in kinds)
        return next((known[id(tensor)] for tensor in found if tensor is not None), name)

    return own


def own_states(model: nn.Module) -> dict[str, Any]:
    """What modules keep in a state dict beside tensors, by path (``get_extra_state``)."""
    return {
        path: module.get_extra_state()
        for path, module in named_modules(model)
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
    vars(module).pop(COMPILED, None)  # what module.compile() would run hides the operators
    with suppress(AttributeError, TypeError):  # a read-only property, or a parameter of that name
        module.training = flag


def clone(model: nn.Module, tensors: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """A new model of the same classes, whose parameters and buffers are what ``tensors`` gives.

    ``tensors(name, old)`` is called once for each distinct tensor, with its first name, and must
    return a tensor that the copy may own. Sharing is kept. Objects that cannot be copied (a Python
    module, a lock) are shared with the original; what leads back to it is bound to the copy
    (:mod:`.copying`).
    """
    memo: dict[int, Any] = {}
    with exclusive():  # another thread may be running the model in its own mode
        for name, tensor in named_tensors(model):
            if id(tensor) not in memo:
                memo[id(tensor)] = _like(tensor, tensors(name, tensor))
        return Cloner(memo, parts_of(model)).module(model)


def parts_of(model: nn.Module) -> Iterator[Any]:
    """Its modules and tensors."""
    for named in (named_modules(model), named_tensors(model)):
        yield from (part for _, part in named)


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
