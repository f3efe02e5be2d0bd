"""Run the operators' rules over recorded passes: which slots leave together, which stay, and why.

A slot is one index of one axis of a tensor, such as one channel; each has a label. Takes the traces
of one model, gives a :class:`Coupling`. Parameters and buffers get new labels on first use. Inputs
and constants get none: their lengths do not change. Outputs of the network that somebody reads are
pinned. An operator without a rule pins all that it reads.

Then :mod:`slimnet.coupling.settle` looks at sizes that code states, such as the arguments of
``view``: each changes with the tensors by itself, or an attribute gets another value, or slots are
tied, or they are pinned and the line of code is the reason.

A view may be read in several ways: of the axes that it splits one into, any may carry the labels.
So the rules run several times, and the reading that lets most slots leave is kept.
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
from slimnet.coupling.projections import projected
from slimnet.coupling.removal import Removal
from slimnet.coupling.requirements import AttributeFix, Multiple
from slimnet.coupling.scaling import path_to
from slimnet.coupling.settle import Settled, settle
from slimnet.errors import PruneError
from slimnet.operator import OPERATORS, of


@dataclass(frozen=True, eq=False)
class Remap:
    """An integer buffer that holds indices of an axis; they change when slots of it leave."""

    name: str
    axis: Labels


@dataclass(frozen=True, eq=False)
class Coupling:
    """Which slots of a network leave together or stay, and what its calls require of a cut."""

    atoms: Atoms
    weights: Mapping[str, Labelled]  # parameters and buffers that were used
    tensors: Sequence[Mapping[int, Labelled]]  # per trace: every recorded tensor by its number
    reasons: Sequence[Reason]
    statistics: Sequence[Statistic]
    undefined: Sequence[Statistic]  # calls that give no number (0/0) where slots are zeroed
    balanced: Sequence[Statistic]  # calls that need the same places kept in each block of an axis
    counted: Sequence[Statistic]  # calls that need as many slots kept in each block of an axis
    # (trace, call) → axes; the proof's reference runs the call on their surviving slots only
    # (None: on those of every axis)
    restricted: Mapping[tuple[int, int], Sequence[Labels] | None]
    fixes: Sequence[AttributeFix]
    remaps: Sequence[Remap]
    squeezed: Sequence[Labels]  # channels of convolutions that read maps of one single position
    multiples: Sequence[Multiple] = ()  # atoms of which only a multiple of some number may leave
    whole_heads: int = 0  # views in attention whose slots are whole heads
    # weight of a grouped convolution → its number of groups, where each group may lose different
    # columns: axis 1 then has a label for each input channel, not for each column
    apart: Mapping[str, int] = field(default_factory=dict)

    def reasons_of(self, atoms: Labels) -> dict[Reason, int]:
        """Why these atoms stay: reason → number of atoms, the most frequent first."""
        numbers, counts = np.unique(self.atoms.reason[atoms], return_counts=True)
        return {
            self.reasons[numbers[i]]: int(counts[i])
            for i in np.argsort(-counts, kind="stable")
            if numbers[i] >= 0
        }


@dataclass(frozen=True)
class Pin:
    """Keep all slots at a call, because the proof of a cut failed there."""

    call: int
    because: str
    trace: int = 0
    outputs_only: bool = False  # slots of what the call reads may still leave


def couple(
    traces: Sequence[Trace],
    *,
    strict: bool = False,
    pins: Sequence[Pin] = (),
    heads: bool = False,
    removals: Mapping[str, Removal] | None = None,
) -> Coupling:
    """Group the slots of a network from recorded passes.

    With ``heads``, attention loses whole heads instead of a part of the width of each. All groups
    of a grouped convolution lose the same columns. Where these could leave only all at once or not
    at all, each group may lose different ones; with ``removals`` (weight → what a plan removes)
    that holds for these weights instead. Raises :class:`PruneError` with ``strict`` where an
    operator has no rule.
    """
    attempt = partial(_attempt, traces, strict, pins)
    best = _best_views(partial(attempt, {}), heads)
    stuck = best.stuck_weights() if removals is None else removals
    apart = best.only_convolved(stuck, traces)
    if apart:
        other = _best_views(partial(attempt, apart), heads)
        best = other if removals or other.is_no_coarser_than(best) else best
    return best.coupling()


def _best_views(attempt: Callable[[Choices], _Attempt], heads: bool) -> _Attempt:
    """The reading of views that lets most slots leave: the best first, then others for some."""
    best = attempt({})
    whole = best.whole_heads_reading() if heads else {}
    if whole:
        best = attempt(whole)
    for _ in range(_ROUNDS):
        others = [attempt(choices) for choices in best.other_readings(frozenset(whole))]
        better = max(others, key=lambda attempt: attempt.freedom, default=best)
        if better.freedom <= best.freedom:
            break
        best = better
    return replace(best, whole_heads=len(whole))


_ROUNDS = 3  # in which pinned views are read in other ways; each starts from the best so far


@dataclass(frozen=True, eq=False)
class _Attempt:
    """What the rules give for one reading of the views."""

    constraints: Constraints
    weights: Mapping[str, Labelled]
    tensors: Sequence[Mapping[int, Labelled]]
    settled: Settled
    whole_heads: int = 0  # views in attention whose slots are whole heads

    @property
    def atoms(self) -> Atoms:
        """The sets of slots that leave together."""
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

    def is_no_coarser_than(self, other: _Attempt) -> bool:
        """Whether at least as many slots may leave, in at least as many separate sets."""
        sets, others = (int(x.atoms.free.sum()) for x in (self, other))
        return self.freedom >= other.freedom and sets >= others

    def stuck_weights(self) -> dict[str, Removal]:
        """Weights of grouped convolutions whose input channels leave all at once, or not at all.

        Labels per input channel can only help them: all that these tie is tied, or pinned, now.
        """
        stuck = (g for g in self.constraints.grouped if self._is_stuck(g.channels))
        return {g.weight: Removal(groups=g.groups) for g in stuck}

    def only_convolved(
        self, removals: Mapping[str, Removal], traces: Sequence[Trace]
    ) -> dict[str, Removal]:
        """Those weights that only convolutions read, with the same number of groups each time."""
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
        """Whether fewer than two separate sets of its slots may leave."""
        atoms = self.atoms.of[axis]
        return len(np.unique(atoms[self.atoms.free[atoms]])) < 2

    def whole_heads_reading(self) -> Choices:
        """For each view that splits channels into heads: the labels go to the axis of the heads.

        These are the views in which the width of a head, which attention sums over, has them now.
        """
        widths = {self._sorted_atoms(axis) for axis in self.constraints.attended}
        views = self.constraints.open_choices.items()
        return {key: view.next for key, view in views if self._sorted_atoms(view.labels) in widths}

    def other_readings(self, fixed: Collection[View]) -> list[Choices]:
        """Other choices for the views that are pinned now.

        In one, each takes its next axis; in the others all take the last, or all the first. Tensors
        that are multiplied, such as queries and keys, need labels on the same axis, also where the
        code splits them by different views.
        """
        stuck = {
            key: view
            for key, view in self.constraints.open_choices.items()
            if key not in fixed and not self.atoms.free[self.atoms.of[view.labels]].any()
        }
        chosen = {key: view.chosen for key, view in stuck.items()}
        readings: list[Choices] = []
        for read in _READINGS:
            others = {key: read(view) for key, view in stuck.items()}
            if others != chosen and others not in readings:
                readings.append(others)
        return [{**self.constraints.choices, **others} for others in readings]

    def _sorted_atoms(self, axis: Labels) -> tuple[int, ...]:
        return tuple(np.sort(self.atoms.of[axis]).tolist())

    def coupling(self) -> Coupling:
        """The result, without what only the search needs."""
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
    """Pin every axis of a call's results and, unless ``outputs_only``, of what it reads."""
    read = () if pin.outputs_only else call.reads
    refs = [*call.outputs, *read]
    for ref in refs:
        for axis in tensors[ref.id].axes if ref.id in tensors else ():
            if axis is not None:
                constraints.pin(axis, pin.because, call.site)


# ways to choose another axis for the labels of a pinned view
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
        """The labels of every recorded tensor, by its number."""
        for call in self.trace.calls:
            self._call(call)
        for ref in self.trace.read:
            for axis in self._labelled(ref).axes:
                if axis is not None:
                    self.constraints.pin(axis, "it is an output of the network")
        self._pin_unfoldable()
        self._pin_projected()
        return self.tensors

    def _pin_projected(self) -> None:
        """Pin what a softmax shares out over places that a frozen weight gives a meaning each."""
        for axis, call in projected(self.trace, self.constraints.shared_out):
            because = "weighs a softmax over it by numbers that are not trained"
            self.constraints.pin(axis, f"{At(self.constraints, call).name} {because}", call.site)
        self.constraints.shared_out.clear()

    def _pin_unfoldable(self) -> None:
        """Pin axes from whose length a call takes a factor (1/√d) that no weight can absorb."""
        for call, axis, text in self.constraints.folded:
            if all(
                path_to(self.trace, call, operand) is None for operand in refs_in(call.args[:2])
            ):
                self.constraints.pin(axis, f"{text}, and no weight can make up for it", call.site)
        self.constraints.folded.clear()

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
        """An operator that cannot be followed: all that it reads stays, its results are inert."""
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
        """What a result shares with its operand where it is a view, or written in place.

        After a write into a part of a tensor, its removed slots hold zeros only if they did before.
        """
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
        """Labels for a parameter or buffer; none for an input or a constant."""
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
    """Whether a rule's labels have the shapes of the recorded results."""
    return len(refs) == len(outputs) and all(
        len(axes) == len(ref.shape)
        and all(axis is None or len(axis) == n for axis, n in zip(axes, ref.shape, strict=True))
        for ref, axes in zip(refs, outputs, strict=True)
    )
