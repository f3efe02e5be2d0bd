"""A recorded pass as a graph: calls and tensors, which call makes a tensor and which read it.

A :class:`Call` is a node, a :class:`Ref` what flows. :class:`DataflowGraph` is what a
:class:`~slimnet.capture.trace.Trace` knows of them together, worked out once, when it is first
asked for. Sets of calls are sets of their numbers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch

from slimnet.capture.sites import Site
from slimnet.operator import of

Calls: TypeAlias = frozenset[int]


@dataclass(frozen=True, eq=False)
class Ref:
    """One recorded tensor: its number, its shape, and the name of a parameter or buffer."""

    id: int
    shape: tuple[int, ...]
    name: str | None = None
    kind: str = "activation"  # parameter | buffer | input | activation | constant
    dtype: torch.dtype = torch.float32
    values: np.ndarray[Any, Any] | None = None  # of an index, and of a constant of one element
    trains: bool = False  # whether it is a parameter that asks for gradients


@dataclass(frozen=True, eq=False)
class Request:
    """The public torch function that the user's code called, with its arguments.

    An exported program calls ATen overloads: these go by the same names, without the overload's.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    overload: str = ""


@dataclass(frozen=True, eq=False)
class Call:
    """One ATen call: tensors are replaced by :class:`Ref`."""

    index: int
    op: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Ref, ...]
    site: Site
    request: Request | None

    @cached_property
    def reads(self) -> Sequence[Ref]:
        """Every tensor among its arguments, as often as it is there."""
        return refs_in((self.args, tuple(self.kwargs.values())))


def refs_in(tree: Any) -> list[Ref]:
    """Every tensor's record among some arguments."""
    if isinstance(tree, Ref):
        return [tree]
    if isinstance(tree, (list, tuple)):
        return [ref for entry in tree for ref in refs_in(entry)]
    return []


@dataclass(frozen=True, eq=False)
class DataflowGraph:
    """Which call makes each recorded tensor, and which calls read it.

    A call whose results no other reads is *idle*, such as a write into a view; so is one whose
    results only idle calls read.
    """

    calls: Sequence[Call]
    inputs: Sequence[Ref]
    outputs: Sequence[Ref]
    holders: Collection[str] = ()  # paths of modules that only hold others
    answers: dict[Any, Any] = field(default_factory=dict)
    """Results that other modules computed of this pass, by the function and its arguments."""

    @cached_property
    def made(self) -> dict[int, Call]:
        """Recorded tensor → the call that makes it."""
        return {ref.id: call for call in self.calls for ref in call.outputs}

    @cached_property
    def readers(self) -> Mapping[int, Sequence[Call]]:
        """Recorded tensor → every call that reads it, idle ones too."""
        readers: dict[int, dict[int, Call]] = defaultdict(dict)
        for call in self.calls:
            for ref in call.reads:
                readers[ref.id][call.index] = call
        return {number: list(calls.values()) for number, calls in readers.items()}

    @cached_property
    def users(self) -> Mapping[int, Calls]:
        """Recorded tensor → the calls that make something of it; nothing where there are none."""
        readers, idle = self.readers, self._idle
        return {n: frozenset(c.index for c in calls) - idle for n, calls in readers.items()}

    @cached_property
    def nth(self) -> Mapping[tuple[Any, int], Call]:
        """(operator, k) → the k-th call of that operator, from 0."""
        turns: Counter[Any] = Counter()
        calls = {}
        for call in self.calls:
            calls[call.op, turns[call.op]] = call
            turns[call.op] += 1
        return calls

    @cached_property
    def by_place(self) -> Mapping[tuple[Any, str], Sequence[Call]]:
        """(operator, module) → the calls of that operator in that module, in order."""
        calls: dict[tuple[Any, str], list[Call]] = defaultdict(list)
        for call in self.calls:
            calls[call.op, call.site.module].append(call)
        return calls

    @cached_property
    def varies(self) -> set[int]:
        """The tensors that depend on the inputs."""
        tensors = {ref.id for ref in self.inputs}
        for call in self.calls:
            if any(ref.id in tensors for ref in call.reads):
                tensors |= {ref.id for ref in call.outputs}
        return tensors

    def only_for(self, ref: Ref, other: Ref) -> Calls:
        """The calls that ``ref`` depends on and ``other`` does not."""
        return frozenset(_places(self._history(ref) & ~self._history(other)))

    def sources(self, calls: Calls) -> frozenset[int]:
        """The tensors that these calls read and do not make; weights do not count."""
        return frozenset(
            ref.id
            for index in calls
            for ref in self.calls[index].reads
            if ref.name is None
            and ref.kind != "constant"
            and (ref.id not in self.made or self.made[ref.id].index not in calls)
        )

    def parameters(self, calls: Calls) -> set[str]:
        """The parameters that these calls read."""
        refs = (ref for index in calls for ref in self.calls[index].reads)
        return {ref.name for ref in refs if ref.kind == "parameter" and ref.name}

    def readers_of(self, parameter: str) -> Calls:
        """The calls that read a parameter, idle ones too."""
        return self._parameters.get(parameter, frozenset())

    def uses(self, parameter: str) -> int:
        """How often a parameter is read."""
        refs = (ref for index in self.readers_of(parameter) for ref in self.calls[index].reads)
        return sum(ref.name == parameter for ref in refs)

    def only_reader(self, ref: Ref) -> Call | None:
        """The one call that makes something of a tensor; None of several, and of an output."""
        users = self.users.get(ref.id, frozenset())
        alone = len(users) == 1 and ref.id not in self._results
        return self.calls[next(iter(users))] if alone else None

    def enclosed(self, calls: Calls, end: Ref, reader: int) -> bool:
        """Whether nothing that these calls make is read elsewhere, but ``end`` by ``reader``."""
        outside = {
            (ref.id, index)
            for call in calls
            for ref in self.calls[call].outputs
            for index in self.users.get(ref.id, frozenset()) - calls
        }
        made = (ref for call in calls for ref in self.calls[call].outputs)
        is_result = any(ref.id in self._results for ref in made)
        return outside <= {(end.id, reader)} and not is_result

    def leaving(self, calls: Calls) -> set[int]:
        """The tensors that these calls make and others read."""
        return {
            ref.id
            for call in calls
            for ref in self.calls[call].outputs
            if ref.id in self._results or self.users.get(ref.id, frozenset()) - calls
        }

    def products(self, calls: Iterable[int]) -> int:
        """How many of these calls are convolutions or products with a parameter."""
        return sum(self.is_product(self.calls[index]) for index in calls)

    def is_product(self, call: Call) -> bool:
        """Whether it convolves, or multiplies matrices, with a parameter."""
        costly = "macs" in (of(call.op).costs or ())
        return costly and any(ref.id in self._weights for ref in call.reads)

    def under(self, path: str) -> Calls:
        """The calls of a module and of all inside it, without idle ones."""
        return self._under.get(path, frozenset())

    def modules_inside(self, calls: Calls) -> tuple[str, ...]:
        """The outermost modules all of whose calls are among these, as they run first."""
        inside: dict[str, None] = {}
        for index in sorted(calls):
            if (path := self.module_inside(index, calls)) is not None:
                inside.setdefault(path)
        return tuple(inside)

    def module_inside(self, call: int, calls: Calls, within: str = "") -> str | None:
        """The outermost module around a call, in ``within``, whose calls are all among these."""
        for path in _with_parents(self.calls[call].site.module):
            inner = path.startswith(f"{within}." if within else "") and path not in self.holders
            if inner and self.under(path) and self.under(path) <= calls:
                return path
        return None

    @cached_property
    def _results(self) -> set[int]:
        return {ref.id for ref in self.outputs}

    @cached_property
    def _idle(self) -> Calls:
        """The idle calls; found from the last one back, for what only they read is idle as well."""
        idle: set[int] = set()
        for call in reversed(self.calls):
            made = [ref.id for ref in call.outputs]
            readers = (c.index for number in made for c in self.readers.get(number, ()))
            if self._results.isdisjoint(made) and all(index in idle for index in readers):
                idle.add(call.index)
        return frozenset(idle)

    @cached_property
    def _parameters(self) -> Mapping[str, Calls]:
        readers: dict[str, set[int]] = defaultdict(set)
        for call in self.calls:
            for ref in call.reads:
                if ref.kind == "parameter" and ref.name:
                    readers[ref.name].add(call.index)
        return {name: frozenset(calls) for name, calls in readers.items()}

    @cached_property
    def _weights(self) -> set[int]:
        """Parameters, and what is made of them alone."""
        weights: set[int] = set()
        for call in self.calls:
            weights |= {ref.id for ref in call.reads if ref.kind == "parameter" and ref.name}
            if call.reads and all(ref.id in weights for ref in call.reads):
                weights |= {ref.id for ref in call.outputs}
        return weights

    @cached_property
    def _before(self) -> list[int]:
        """Per call, as bits: itself and all that it depends on."""
        histories: list[int] = []
        for call in self.calls:
            before = 1 << call.index
            for ref in call.reads:
                if ref.id in self.made:
                    before |= histories[self.made[ref.id].index]
            histories.append(before)
        return histories

    def _history(self, ref: Ref) -> int:
        return self._before[self.made[ref.id].index] if ref.id in self.made else 0

    @cached_property
    def _under(self) -> Mapping[str, Calls]:
        inside: dict[str, set[int]] = defaultdict(set)
        for call in self.calls:
            if call.index not in self._idle:
                for path in _with_parents(call.site.module):
                    inside[path].add(call.index)
        return {path: frozenset(calls) for path, calls in inside.items()}


def base(call: Call) -> str:
    """The operator's name, the same for its in-place twin."""
    return str(call.op._schema.name).split("::")[-1].rstrip("_")


def _with_parents(path: str) -> list[str]:
    """``a.b.c``: ``a``, ``a.b``, ``a.b.c``."""
    parts = path.split(".") if path else []
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


def _places(bits: int) -> Iterator[int]:
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low
