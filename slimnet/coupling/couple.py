"""Run the rules over recorded passes: which slots hang together, which stay, and why.

Takes traces of one model, gives a :class:`Coupling`. Parameters and buffers get labels of their
own on first use; inputs are inert; outputs are pinned. An operator without a rule pins what it
touches. Sizes that code states are then settled (:mod:`slimnet.coupling.settle`): they follow by
themselves, an attribute gets another value, slots are tied, or they are pinned with the line as
the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from slimnet.capture.graph import Call, Ref, refs_in
from slimnet.capture.trace import Trace
from slimnet.coupling.at import At
from slimnet.coupling.constraints import (
    Choice,
    Choices,
    Constraints,
    Reason,
    Statistic,
    View,
)
from slimnet.coupling.labels import Atoms, Axis, Labelled, Labels, Storage
from slimnet.coupling.removal import Removal
from slimnet.coupling.requirements import AttributeFix, Multiple
from slimnet.coupling.scaling import path_to
from slimnet.coupling.settle import Settled, settle
from slimnet.errors import PruneError
from slimnet.operator import OPERATORS, of


@dataclass(frozen=True, eq=False)
class Remap:
    """An integer buffer that points into an axis, whose slots get new places."""

    name: str
    axis: Labels


@dataclass(frozen=True, eq=False)
class Coupling:
    """The solved labels of a network, and what its calls ask of a cut."""

    atoms: Atoms
    weights: Mapping[str, Labelled]  # parameters and buffers that were used
    tensors: Sequence[Mapping[int, Labelled]]  # per trace: every recorded tensor
    reasons: Sequence[Reason]
    statistics: Sequence[Statistic]
    undefined: Sequence[Statistic]  # calls that give no number where slots are removed
    balanced: Sequence[Statistic]  # calls that need the same places in each block of an axis
    counted: Sequence[Statistic]  # calls that need the same number in each block of an axis
    # (trace, call) → the axes along which the reference runs it on what survives; None: all
    restricted: Mapping[tuple[int, int], Sequence[Labels] | None]
    fixes: Sequence[AttributeFix]
    remaps: Sequence[Remap]
    squeezed: Sequence[Labels]  # made by convolutions of one single position
    multiples: Sequence[Multiple] = ()  # atoms that leave in steps
    whole_heads: int = 0  # views of attention that were read as whole heads
    # weights of grouped convolutions → groups, which lose other columns: axis 1 has a label for
    # each input channel
    apart: Mapping[str, int] = field(default_factory=dict)

    def reasons_of(self, atoms: Labels) -> dict[Reason, int]:
        """Why these atoms stay, the most frequent reason first, and for how many of them."""
        numbers, counts = np.unique(self.atoms.reason[atoms], return_counts=True)
        return {
            self.reasons[numbers[i]]: int(counts[i])
            for i in np.argsort(-counts, kind="stable")
            if numbers[i] >= 0
        }


@dataclass(frozen=True)
class Pin:
    """A pin that was found by trying a cut: slots behind a call of a trace stay."""

    call: int
    because: str
    trace: int = 0
    outputs_only: bool = False  # what the call reads may go


def couple(
    traces: Sequence[Trace],
    *,
    strict: bool = False,
    pins: Sequence[Pin] = (),
    heads: bool = False,
    removals: Mapping[str, Removal] | None = None,
) -> Coupling:
    """Group the slots of a network from recorded passes.

    With ``heads``, attention loses whole heads instead of a part of the width of each. The groups
    of a convolution lose the same columns; others where the same ones could leave only all at once
    or not at all, or where ``removals``, what a plan takes of such weights, says so. Raises
    :class:`PruneError` with ``strict`` where an operator has no rule.
    """
    attempt = partial(_attempt, traces, strict, pins)
    best = _best_views(partial(attempt, {}), heads)
    stuck = best.stuck_weights() if removals is None else removals
    apart = best.only_convolved(stuck, traces)
    if apart:
        other = _best_views(partial(attempt, apart), heads)
        best = other if removals or other.is_as_fine_as(best) else best
    return best.coupling()


def _best_views(attempt: Callable[[Choices], _Attempt], heads: bool) -> _Attempt:
    """The reading of views that lets most slots leave."""
    best = attempt({})
    whole = best.attended() if heads else {}
    if whole:
        best = attempt(whole)
    for _ in range(_ROUNDS):
        others = [attempt(choices) for choices in best.other_readings(frozenset(whole))]
        better = max(others, key=lambda attempt: attempt.freedom, default=best)
        if better.freedom <= best.freedom:
            break
        best = better
    return replace(best, whole_heads=len(whole))


_ROUNDS = 3  # of other readings for views that ended up pinned; each starts from the best so far


@dataclass(frozen=True, eq=False)
class _Attempt:
    """What the rules gave for one reading of the views, settled."""

    constraints: Constraints
    weights: Mapping[str, Labelled]
    tensors: Sequence[Mapping[int, Labelled]]
    settled: Settled
    whole_heads: int = 0  # views of attention that were read as whole heads

    @property
    def atoms(self) -> Atoms:
        """The solved ties."""
        return self.settled.atoms

    @cached_property
    def freedom(self) -> int:
        """How many slots of parameters may be removed."""
        return sum(
            int(self.atoms.free[self.atoms.of[axis]].sum())
            for weight in self.weights.values()
            for axis in weight.axes
            if axis is not None
        )

    def is_as_fine_as(self, other: _Attempt) -> bool:
        """Whether as many slots may leave, in as many parts."""
        parts, others = (int(x.atoms.free.sum()) for x in (self, other))
        return self.freedom >= other.freedom and parts >= others

    def stuck_weights(self) -> dict[str, Removal]:
        """Of grouped convolutions whose input can leave only whole, or not at all.

        There the other reading can only be finer: what it ties was tied, or stayed, already.
        """
        stuck = (g for g in self.constraints.grouped if self._is_stuck(g.channels))
        return {g.weight: Removal(groups=g.groups) for g in stuck}

    def only_convolved(
        self, removals: Mapping[str, Removal], traces: Sequence[Trace]
    ) -> dict[str, Removal]:
        """Those of some weights that nothing but convolutions of so many groups reads."""
        reads = Counter(
            ref.name
            for trace in (traces if removals else ())
            for call in trace.calls
            for ref in refs_in((call.args, tuple(call.kwargs.values())))
        )
        grouped = Counter((g.weight, g.groups) for g in self.constraints.grouped)
        return {
            name: removal
            for name, removal in removals.items()
            if 0 < reads[name] == grouped[name, removal.groups]
        }

    def _is_stuck(self, axis: Labels) -> bool:
        atoms = self.atoms.of[axis]
        return len(np.unique(atoms[self.atoms.free[atoms]])) < 2

    def attended(self) -> Choices:
        """Views that gave the labels to the width of heads: now the axis of the heads gets them."""
        widths = {self._slots(axis) for axis in self.constraints.attended}
        views = self.constraints.open_choices.items()
        return {key: view.next for key, view in views if self._slots(view.labels) in widths}

    def other_readings(self, fixed: Collection[View]) -> list[Choices]:
        """Views that ended up pinned, read anew: each its next way, or all alike.

        What meets has to agree: queries and keys that name their sizes in different ways want the
        innermost of their axes, or the outermost.
        """
        stuck = {
            key: view
            for key, view in self.constraints.open_choices.items()
            if key not in fixed and not self.atoms.free[self.atoms.of[view.labels]].any()
        }
        now = {key: view.chosen for key, view in stuck.items()}
        readings: list[Choices] = []
        for read in _READINGS:
            others = {key: read(view) for key, view in stuck.items()}
            if others != now and others not in readings:
                readings.append(others)
        return [{**self.constraints.choices, **others} for others in readings]

    def _slots(self, axis: Labels) -> tuple[int, ...]:
        return tuple(np.sort(self.atoms.of[axis]).tolist())

    def coupling(self) -> Coupling:
        constraints = self.constraints
        names = {id(weight): name for name, weight in self.weights.items()}
        return Coupling(
            self.atoms,
            self.weights,
            self.tensors,
            constraints.reasons,
            constraints.statistics,
            constraints.undefined,
            constraints.balanced,
            constraints.counted,
            constraints.restricted,
            self.settled.fixes,
            [
                Remap(names[id(index)], axis)
                for index, axis in constraints.remaps
                if id(index) in names
            ],
            constraints.squeezed,
            self.settled.multiples,
            self.whole_heads,
            {name: removal.groups for name, removal in constraints.apart.items()},
        )


def _attempt(
    traces: Sequence[Trace],
    strict: bool,
    pins: Sequence[Pin],
    apart: Mapping[str, Removal],
    choices: Choices,
) -> _Attempt:
    constraints = Constraints(choices=choices, apart=apart)
    weights: dict[str, Labelled] = {}
    tensors = []
    for number, trace in enumerate(traces):
        constraints.trace = number
        tensors.append(_Labeller(trace, constraints, weights, strict).run())
        for equality in trace.equalities:
            constraints.found_equal(equality)
    for pin in pins:
        _pin_call(constraints, traces[pin.trace].calls[pin.call], tensors[pin.trace], pin)
    return _Attempt(constraints, weights, tensors, settle(constraints, tensors))


def _pin_call(
    constraints: Constraints, call: Call, tensors: Mapping[int, Labelled], pin: Pin
) -> None:
    """Pin every axis at a call."""
    read = () if pin.outputs_only else call.reads
    refs = [*call.outputs, *read]
    for ref in refs:
        for axis in tensors[ref.id].axes if ref.id in tensors else ():
            if axis is not None:
                constraints.pin(axis, pin.because, call.site)


_READINGS: Sequence[Callable[[Choice], int]] = (
    lambda view: view.next,
    lambda view: max(view.axes),
    lambda view: min(view.axes),
)


class _Labeller:
    """Runs the rules over one trace, call by call."""

    def __init__(
        self, trace: Trace, constraints: Constraints, weights: dict[str, Labelled], strict: bool
    ) -> None:
        self.trace = trace
        self.constraints = constraints
        self.weights = weights
        self.strict = strict
        self.tensors: dict[int, Labelled] = {}

    def run(self) -> dict[int, Labelled]:
        """The labels of every recorded tensor."""
        for call in self.trace.calls:
            self._call(call)
        for ref in self.trace.outputs:
            for axis in self._labelled(ref).axes:
                if axis is not None:
                    self.constraints.pin(axis, "it is an output of the network")
        self._fold()
        return self.tensors

    def _fold(self) -> None:
        """A length whose number cannot be folded into weights stays."""
        folded = self.constraints.folded
        for call, axis, text in folded:
            if all(
                path_to(self.trace, call, operand) is None for operand in refs_in(call.args[:2])
            ):
                self.constraints.pin(axis, f"{text}, and no weight can make up for it", call.site)
        folded.clear()

    def _call(self, call: Call) -> None:
        args = tuple(self._argument(arg) for arg in call.args)
        kwargs = {key: self._argument(value) for key, value in call.kwargs.items()}
        operands = _labelled((args, tuple(kwargs.values())))
        self.constraints.vanishing = all(x.vanishes for x in operands)
        if call.outputs:
            outputs = self._outputs(call, args, kwargs, operands)
            for ref, axes in zip(call.outputs, outputs, strict=True):
                self.tensors[ref.id] = Labelled(
                    ref.shape, axes, self._storage(call, ref, operands), ref.dtype
                )

    def _outputs(
        self, call: Call, args: Any, kwargs: Any, operands: list[Labelled]
    ) -> list[tuple[Axis, ...]]:
        at = At(self.constraints, call)
        rule = of(call.op).labels
        if not rule:
            return self._unknown(at, operands, "; ".join([rule.why, *OPERATORS.broken.values()]))
        try:
            result = rule(at, *args, **kwargs)
        except (TypeError, ValueError, IndexError, KeyError) as error:
            return self._unknown(at, operands, f"is used in a way its rule does not know ({error})")
        outputs = result if isinstance(result, list) else [result]
        if not _fits(call.outputs, outputs):
            return self._unknown(at, operands, "is used in a way its rule does not know")
        return outputs

    def _unknown(self, at: At, operands: list[Labelled], because: str) -> list[tuple[Axis, ...]]:
        """No rule, no guess: everything that it touches stays."""
        if self.strict and any(x.live for x in operands):
            raise PruneError(
                f"{at.call.op} {because} ({at.call.site}); register one with @slimnet.rule "
                "(README, “Add an operator”), or prune without strict"
            )
        for operand in operands:
            for axis in operand.axes:
                at.pin(axis, because)
        self.constraints.vanishing = False
        return [(None,) * len(ref.shape) for ref in at.call.outputs]

    def _storage(self, call: Call, ref: Ref, operands: list[Labelled]) -> Storage:
        """Views and in-place results share their operand's storage."""
        flag = self.constraints.vanishing
        if operands and call.op._schema.is_mutable:
            storage = operands[0].storage
            partial = int(np.prod(ref.shape)) < storage.size
            storage.vanishes = flag and (storage.vanishes or not partial)
            return storage
        if operands and call.op.is_view and (flag or not operands[0].vanishes):
            return operands[0].storage  # a slot that a view spreads is another's, and not zero
        return Storage(flag, int(np.prod(ref.shape)))

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Ref):
            return self._labelled(value)
        if isinstance(value, (list, tuple)):
            return [self._argument(entry) for entry in value]
        return value

    def _labelled(self, ref: Ref) -> Labelled:
        labelled = self.weights.get(ref.name) if ref.name else self.tensors.get(ref.id)
        if labelled is None:
            labelled = self._new(ref)
        if ref.name:
            self.tensors[ref.id] = labelled
        if ref.values is not None:
            self.constraints.values[id(labelled)] = ref.values
        return labelled

    def _new(self, ref: Ref) -> Labelled:
        """A parameter or buffer gets labels; inputs and constants are inert."""
        size = int(np.prod(ref.shape))
        if ref.name is None:
            axes: tuple[Axis, ...] = (None,) * len(ref.shape)
            self.tensors[ref.id] = Labelled(ref.shape, axes, Storage(False, size), ref.dtype)
            return self.tensors[ref.id]
        apart = self.constraints.apart.get(ref.name, Removal())
        axes = tuple(
            self.constraints.ledger.fresh(apart.length(d, ref.shape)) for d in range(len(ref.shape))
        )
        storage = Storage(ref.kind == "parameter", size)
        self.weights[ref.name] = Labelled(ref.shape, axes, storage, ref.dtype)
        return self.weights[ref.name]


def _labelled(tree: Any) -> list[Labelled]:
    if isinstance(tree, Labelled):
        return [tree]
    if isinstance(tree, (list, tuple)):
        return [x for entry in tree for x in _labelled(entry)]
    return []


def _fits(refs: Sequence[Ref], outputs: Sequence[tuple[Axis, ...]]) -> bool:
    """Whether labels have the lengths of what the operator really gave."""
    return len(refs) == len(outputs) and all(
        len(axes) == len(ref.shape)
        and all(axis is None or len(axis) == n for axis, n in zip(axes, ref.shape, strict=True))
        for ref, axes in zip(refs, outputs, strict=True)
    )
