"""A model walked once: its modules by path, its parameters and buffers by name, and who owns them.

Takes the user's module, gives a :class:`Network`: a value that everything below the public
functions reads in place of the module's own methods, which users' classes hide or redefine; the
walk reads ``_modules``, ``_parameters`` and ``_buffers`` only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn


class Held(nn.Module):
    """A layer of which only the tensors are known, and what operators take them for.

    ``roles`` says of a tensor that it is a "weight" [out, in, …], a "transposed" one [in, out, …],
    or the "scale" of a batch norm; ``kind`` is the name of the class that it had, or the operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kind = ""
        self.roles: dict[str, str] = {}


@dataclass(frozen=True, eq=False)
class Owner:
    """The module that a parameter or buffer belongs to; of a parametrised one the layer itself."""

    path: str
    module: nn.Module
    leaf: str  # what the module calls it

    @property
    def kind(self) -> str:
        """The name of the module's class, also of one that is only :class:`Held`."""
        return self.module.kind if isinstance(self.module, Held) else type(self.module).__name__


@dataclass(frozen=True, eq=False)
class Network:
    """A model as it was when it was walked.

    The tensors are the model's own, so what is written into them is seen. It is stale once a module
    is replaced, or a parameter or buffer exchanged, added or taken away: then a new one has to be
    made of the model. Nothing keeps one between two calls of public functions.
    """

    model: nn.Module
    modules: Mapping[str, nn.Module]
    """Every module once, by its (first) path, parents first.

    Not the scripted parts: what they hold lies outside of Python, and they are copied as a whole.
    """
    tensors: Mapping[str, Tensor]
    """Every parameter and buffer by its path; a shared one under each of its names."""
    names: Mapping[int, str]
    """By the identity of a parameter or buffer, the first of its names."""

    @classmethod
    def of(cls, model: nn.Module) -> Network:
        """Walk a model as it stands."""
        modules = dict(_modules(model))
        tensors = dict(_tensors(modules))
        names: dict[int, str] = {}
        for name, tensor in tensors.items():
            names.setdefault(id(tensor), name)
        return cls(model, modules, tensors, names)

    @property
    def name(self) -> str:
        """The name of the model's class."""
        return type(self.model).__name__

    @cached_property
    def first(self) -> dict[str, str]:
        """For every name of a parameter or buffer the first name of the same tensor."""
        return {name: self.names[id(tensor)] for name, tensor in self.tensors.items()}

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The tensors that can be trained, under each of their names."""
        return {name: t for name, t in self.tensors.items() if isinstance(t, nn.Parameter)}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every parameter and buffer."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    @cached_property
    def owners(self) -> dict[str, Owner]:
        """For every parameter and buffer its module."""
        return {name: Owner(path, self.modules[path], leaf) for name, path, leaf in self._places}

    @property
    def _places(self) -> Iterator[tuple[str, str, str]]:
        for name in self.tensors:
            path, inside, leaf = name.partition(".parametrizations.")
            if inside:
                yield name, path, leaf.partition(".")[0]
            else:
                path, _, leaf = name.rpartition(".")
                yield name, path, leaf

    @property
    def device(self) -> torch.device:
        """Where the first parameter or buffer is; the CPU for a network without any."""
        return next((t.device for t in self.tensors.values()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype | None:
        """The type of the first parameter of real numbers, else buffer; None without any."""
        real = [t for t in self.tensors.values() if t.is_floating_point()]
        own = [t.dtype for t in real if isinstance(t, nn.Parameter)]
        return next(iter([*own, *(t.dtype for t in real)]), None)

    def own_name(self, name: str) -> str:
        """The first name of a tensor, of any name that leads to it; the name itself if none does.

        A module under two names has its tensors in :attr:`tensors` under the first one only.
        """
        *path, leaf = name.split(".")
        module: nn.Module | None = self.model
        for part in path:
            module = None if module is None else vars(module)["_modules"].get(part)
        tables = () if module is None else (vars(module)[table] for table in _TABLES)
        tensor = next((t for table in tables if (t := table.get(leaf)) is not None), None)
        return self.names.get(id(tensor), name)


_TABLES = ("_parameters", "_buffers")


TABLES = frozenset(vars(nn.Module()))
"""The attributes that every module has: torch's own tables, not the user's."""


def own_attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a user's class, or torch's, has set on a module."""
    for name, value in list(vars(module).items()):
        if name not in TABLES:
            yield name, value


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


def _tensors(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    for path, module in modules.items():
        prefix = f"{path}." if path else ""
        for table in _TABLES:
            for name, tensor in module.__dict__.get(table, {}).items():
                if tensor is not None:
                    yield prefix + name, tensor
