"""Copy what a module holds so that nothing in the copy leads back to the original.

Modules, containers and the user's objects are copied deeply. What only *leads* to the network is
bound to the copy: bound methods, functions whose closures or defaults hold a part of it, partials,
weak references, compiled functions (the copy runs what they were compiled of). Anything else that
can be called, and what cannot be copied (a Python module, a lock), is shared; :func:`leading_back`
finds what leads to the original all the same.
"""

from __future__ import annotations

import copy
import copyreg
import gc
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from types import (
    BuiltinMethodType,
    CellType,
    FunctionType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import Any

import torch
from torch import Tensor, nn

COMPILED = "_compiled_call_impl"
"""Where ``module.compile()`` keeps what runs in place of its own forward."""


class Cloner:
    """A deep copy that knows modules; ``memo`` says what stands for the network's tensors."""

    def __init__(self, memo: dict[int, Any], parts: Iterable[Any]) -> None:
        self.memo = memo
        self._parts = {id(part) for part in parts}  # modules and tensors of the original
        self._kept: list[Any] = []  # keeps ids in the memo alive

    def clone(self, value: Any) -> Any:
        """The copy of anything; the thing itself where it can be shared."""
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
        try:
            return self._noted(value, self._copy_of(value))
        except Exception:  # anything a user's object may raise: share it instead
            return self._noted(value, value)

    def module(self, module: nn.Module) -> nn.Module:
        """A new module with a copy of everything that this one holds."""
        if isinstance(module, torch.jit.ScriptModule):  # what it holds lies outside of Python
            whole: nn.Module = self._noted(module, copy.deepcopy(module))
            return whole
        new = object.__new__(type(module))  # a traced module's own __new__ makes another class
        self.memo[id(module)] = new
        clone = self.clone
        new.__dict__.update(
            {name: clone(value) for name, value in vars(module).items() if name != COMPILED}
        )
        return new

    def _noted(self, value: Any, new: Any) -> Any:
        """Note the copy of a value, and give it."""
        self.memo[id(value)] = new
        self._kept.append(value)
        return new

    def _container(self, value: Any) -> Any:
        if isinstance(value, dict):
            new = self._noted(value, type(value)())
            new.update({self.clone(key): self.clone(entry) for key, entry in value.items()})
            return new
        return self._noted(value, type(value)(self.clone(entry) for entry in value))

    def _copy_of(self, value: Any) -> Any:
        for kinds, make in _COPIES.items():
            if isinstance(value, kinds):
                return make(self, value)
        if callable(value) and not leads_to(value, self._parts):
            return value
        if hasattr(type(value), "__deepcopy__"):
            return copy.deepcopy(value, self.memo)
        reduce = copyreg.dispatch_table.get(type(value))
        recipe = reduce(value) if reduce else value.__reduce_ex__(4)
        return value if isinstance(recipe, str) else self._rebuilt(value, *recipe)

    def _rebuilt(
        self,
        value: Any,
        make: Callable[..., Any],
        arguments: tuple[Any, ...],
        state: Any = None,
        items: Iterable[Any] | None = None,
        pairs: Iterable[tuple[Any, Any]] | None = None,
        *_: Any,
    ) -> Any:
        """As ``copy.deepcopy`` does it, which would share functions and weak references."""
        new = self._noted(value, make(*(self.clone(argument) for argument in arguments)))
        if state is not None:
            _restore(new, self.clone(state))
        for item in items or ():
            new.append(self.clone(item))
        for key, entry in pairs or ():
            new[self.clone(key)] = self.clone(entry)
        return new

    def _method(self, value: MethodType) -> Any:
        return MethodType(self.clone(value.__func__), self.clone(value.__self__))

    def _built_in(self, value: Any) -> Any:
        """``self.cache.append`` and the like."""
        owner = self.clone(value.__self__)
        return value if owner is value.__self__ else getattr(owner, value.__name__)

    def _function(self, value: FunctionType) -> Any:
        """A function as it is, unless it holds a part of the network."""
        plain = vars(value).get("_torchdynamo_orig_callable")
        if plain is not None:
            return self.clone(plain)
        if not leads_to(value, self._parts):
            return value
        cells = tuple(self._cell(cell) for cell in value.__closure__ or ())
        new = FunctionType(value.__code__, value.__globals__, value.__name__, None, cells or None)
        self._noted(value, new)
        new.__defaults__ = self.clone(value.__defaults__)
        new.__kwdefaults__ = self.clone(value.__kwdefaults__)
        new.__qualname__, new.__doc__ = value.__qualname__, value.__doc__
        new.__module__, new.__annotations__ = value.__module__, value.__annotations__
        new.__dict__.update(self.clone(vars(value)))
        for old, cell in zip(value.__closure__ or (), cells, strict=True):
            for content in _contents(old):  # last: a function may hold itself
                cell.cell_contents = self.clone(content)
        return new

    def _cell(self, cell: CellType) -> CellType:
        """Functions that share a variable go on sharing it."""
        copied: CellType | None = self.memo.get(id(cell))
        return copied or self._noted(cell, CellType())

    def _reference(self, value: Any) -> Any:
        target = value()
        if target is None:
            return value
        new = self.clone(target)
        return type(value)(new)

    def _weak_table(self, value: Any) -> Any:
        return type(value)({self.clone(key): self.clone(entry) for key, entry in value.items()})

    def _weak_set(self, value: Any) -> Any:
        return type(value)([self.clone(entry) for entry in value])

    def _tensor(self, value: Tensor) -> Tensor:
        """One that is no parameter and no buffer; a subclass copies itself."""
        if type(value) is not Tensor:
            return copy.deepcopy(value, self.memo)
        return value.detach().clone().requires_grad_(value.is_leaf and value.requires_grad)

    def _generator(self, value: torch.Generator) -> torch.Generator:
        return torch.Generator(value.device).set_state(value.get_state())

    def _shared(self, value: Any) -> Any:
        return value


def _restore(new: Any, state: Any) -> None:
    if hasattr(new, "__setstate__"):
        new.__setstate__(state)
        return
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if attributes:
        new.__dict__.update(attributes)
    for name, value in (slots or {}).items():
        setattr(new, name, value)


_IMMUTABLE = frozenset((bool, int, float, str, bytes))
_CONTAINERS = frozenset((dict, OrderedDict, list, tuple, set))
_COPIES: dict[Any, Callable[[Cloner, Any], Any]] = {
    (type, ModuleType): Cloner._shared,
    MethodType: Cloner._method,
    FunctionType: Cloner._function,
    (BuiltinMethodType, MethodWrapperType): Cloner._built_in,
    weakref.ref: Cloner._reference,
    (weakref.WeakKeyDictionary, weakref.WeakValueDictionary): Cloner._weak_table,
    weakref.WeakSet: Cloner._weak_set,
    Tensor: Cloner._tensor,
    torch.Generator: Cloner._generator,
}


# ------------------------------------------------------------------------- what leads to a network


def leading_back(modules: Iterable[tuple[str, nn.Module]], parts: Iterable[Any]) -> str | None:
    """The attribute that still leads from a copy to a part of its original; None where none does.

    ``modules`` are the copy's, with their paths; ``parts`` are the original's modules and tensors.
    """
    originals = {id(part) for part in parts}
    for path, module in modules:
        for name, value in vars(module).items():
            if name not in _TABLES and leads_to(value, originals):
                return f"{path}.{name}".lstrip(".")
    return None


_TABLES = ("_modules", "_parameters", "_buffers")


def leads_to(value: Any, parts: set[int]) -> bool:
    """Whether one of the parts, given by identity, can be reached from a value."""
    stack, seen = [value], {id(value)}
    while stack and len(seen) < _REACH:
        entry = stack.pop()
        if id(entry) in parts:
            return True
        for inner in _inside(entry):
            if id(inner) not in seen and type(inner) not in _IMMUTABLE:
                seen.add(id(inner))
                stack.append(inner)
    return False


_REACH = 20_000  # objects looked at; a logger or a data set may lead to the whole program


def _inside(value: Any) -> Iterable[Any]:
    """What a value holds; of a function what it closes over, and modules that it calls by name."""
    if isinstance(value, (type, ModuleType)):
        return ()
    if isinstance(value, FunctionType):
        return _inside_function(value)
    if isinstance(value, weakref.ref):
        return (value(),)
    if isinstance(value, dict) and "__builtins__" in value:
        return ()  # the global names of a file
    return gc.get_referents(value)


def _inside_function(value: FunctionType) -> Iterator[Any]:
    for cell in value.__closure__ or ():
        yield from _contents(cell)
    yield from value.__defaults__ or ()
    yield from (value.__kwdefaults__ or {}).values()
    yield from vars(value).values()
    named = (value.__globals__.get(name) for name in value.__code__.co_names)
    yield from (entry for entry in named if isinstance(entry, (nn.Module, Tensor)))


def _contents(cell: CellType) -> Iterator[Any]:
    try:
        yield cell.cell_contents
    except ValueError:  # nothing was put into it yet
        return
