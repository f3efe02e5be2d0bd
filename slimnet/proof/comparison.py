"""Both networks call by call: the slim network's result is what survives of the reference's.

The reference's pass leaves a row of projections for each operator; the slim network's is held
against them while it runs, so that no output can hide a wrong call behind it. Numbers that folding
multiplies are allowed for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from slimnet.capture.graph import Call, DataflowGraph
from slimnet.capture.trace import Trace
from slimnet.example import read_of
from slimnet.network import Network
from slimnet.operator import Layout, of
from slimnet.proof.projection import Projection, Projector
from slimnet.proof.reference import (
    CutContext,
    ReferenceRun,
    SlimRun,
    SurvivingPlaces,
    run_in_double,
)
from slimnet.proof.stand_ins import Values


@dataclass(frozen=True)
class OperatorRow:
    """One operator of a run: which recorded call it is, and its results (None: not comparable)."""

    op: Any
    call: Call | None
    results: tuple[Projection | None, ...]


class CollectingRun(ReferenceRun):
    """A run of the reference that keeps a row for each operator."""

    def __init__(
        self, context: CutContext, projector: Projector, seed: int, *, strict: bool
    ) -> None:
        super().__init__(context, projector.places, seed)
        self._strict = strict
        self.rows: list[OperatorRow] = []
        self.place: dict[int, int] = {}  # recorded call → row
        self.outputs: list[Tensor] = []
        self.projector = projector
        self._multiplied = context.multiplied
        self._recorded = context.trace.calls
        self._cursor: int | None = 0  # the recorded call that should come; None once another came

    @property
    def follows(self) -> bool:
        """Whether it ran what was recorded: other values may send code another way."""
        if self._cursor is None:
            return False
        return all(only_lays_out(call.op) for call in self._recorded[self._cursor :])

    def _advance(self, op: Any) -> Call | None:
        """The recorded call that this operator is; None for one that only lays out, or differs."""
        if self._cursor is None:
            return None
        place = self._cursor
        while place < len(self._recorded) and self._recorded[place].op != op:
            if not only_lays_out(self._recorded[place].op):
                break
            place += 1
        if place < len(self._recorded) and self._recorded[place].op == op:
            self._cursor = place + 1
            return self._recorded[place]
        if not only_lays_out(op):
            self._cursor = None
            if self._strict:
                raise Departed
        return None

    def tell(self, call: Call | None, op: Any, result: Any) -> None:
        """Keep a row."""
        tensors, call = tensors_in(result), self._advance(op)
        if call is None or len(call.outputs) != len(tensors):
            self.rows.append(OperatorRow(op, None, ()))
            return
        results = tuple(
            self.projector.of_reference(x, ref, self._multiplied.get(ref.id, ()))
            for x, ref in zip(tensors, call.outputs, strict=True)
        )
        self.place[call.index] = len(self.rows)
        self.rows.append(OperatorRow(op, call, results))


class ComparingRun(SlimRun):
    """A run of the slim network, compared with the reference's rows while it runs.

    ``partners`` says for a network that runs fewer calls which of the reference's each one is;
    without it, both run the same operators, but for those that only lay tensors out anew.
    """

    def __init__(
        self,
        context: CutContext,
        reference: CollectingRun,
        seed: int,
        partners: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(context, reference.projector.places, seed)
        self.outputs: list[Tensor] = []
        self.reached = 0  # rows of the reference that came up
        self.errors: dict[int, float] = {}  # row of the reference → largest relative error
        self.norms: dict[int, tuple[float, ...]] = {}  # row → of each result that was compared
        self._reference = reference
        self._partners = partners
        self._together = True  # whether it still runs what the reference ran
        self._laid: list[Any] = []  # operators since the last one that changed numbers
        self._between: list[tuple[int, list[Projection]]] = []  # their results, by row

    def tell(self, call: Call | None, op: Any, result: Any) -> None:
        """Compare with the row."""
        place = self._next(op) if self._partners is None else self._partner(call)
        if place is None:
            return
        projections = self._projected(place, result)
        if only_lays_out(op) and self._partners is None:
            self._between.append((place, projections))
        else:
            self._compare(place, projections)

    def _next(self, op: Any) -> int | None:
        """The reference's next row; another operator than its own ends the comparison."""
        rows = self._reference.rows
        if not self._together:
            return None
        if only_lays_out(op):
            place = self.reached + len(self._laid)
            self._laid.append(op)
            return place if place < len(rows) else None
        place = self.reached
        while place < len(rows) and only_lays_out(rows[place].op):
            place += 1
        if [row.op for row in rows[self.reached : place]] == self._laid:
            for row, projections in self._between:
                self._compare(row, projections)
        self._laid.clear()
        self._between.clear()
        self.reached = place
        if place == len(rows) or rows[place].op != op:
            self._together = False
            self.errors[min(place, len(rows) - 1)] = math.inf
            return None
        self.reached += 1
        return place

    def _partner(self, call: Call | None) -> int | None:
        partner = None if call is None or self._partners is None else self._partners.get(call.index)
        return None if partner is None else self._reference.place.get(partner)

    def _projected(self, place: int, result: Any) -> list[Projection]:
        """Of each tensor of a result that its row can be compared with."""
        row, tensors = self._reference.rows[place], tensors_in(result)
        if row.call is None or len(tensors) != len(row.results):
            return []
        results = zip(tensors, row.call.outputs, row.results, strict=True)
        projector = self._reference.projector
        return [projector.of_slim(x, ref) for x, ref, expected in results if expected is not None]

    def _compare(self, place: int, projections: Sequence[Projection]) -> None:
        expected = [x for x in self._reference.rows[place].results if x is not None]
        for one, other in zip(expected, projections, strict=False):
            error = one.difference(other, other.norm)
            self.errors[place] = max(error, self.errors.get(place, 0.0))
            self.norms[place] = (*self.norms.get(place, ()), other.norm)


def only_lays_out(op: Any) -> bool:
    """Whether it changes no number; then it may depend on lengths whether it runs."""
    return of(op).layout is not Layout.COMPUTES


def tensors_in(result: Any) -> list[Tensor]:
    """The tensors of an operator's result, in order."""
    outputs = result if isinstance(result, (tuple, list)) else (result,)
    return [x for x in outputs if isinstance(x, Tensor)]


def tensors_compared(trace: Trace) -> frozenset[int]:
    """The recorded tensors to compare: those that some call reads, or the network gives.

    The statistics that a norm gives as well, say, no call reads. Where no result of a call is read,
    all are compared.
    """
    read = {*trace.graph.readers, *(ref.id for ref in trace.outputs)}
    dead = (call for call in trace.calls if not any(ref.id in read for ref in call.outputs))
    return frozenset(read.union(ref.id for call in dead for ref in call.outputs))


class Departed(Exception):
    """The original runs something else than what was recorded."""


def observe(
    network: Network,
    values: Values,
    context: CutContext,
    example: tuple[Any, ...],
    seed: int,
    *,
    strict: bool = False,
) -> CollectingRun:
    """Run the original on what stands for its weights, and keep a row for each operator.

    With ``strict``, raises :class:`Departed` as soon as it runs something else than was recorded.
    """
    projector = Projector(SurvivingPlaces(context), tensors_compared(context.trace), seed)
    reference = CollectingRun(context, projector, seed, strict=strict)
    output = run_in_double(
        network, values, example, reference, seed=seed, training=context.training
    )
    reference.outputs = read_of(output, context.trace.wanted)
    return reference


def follow(
    slim: Network,
    values: Values,
    context: CutContext,
    example: tuple[Any, ...],
    seed: int,
    reference: CollectingRun,
    shorter: Shorter | None = None,
) -> ComparingRun:
    """Run the slim network on the same inputs, and hold each result against its row.

    ``shorter`` is for a network that runs fewer calls. Raises :class:`Broken` for whatever the
    network's own code raises.
    """
    own = context if shorter is None else replace(context, trace=shorter.trace)
    compared = ComparingRun(own, reference, seed, None if shorter is None else shorter.partners)
    try:
        output = run_in_double(
            slim, values, example, compared, seed=seed, training=context.training
        )
        compared.outputs = read_of(output, context.trace.wanted)
    except Exception as error:  # whatever the user's forward raises
        raise Broken(compared) from error
    return compared


def moved(
    reference: CollectingRun, other: CollectingRun, norms: Mapping[int, Sequence[float]]
) -> dict[int, float]:
    """Row → how far its results are from those of another run, relative to norms."""
    distances = {}
    for place, lengths in norms.items():
        rows = reference.rows[place].results, other.rows[place].results
        pairs = [(a, b) for a, b in zip(*rows, strict=True) if a is not None and b is not None]
        each = [a.difference(b, n) for (a, b), n in zip(pairs, lengths, strict=True)]
        distances[place] = max(each, default=0.0)
    return distances


def parameters_read(reference: CollectingRun, places: Iterable[int]) -> Iterator[str]:
    """The weights that the calls of these rows read, as they are or laid out anew."""
    laid: dict[int, str] = {}
    calls = {row.call.index for place in places if (row := reference.rows[place]).call is not None}
    for row in reference.rows:
        refs = row.call.reads if row.call is not None else ()
        names = [name for ref in refs if (name := ref.name or laid.get(ref.id))]
        if row.call is not None and only_lays_out(row.op) and names:
            laid |= {ref.id: names[0] for ref in row.call.outputs}
        if row.call is not None and row.call.index in calls:
            yield from names


class Broken(Exception):
    """The slim network does not run; how far it came is known."""

    def __init__(self, compared: ComparingRun) -> None:
        super().__init__()
        self.compared = compared


@dataclass(frozen=True, eq=False)
class Shorter:
    """The pass of a network without blocks, and which call of the original each of its calls is."""

    trace: Trace
    partners: Mapping[int, int]


def paired(whole: Trace, trace: Trace, gone: Sequence[str]) -> Shorter:
    """Pair the calls outside of modules that have gone: the k-th of an operator in a module.

    Where a module runs an operator another number of times than before, none of them is paired,
    and none of what the code around a module that has gone does itself: a part was the branch's.
    """
    before, after = (_outside(t.graph, gone) for t in (whole, trace))
    same = {key for key in before.keys() & after.keys() if len(before[key]) == len(after[key])}
    pairs = (pair for key in same for pair in zip(after[key], before[key], strict=True))
    return Shorter(trace, dict(pairs))


def _outside(graph: DataflowGraph, gone: Sequence[str]) -> dict[tuple[Any, str], list[int]]:
    around = {name.rpartition(".")[0] for name in gone}
    return {
        (op, path): [call.index for call in calls]
        for (op, path), calls in graph.by_place.items()
        if path not in around and not any(f"{path}.".startswith(f"{name}.") for name in gone)
    }
