"""Attributes that no recorded call reads: what another method makes of them after the cut.

``fuse``, ``generate`` or an exporter's ``forward`` read ``self.in_channels`` long after the cut,
and the proof never sees it. An attribute that a method of its class names is mended where it can
only be one width: all axes as long as it, of every tensor in its module, have one length after the
cut too; or it has the name and the value that torch's own layers inside keep of theirs, and all of
those become the same. What could be several widths is said, not guessed.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimnet.capture.books import books
from slimnet.capture.graph import Call, Ref
from slimnet.capture.sizes import AttributeOf, leaves
from slimnet.capture.trace import Trace, source
from slimnet.coupling.couple import Coupling
from slimnet.coupling.labels import Axis
from slimnet.coupling.survival import Survival
from slimnet.network import Network, own_attributes
from slimnet.plan.plan import AttributeChange, Plan


@dataclass(frozen=True)
class Bystanders:
    """What is mended beside what the recorded pass reads, and what might have to be."""

    changes: tuple[AttributeChange, ...] = ()
    doubtful: tuple[str, ...] = ()

    def unchanged(self) -> Bystanders:
        """The same, where the changes were too much: somebody reads them as they were."""
        names = (f"{AttributeOf(c.module, c.attribute)} = {c.old}" for c in self.changes)
        return Bystanders((), (*self.doubtful, *names))

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for the plan, where there is something to say."""
        some = ", ".join(self.doubtful[:4]) + (", …" if len(self.doubtful) > 4 else "")
        text = (
            f"{some}: left, though a width of that number was cut: which one another method means "
            "by it cannot be told, so check it before you call that method"
        )
        return (text,) if self.doubtful else ()


NONE = Bystanders()


def bystanders(
    network: Network,
    trace: Trace,
    coupling: Coupling,
    plan: Plan,
    survival: Survival,
) -> Bystanders:
    """Find them, for a cut by ``plan`` that leaves ``survival``."""
    read = _read(trace) | {(change.module, change.attribute) for change in plan.changes}
    lengths = _Lengths(network.tensors, trace, coupling, survival)
    inner = _Inner(network.modules, plan)
    named_by = cache(_named_by_methods)  # for this network only: classes may be written anew
    changes: list[AttributeChange] = []
    doubtful: list[str] = []
    for path, kind, name, value in _integers(network.modules):
        after = lengths.after(path, value)
        if (path, name) in read or after <= {value} or name not in named_by(kind):
            continue
        one = after if len(after) == 1 else inner.after(path, name, value)
        if len(one) == 1:
            changes.append(AttributeChange(path, name, (), value, *one))
        else:
            doubtful.append(f"{AttributeOf(path, name)} = {value}")
    return Bystanders(tuple(c for c in changes if c.new != c.old), tuple(doubtful))


def _integers(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, type, str, int]]:
    """The integer attributes of the users' modules that could be a width."""
    for path, module in modules.items():
        if not type(module).__module__.startswith("torch."):
            for name, value in own_attributes(module):
                if isinstance(value, (int, np.integer)) and value > 1:
                    yield path, type(module), name, int(value)


def _read(trace: Trace) -> set[tuple[str, str]]:
    """The attributes that arrived in a call of the pass, or that it compared."""
    sources = [source(number) for call in trace.calls for number in _numbers(call)]
    sources += [equality.source for equality in trace.equalities]
    read = (leaf for x in sources if x is not None for leaf in leaves(x))
    return {(leaf.module, leaf.name) for leaf in read if isinstance(leaf, AttributeOf)}


def _numbers(call: Call) -> Iterator[Any]:
    asked = (call.request.args, dict(call.request.kwargs)) if call.request else ()
    for leaf in tree_leaves((call.args, dict(call.kwargs), asked)):
        yield from (leaf.start, leaf.stop, leaf.step) if isinstance(leaf, slice) else (leaf,)


class _Lengths:
    """For every module and length: what the axes of that length, of all tensors in it, become."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        trace: Trace,
        coupling: Coupling,
        survival: Survival,
    ) -> None:
        self._survival = survival
        self._left: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for name, tensor in tensors.items():
            weight = coupling.weights.get(name)
            axes = weight.lengths if weight else (None,) * tensor.dim()
            self._add(name.rpartition(".")[0], tuple(tensor.shape), axes)
        for call in trace.calls:
            for ref in (leaf for leaf in tree_leaves((call.args, call.outputs))):
                labelled = coupling.tensors[0].get(ref.id) if isinstance(ref, Ref) else None
                if labelled is not None:
                    self._add(call.site.module, labelled.shape, labelled.lengths)

    def _add(self, path: str, shape: Sequence[int], axes: Sequence[Axis]) -> None:
        parts = path.split(".") if path else []
        for length, axis in zip(shape, axes, strict=True):
            left = self._survival.length(axis, length)
            for depth in range(len(parts) + 1):
                self._left[".".join(parts[:depth])][length].add(left)

    def after(self, path: str, length: int) -> set[int]:
        """The lengths after the cut; empty where the module has none of this length."""
        return self._left[path][length]


class _Inner:
    """What torch's own layers inside a module keep of their widths, before and after."""

    def __init__(self, modules: Mapping[str, nn.Module], plan: Plan) -> None:
        self._books: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        for path, module in modules.items():
            if type(module).__module__.startswith("torch.nn."):
                before, after = _books_of(module), _books_of(_cut(path, module, plan))
                self._books.append((path, before, after))

    def after(self, path: str, name: str, value: int) -> set[int]:
        """What an attribute of this name and value becomes in the layers inside."""
        prefix = f"{path}." if path else ""
        return {
            after[name]
            for inner, before, after in self._books
            if inner.startswith(prefix) and before.get(name) == value and name in after
        }


def _books_of(module: nn.Module) -> dict[str, Any]:
    try:
        return books(module)
    except (AttributeError, IndexError, TypeError):  # a weight that something else makes
        return {}


def _cut(path: str, module: nn.Module, plan: Plan) -> nn.Module:
    """A stand-in with the shapes and attributes that the layer will have."""
    stand = object.__new__(type(module))
    stand.__dict__.update(vars(module))
    for change in plan.changes:
        if change.module == path and not change.path:
            stand.__dict__[change.attribute] = change.new
    for table in ("_parameters", "_buffers"):
        stand.__dict__[table] = {
            name: tensor if tensor is None else _shortened(tensor, f"{path}.{name}", plan)
            for name, tensor in vars(module)[table].items()
        }
    return stand


def _shortened(tensor: Tensor, name: str, plan: Plan) -> Tensor:
    return torch.empty(plan.of(name.lstrip(".")).after(tensor.shape), device="meta")


def _named_by_methods(kind: type) -> set[str]:
    """What the methods of the user's class, beside its constructor, name."""
    users = (base for base in kind.__mro__ if not base.__module__.startswith(_NOT_USERS))
    members = (m for base in users for key, m in vars(base).items() if key not in _TELLING)
    return {name for m in members if inspect.isfunction(m) for name in _names(m.__code__)}


_NOT_USERS = ("torch.", "builtins")
_TELLING = ("__init__", "extra_repr")  # they say what it was made with


def _names(code: CodeType) -> set[str]:
    """The names in a function's code, and in what is defined inside it."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)
