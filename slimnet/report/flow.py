"""The data flow of a recorded pass: which layer reads which, and where branches meet.

Takes a :class:`~slimnet.capture.trace.Trace` and who owns each parameter, gives a :class:`Flow`:
steps in the order in which they first ran, and edges that only go forward. A step is a layer, a
place where tensors of several steps meet (an addition, a concatenation, an attention), an input, or
the output. Everything else (activations, pooling, views) is on the way and draws nothing; the norms
and raw parameters met there are *carried* by the step whose channels they act on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import Any, Literal, TypeAlias

import torch

from slimnet.capture.graph import Call, Ref
from slimnet.capture.trace import Trace
from slimnet.operator import of

Role: TypeAlias = Literal["input", "layer", "join", "output"]
Owners: TypeAlias = Mapping[str, Sequence[str]]
"""For every parameter and buffer its module, or its own name at the root; several where shared."""


@dataclass(frozen=True)
class Step:
    """Where channels are made or meet, or an end of the network."""

    role: Role
    name: str  # the layer, or the module in which a join happens
    kind: str = ""  # of a join: what it does
    carries: tuple[str, ...] = ()  # modules and raw parameters that act on what it gives


@dataclass(frozen=True)
class Flow:
    """Steps in the order in which they first ran; an edge goes from an earlier to a later one."""

    steps: tuple[Step, ...]
    edges: tuple[tuple[int, int], ...]


def read_flow(trace: Trace, owners: Owners, layers: Iterable[str]) -> Flow:
    """Which of the ``layers`` read which; those that never ran are no step.

    A layer that runs again, such as a detector's head on every scale, stays one step, and edges
    that would go back to it are left out.
    """
    reader = _FlowBuilder(owners, set(layers))
    for number, ref in enumerate(trace.inputs, 1):
        name = f"input {number}" if len(trace.inputs) > 1 else "input"
        reader.hold(ref, _Held(frozenset([reader.step("input", name)])))
    for call in trace.calls:
        reader.read(call)
    end = reader.step("output", "output")
    for ref in trace.outputs:
        reader.connect(reader.held(ref).steps, end)
    return _placed(_without_aftermath(_contracted(reader.flow())))


@dataclass(frozen=True)
class _Held:
    """What a tensor is made of: the steps it comes from, and weights that met no data yet."""

    steps: frozenset[int] = frozenset()
    layers: frozenset[str] = frozenset()  # whose weights it was computed from
    carried: frozenset[str] = frozenset()  # norms and raw parameters, the same way

    def __or__(self, other: _Held) -> _Held:
        return _Held(
            self.steps | other.steps, self.layers | other.layers, self.carried | other.carried
        )


def _union(operands: Iterable[_Held]) -> _Held:
    return reduce(or_, operands, _Held())


@dataclass(eq=False)
class _FlowBuilder:
    """Follows the calls of one trace; what a tensor holds is known by the memory it views."""

    owners: Owners
    layers: set[str]
    _steps: list[Step] = field(default_factory=list)
    _edges: dict[tuple[int, int], None] = field(default_factory=dict)
    _memory: dict[int, int] = field(default_factory=dict)  # of a view: the tensor it looks into
    _holds: dict[int, _Held] = field(default_factory=dict)
    _known: dict[Any, int] = field(default_factory=dict)

    def flow(self) -> Flow:
        """What was found."""
        return Flow(tuple(self._steps), tuple(sorted(self._edges)))

    def step(self, role: Role, name: str, kind: str = "") -> int:
        """The number of a new step."""
        self._steps.append(Step(role, name, kind))
        return len(self._steps) - 1

    def connect(self, sources: Iterable[int], target: int) -> None:
        """Edges, as far as they go forward."""
        self._edges.update({(source, target): None for source in sources if source < target})

    def held(self, ref: Ref, module: str = "") -> _Held:
        """What a tensor is made of now; tied weights belong to the ``module`` that reads them."""
        if ref.name is None:
            return self._holds.get(self._memory.get(ref.id, ref.id), _Held())
        names = self.owners.get(ref.name, ())
        layers = [name for name in names if name in self.layers]
        if not layers:
            return _Held(carried=frozenset(names[:1]))
        owner = module if module in layers else layers[0]
        return _Held(layers=frozenset([owner])) if ref.kind == "parameter" else _Held()

    def hold(self, ref: Ref, held: _Held) -> None:
        """A tensor with memory of its own."""
        self._holds[ref.id] = held

    def read(self, call: Call) -> None:
        """Follow one call."""
        operands = call.reads
        if not operands or not call.outputs or not of(call.op).reading:
            return
        read = operands[1:] if _name(call) == "copy" else operands  # the first is overwritten
        held = self._through(call, [self.held(ref, call.site.module) for ref in read])
        for ref in call.outputs:
            if call.op._schema.is_mutable:
                self._write(operands[0], ref, held)
            elif call.op.is_view and operands[0].name is None:
                self._memory[ref.id] = self._memory.get(operands[0].id, operands[0].id)
            else:
                self.hold(ref, held)

    def _write(self, target: Ref, result: Ref, held: _Held) -> None:
        """In place: the memory holds the new values, and beside a part of it also the old ones."""
        memory = self._memory[result.id] = self._memory.get(target.id, target.id)
        is_part = memory != target.id
        self._holds[memory] = held | self._holds.get(memory, _Held()) if is_part else held

    def _through(self, call: Call, operands: list[_Held]) -> _Held:
        """What a call's result is made of, after the step that the call itself may be."""
        whole = _union(operands)
        made = self._made(call, whole.layers)
        if whole.layers - made and (made or whole.steps):
            operands = [self._with_sources(held, made) for held in operands]
            whole = _union(operands)
        if not whole.steps:
            return whole
        steps = whole.steps
        if made:
            steps = frozenset(self._layer(name, whole.steps) for name in sorted(made))
        elif _is_join(call, operands):
            steps = frozenset([self._join(call, operands)])
        self._carry(max(steps), whole.carried)
        return _Held(steps)

    def _made(self, call: Call, layers: frozenset[str]) -> frozenset[str]:
        """The layers whose weights this call applies; other weights among its operands are data.

        A table of positions that is added from outside its module is data, for example.
        """
        own = frozenset(x for x in layers if x == call.site.module or x in self.owners)
        if own or torch.Tag.pointwise in call.op.tags or _name(call) in _GATHERS:
            return own
        return layers

    def _with_sources(self, held: _Held, made: frozenset[str]) -> _Held:
        """Weights that are data become steps that nothing feeds."""
        sources = frozenset(self._layer(name, ()) for name in sorted(held.layers - made))
        return _Held(held.steps | sources, held.layers & made, held.carried)

    def _layer(self, name: str, sources: Iterable[int]) -> int:
        if name not in self._known:
            self._known[name] = self.step("layer", name)
        self.connect(sources, self._known[name])
        return self._known[name]

    def _join(self, call: Call, operands: Sequence[_Held]) -> int:
        """A join of a loop that runs again on the same steps is the same join."""
        sources = tuple(held.steps for held in operands)
        key = (call.site, call.op, sources)
        if key not in self._known:
            self._known[key] = self.step("join", call.site.module, _kind(call))
        self.connect(frozenset().union(*sources), self._known[key])
        return self._known[key]

    def _carry(self, number: int, names: frozenset[str]) -> None:
        step = self._steps[number]
        new = tuple(sorted(names.difference(step.carries)))
        if new:
            self._steps[number] = replace(step, carries=step.carries + new)


def _is_join(call: Call, operands: Sequence[_Held]) -> bool:
    """Whether tensors of different steps meet; products of two tensors always count."""
    sources = [held.steps for held in operands if held.steps]
    return len(sources if _kind(call) in _PRODUCTS else set(sources)) > 1


def _name(call: Call) -> str:
    return str(call.op.name()).partition("::")[2].partition(".")[0].rstrip("_")


def _kind(call: Call) -> str:
    name = _name(call)
    if "scaled_dot_product" in name:
        return _ATTENTION
    return _MATMUL if name in ("mm", "bmm", "baddbmm", "addmm", "addbmm") else name


_ATTENTION, _MATMUL = "attention", "matmul"
_PRODUCTS = {_ATTENTION, _MATMUL}
_GATHERS = {"cat", "stack", "expand", "repeat"}


def _contracted(flow: Flow) -> Flow:
    """Joins of one module that only feed each other become one: products become an attention."""
    readers, kinds = _readers(flow), {n: [step.kind] for n, step in enumerate(flow.steps)}
    into: dict[int, int] = {}
    for number, step in enumerate(flow.steps):
        if step.role != "join" or len(readers[number]) != 1:
            continue
        (reader,) = readers[number]
        other = flow.steps[reader]
        if other.role == "join" and other.name == step.name and not step.carries:
            into[number] = reader
            kinds[reader] = kinds[number] + kinds[reader]
    steps = [
        replace(step, kind=_joint_kind(kinds[n])) if step.role == "join" else step
        for n, step in enumerate(flow.steps)
    ]
    targets = {n: n for n in range(len(steps))}
    for number in sorted(into, reverse=True):
        targets[number] = targets[into[number]]
    edges = {(targets[a], targets[b]) for a, b in flow.edges}
    return _only(Flow(tuple(steps), tuple(edges)), [n for n in range(len(steps)) if n not in into])


def _joint_kind(kinds: Sequence[str]) -> str:
    if _ATTENTION in kinds or kinds.count(_MATMUL) > 1:
        return _ATTENTION
    return " + ".join(dict.fromkeys(kinds))


def _without_aftermath(flow: Flow) -> Flow:
    """Leave out joins of joins after the last layer, such as a detector's decoding of boxes."""
    readers, steps = _readers(flow), flow.steps
    kept = {n for n, step in enumerate(steps) if step.role != "join"}
    kept.update(b for a, b in flow.edges if steps[a].role == "layer")
    leads: set[int] = set()  # to a layer
    for number in reversed(range(len(steps))):
        if any(steps[n].role == "layer" or n in leads for n in readers[number]):
            leads.add(number)
    kept |= leads
    end = len(steps) - 1
    edges = {(a, b if b in kept else end) for a, b in flow.edges if a in kept}
    return _only(Flow(steps, tuple(edges)), sorted(kept))


def _placed(flow: Flow) -> Flow:
    """A join in a plain function belongs to the module that all around it belong to."""
    around: list[list[str]] = [[] for _ in flow.steps]
    for a, b in flow.edges:
        around[a].append(flow.steps[b].name)
        around[b].append(flow.steps[a].name)
    steps = [
        replace(step, name=_common(around[n])) if step.role == "join" and not step.name else step
        for n, step in enumerate(flow.steps)
    ]
    return Flow(tuple(steps), flow.edges)


def _common(names: Sequence[str]) -> str:
    """The longest path of modules that all names share."""
    shared = []
    for parts in zip(*(name.split(".") for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _readers(flow: Flow) -> list[list[int]]:
    readers: list[list[int]] = [[] for _ in flow.steps]
    for a, b in flow.edges:
        readers[a].append(b)
    return readers


def _only(flow: Flow, kept: Sequence[int]) -> Flow:
    """The flow between some of its steps, numbered anew."""
    new = {old: number for number, old in enumerate(kept)}
    edges = {(new[a], new[b]) for a, b in flow.edges if a in new and b in new and a != b}
    return Flow(tuple(flow.steps[old] for old in kept), tuple(sorted(edges)))
