"""A recorded pass as a graph: who makes a tensor, who reads it, what is computed only for it.

Takes a :class:`~slimnet.capture.trace.Trace`; sets of calls are sets of their numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import TypeAlias

from torch.utils._pytree import tree_leaves

from slimnet.capture.trace import Call, Ref, Trace
from slimnet.operator import of

Calls: TypeAlias = frozenset[int]


class Pass:
    """Who makes and who reads each recorded tensor."""

    def __init__(self, trace: Trace, never_called: Collection[str] = ()) -> None:
        self.calls = trace.calls
        self._never_called = never_called  # paths of modules that only hold others
        self.made: dict[int, Call] = {}
        self.reads: list[list[Ref]] = []
        self.readers: dict[int, set[int]] = defaultdict(set)
        self._parameters: dict[str, set[int]] = defaultdict(set)  # read by which calls
        self._before: list[int] = []  # per call, as bits: itself and all that it depends on
        self._under: dict[str, set[int]] = defaultdict(set)  # per module: its calls
        self._weights: set[int] = set()  # parameters, and what is made of them alone
        self._given = {ref.id for ref in trace.outputs}
        for call in trace.calls:
            self._read(call)
        for call in reversed(trace.calls):
            self._settle(call)

    def _read(self, call: Call) -> None:
        leaves = tree_leaves((call.args, dict(call.kwargs)))
        refs = [leaf for leaf in leaves if isinstance(leaf, Ref)]
        before = 1 << call.index
        for ref in refs:
            self.readers[ref.id].add(call.index)
            if ref.kind == "parameter" and ref.name:
                self._parameters[ref.name].add(call.index)
                self._weights.add(ref.id)
            if ref.id in self.made:
                before |= self._before[self.made[ref.id].index]
        self.reads.append(refs)
        self._before.append(before)
        for ref in call.outputs:
            self.made[ref.id] = call
        if refs and all(ref.id in self._weights for ref in refs):
            self._weights |= {ref.id for ref in call.outputs}

    def _settle(self, call: Call) -> None:
        """A call nobody reads is nobody's, such as a write into a view; later ones come first."""
        if any(self.readers.get(ref.id) or ref.id in self._given for ref in call.outputs):
            for path in _with_parents(call.site.module):
                self._under[path].add(call.index)
        else:
            for ref in self.reads[call.index]:
                self.readers[ref.id].discard(call.index)

    def only_for(self, ref: Ref, other: Ref) -> Calls:
        """The calls that ``ref`` depends on and ``other`` does not."""
        return frozenset(_places(self._history(ref) & ~self._history(other)))

    def _history(self, ref: Ref) -> int:
        return self._before[self.made[ref.id].index] if ref.id in self.made else 0

    def sources(self, calls: Calls) -> frozenset[int]:
        """The tensors that these calls read and do not make; weights do not count."""
        return frozenset(
            ref.id
            for index in calls
            for ref in self.reads[index]
            if ref.name is None
            and ref.kind != "constant"
            and (ref.id not in self.made or self.made[ref.id].index not in calls)
        )

    def parameters(self, calls: Calls) -> set[str]:
        """The parameters that these calls read."""
        read = (ref for index in calls for ref in self.reads[index])
        return {ref.name for ref in read if ref.kind == "parameter" and ref.name}

    def readers_of(self, parameter: str) -> set[int]:
        """The calls that read a parameter."""
        return self._parameters[parameter]

    def uses(self, parameter: str) -> int:
        """How often a parameter is read."""
        read = (ref for index in self._parameters[parameter] for ref in self.reads[index])
        return sum(ref.name == parameter for ref in read)

    def only_reader(self, ref: Ref) -> Call | None:
        """The one call that reads a tensor; None where there are several, or it is an output."""
        readers = self.readers.get(ref.id, set())
        alone = len(readers) == 1 and ref.id not in self._given
        return self.calls[next(iter(readers))] if alone else None

    def enclosed(self, calls: Calls, end: Ref, reader: int) -> bool:
        """Whether nothing that these calls make is read elsewhere, but ``end`` by ``reader``."""
        outside = {
            (ref.id, index)
            for call in calls
            for ref in self.calls[call].outputs
            for index in self.readers.get(ref.id, set()) - calls
        }
        given = any(ref.id in self._given for call in calls for ref in self.calls[call].outputs)
        return outside <= {(end.id, reader)} and not given

    def leaving(self, calls: Calls) -> set[int]:
        """The tensors that these calls make and others read."""
        return {
            ref.id
            for call in calls
            for ref in self.calls[call].outputs
            if ref.id in self._given or self.readers.get(ref.id, set()) - calls
        }

    def products(self, calls: Iterable[int]) -> int:
        """How many of these calls are convolutions or products with a parameter."""
        return sum(self.is_product(self.calls[index]) for index in calls)

    def is_product(self, call: Call) -> bool:
        """Whether it convolves, or multiplies matrices, with a parameter."""
        weights = (ref.id in self._weights for ref in self.reads[call.index])
        return "macs" in (of(call.op).costs or ()) and any(weights)

    def under(self, path: str) -> Calls:
        """The calls of a module and of all inside it."""
        return frozenset(self._under.get(path, ()))

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
            inner = (
                path.startswith(f"{within}." if within else "") and path not in self._never_called
            )
            if inner and self._under[path] and self._under[path] <= calls:
                return path
        return None


def base(call: Call) -> str:
    """The operator's name, the same for its in-place twin."""
    return str(call.op._schema.name).split("::")[-1].rstrip("_")


def _with_parents(path: str) -> list[str]:
    """``a.b.c``: ``a``, ``a.b``, ``a.b.c``."""
    parts = path.split(".") if path else []
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


def _places(bits: int) -> Iterable[int]:
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low
