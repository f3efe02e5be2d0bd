"""Run a network in float64 on weights that stand for its own, call by call as it was recorded.

Everything is widened *while it runs*: a mode exchanges each weight at the moment of use, and
neither model is changed. The reference computes calls that depend on all channels (LayerNorm,
softmax over channels …) on those that survive, so that they can be compared too; the slim network's
random numbers are those of the reference that survive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map

from slimnet.capture.composites import OPENED, composite, is_composite, is_whole, opened
from slimnet.capture.graph import Call, Ref
from slimnet.capture.modules import evaluation_mode
from slimnet.capture.randomness import drawing_from
from slimnet.capture.trace import AtenMode, Trace, fast_paths_off, outside_transforms
from slimnet.coupling.couple import Coupling
from slimnet.coupling.labels import Labels
from slimnet.coupling.scaling.boxes import Box
from slimnet.coupling.survival import Survival
from slimnet.network import Network
from slimnet.operator import Double, Layout, draws, of
from slimnet.plan.plan import Plan, surviving
from slimnet.proof.stand_ins import Values, widened
from slimnet.quiet import unwarned

Scaled: TypeAlias = "tuple[Box, float]"
"""A part of a recorded tensor, and what folding multiplies it by in the slim network."""


@dataclass(frozen=True, eq=False)
class CutContext:
    """What a check needs to know about the original: a recorded pass, its labels, what leaves."""

    trace: Trace
    coupling: Coupling
    plan: Plan
    multiplied: Mapping[int, tuple[Scaled, ...]] = field(default_factory=dict)  # by tensor
    number: int = 0  # which of the coupling's passes it is
    training: bool = False  # whether it was recorded in training mode

    @cached_property
    def survival(self) -> Survival:
        """What the plan leaves."""
        return surviving(self.coupling, self.plan)


class SurvivingPlaces:
    """Which places of each recorded tensor are left, along the axes that lose some."""

    def __init__(self, context: CutContext) -> None:
        self._context = context
        self._places: dict[int, dict[int, Tensor]] = {}

    def of(self, ref: Ref) -> dict[int, Tensor]:
        """Axis → the places that survive; only axes that lose some."""
        if ref.id not in self._places:
            along = self._context.survival.along
            self._places[ref.id] = {
                d: torch.from_numpy(np.flatnonzero(alive))
                for d, axis in self._axes(ref)
                if not (alive := along(axis)).all()
            }
        return self._places[ref.id]

    def _axes(self, ref: Ref) -> Iterator[tuple[int, Labels]]:
        labelled = self._context.coupling.tensors[self._context.number].get(ref.id)
        for d, axis in enumerate(labelled.lengths if labelled else ()):
            if axis is not None:
                yield d, axis

    def along(self, ref: Ref, over: Sequence[Labels] | None) -> dict[int, Tensor]:
        """The same, only along axes of these labels, or of such as are tied to them (None: all)."""
        if over is None:
            return self.of(ref)
        of = self._context.coupling.atoms.of
        wanted = [of[axis] for axis in over]
        mine = {
            d for d, axis in self._axes(ref) if any(map(partial(np.array_equal, of[axis]), wanted))
        }
        return {d: places for d, places in self.of(ref).items() if d in mine}

    def touch(self, call: Call) -> bool:
        """Whether a call reads or gives a tensor that loses something."""
        return any(self.of(ref) for ref in (*call.reads, *call.outputs))


AxisPlaces: TypeAlias = Mapping[int, Tensor]
"""Axis → the places that survive along it."""


def selected(value: Tensor, places: AxisPlaces) -> Tensor:
    """What survives."""
    for d, kept in places.items():
        value = value.index_select(d, kept.to(value.device))
    return value


def spread(value: Tensor, places: AxisPlaces, shape: Sequence[int]) -> Tensor:
    """What survives, back in its places of a tensor of this shape; zero elsewhere."""
    for d, kept in places.items():
        full = value.new_zeros((*value.shape[:d], shape[d], *value.shape[d + 1 :]))
        value = full.index_copy_(d, kept.to(value.device), value)
    return value


def with_tensors(change: Callable[[Tensor, Ref], Tensor], value: Any, recorded: Any) -> Any:
    """An argument, its tensors changed by what was recorded of them."""
    if isinstance(value, Tensor) and isinstance(recorded, Ref):
        return change(value, recorded)
    if isinstance(value, (list, tuple)) and isinstance(recorded, (list, tuple)):
        return [with_tensors(change, v, r) for v, r in zip(value, recorded, strict=True)]
    return value


def carried(call: Call, output: Ref, places: Callable[[Ref], AxisPlaces]) -> dict[int, Tensor]:
    """Where the places of a result come from: those of an operand's axis of the same length.

    Of operators that give each place what they compute for that place. The labels that a rule gave
    to the result are not asked: they are what is to be proven.
    """
    along: dict[int, Tensor] = {}
    for ref in call.reads:
        for d, kept in places(ref).items():
            place = d + len(output.shape) - len(ref.shape)  # broadcast from the back
            if place >= 0 and output.shape[place] == ref.shape[d]:
                along.setdefault(place, kept)
    return along


def agree(call: Call, places: Callable[[Ref], AxisPlaces]) -> bool:
    """Whether the same places of all operands survive, broadcast from the back."""
    first: dict[tuple[int, int], Tensor] = {}  # (axis from the back, length) → places
    return all(
        torch.equal(first.setdefault((len(ref.shape) - d, ref.shape[d]), kept), kept)
        for ref in call.reads
        for d, kept in places(ref).items()
    )


class DoubleRun:
    """How the calls of one run are computed, and what becomes of their results.

    A call is recognised as the k-th one of its operator, as in the recorded pass. Conversions do
    not count: there are other ones where everything is float64.
    """

    def __init__(self, context: CutContext | None = None, seed: int = 0) -> None:
        self._seed = seed
        self._seen: Counter[Any] = Counter()
        self._calls = context.trace.graph.nth if context else {}

    def __call__(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute one operator; hand its result to :meth:`tell`."""
        number = self._seen[op]
        self._seen[op] += 1
        call = None if of(op).layout is Layout.CONVERTS else self._calls.get((op, number))
        if draws(op) or is_whole(op):
            torch.manual_seed(self._seed + crc32(f"{op} {number}".encode()))
        result = self.compute(call, op, args, kwargs)
        self.tell(call, op, result)
        return result

    def compute(
        self, call: Call | None, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The operator's result."""
        return in_double(op, args, kwargs)

    def tell(self, call: Call | None, op: Any, result: Any) -> None:
        """What the run does with a result: nothing, unless a subclass compares it."""


def in_double(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An operator's result, in float64."""
    double = of(op).double
    if double is Double.SINGLE:  # both sides round to the same coarse grid
        return tree_map(widened, op(*tree_map(_narrowed, args), **kwargs))
    result = (double if callable(double) else op)(*args, **kwargs)
    if double is Double.ZEROS:  # what lies in unset memory is chance
        return result.to(torch.float64).zero_() if _is_narrow(result) else result.zero_()
    if _is_narrow(result) and "dtype" in {argument.name for argument in op._schema.arguments}:
        return op(*args, **{**kwargs, "dtype": torch.float64})  # a new tensor, of torch's default
    return result


def _is_narrow(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in _NARROW


def run_in_double(
    network: Network,
    values: Values,
    example: tuple[Any, ...],
    how: DoubleRun,
    *,
    seed: int = 0,
    training: bool = False,
) -> Any:
    """What the model gives on the example, in float64 with these values for its weights.

    Every random number is drawn from ``seed``; what the user's generators would draw next stays.
    """
    weights = _WeightValues(network.names, values)
    with (
        torch.no_grad(),
        evaluation_mode(network, training=training),
        fast_paths_off(),
        drawing_from(seed),
        unwarned(),
    ):
        wide = tree_map(_own, example)
        doubles = _Wide(weights, how)
        with doubles, _Exchanged(weights, doubles):
            return network.model(*wide)


def _own(leaf: Any) -> Any:
    """A copy: a forward may write into its input."""
    return widened(leaf.clone()) if isinstance(leaf, Tensor) else leaf


class _WeightValues:
    """What stands for a weight at the moment of use."""

    def __init__(self, names: Mapping[int, str], values: Values) -> None:
        self.values = values
        self.names = names

    def exchange(self, value: Any) -> Any:
        """An argument in which every weight is exchanged and every float is a double."""
        if isinstance(value, Tensor):
            name = self.names.get(id(value))
            with _disable_current_modes(), outside_transforms():  # this is no work of the network's
                stand = widened(value) if name is None else self.values(name, value)
                # matmul chooses its operators by whether a weight asks for gradients
                return stand.requires_grad_() if value.requires_grad else stand
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            return type(value)(self.exchange(entry) for entry in value)
        return value


class _Exchanged(TorchFunctionMode):
    """Exchanges weights where a public function is called: some check types before they run."""

    def __init__(self, weights: _WeightValues, wide: _Wide) -> None:
        super().__init__()
        self.weights = weights
        self.wide = wide

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _READS and func != _DATA:
            answer = func(*args, **kwargs)
            return torch.float64 if func == _DTYPE and answer in _NARROW else answer
        exchange = self.weights.exchange
        named = {key: exchange(value) for key, value in kwargs.items()}
        wide = tuple(exchange(arg) for arg in args)
        op = composite(func, args)
        if op is not None:
            with _disable_current_modes():
                return self.wide.how(op, wide, named)
        if func in OPENED:
            with self:
                return opened(func)(*wide, **named)
        return func(*wide, **named)


_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
_DTYPE = Tensor.dtype.__get__  # type: ignore[attr-defined]
_READS = {"__get__", "size", "dim", "numel", "is_floating_point", "is_complex", "stride"}


class _Wide(AtenMode):
    """Lets the run compute every operator, in float64."""

    def __init__(self, weights: _WeightValues, how: DoubleRun) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = weights
        self.how = how

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if is_composite(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        exchange = self.weights.exchange
        args = tuple(exchange(arg) for arg in args)
        kwargs = {key: exchange(value) for key, value in (kwargs or {}).items()}
        if kwargs.get("dtype") in _NARROW:
            kwargs["dtype"] = torch.float64
        return self.how(func, args, kwargs)


_NARROW = (torch.float32, torch.float16, torch.bfloat16)


def _narrowed(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


class ReferenceRun(DoubleRun):
    """The original: calls that depend on all channels run on those that survive."""

    def __init__(self, context: CutContext, places: SurvivingPlaces, seed: int = 0) -> None:
        super().__init__(context, seed)
        self.places = places
        self._restricted = {
            index: over
            for (number, index), over in context.coupling.restricted.items()
            if number == context.number
        }

    def compute(
        self, call: Call | None, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """On what survives, and back in its places, where the call depends on all channels."""
        if call is None or call.index not in self._restricted or not self.places.touch(call):
            return in_double(op, args, kwargs)
        over = self._restricted[call.index]

        def places(ref: Ref) -> AxisPlaces:
            return self.places.along(ref, over)

        if over is None and not agree(call, places):
            return in_double(op, args, kwargs)  # the slim network pairs what the original does not

        def select(value: Tensor, ref: Ref) -> Tensor:
            return selected(value, places(ref))

        small = with_tensors(select, list(args), call.args)
        named = {k: with_tensors(select, v, call.kwargs.get(k)) for k, v in kwargs.items()}
        restate = of(op).restate
        result = op(*(restate(args, small, named) if restate else small), **named)
        results = result if isinstance(result, (tuple, list)) else (result,)
        whole = tuple(
            _back(x, ref, carried(call, ref, places))
            for x, ref in zip(results, call.outputs, strict=True)
        )
        return whole if isinstance(result, (tuple, list)) else whole[0]


def _back(value: Tensor, ref: Ref, places: AxisPlaces) -> Tensor:
    """A result in its places, along the axes that it kept."""
    kept = {d: p for d, p in places.items() if d < value.dim() and value.shape[d] == len(p)}
    return spread(value, kept, ref.shape)


class SlimRun(DoubleRun):
    """The slim network: what it draws at random are the reference's numbers that survive."""

    def __init__(self, context: CutContext, places: SurvivingPlaces, seed: int = 0) -> None:
        super().__init__(context, seed)
        self.places = places

    def compute(
        self, call: Call | None, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """As the operator does, but for random numbers: drawn for all places, then selected."""
        if call is None or not draws(op) or not self.places.touch(call):
            return in_double(op, args, kwargs)
        output = call.outputs[0]
        places = carried(call, output, self.places.of) or self.places.of(output)
        full = [
            [output.shape[d] if d in places else n for d, n in enumerate(value)]
            if _are_sizes(value)
            else with_tensors(self._spread, value, recorded)
            for value, recorded in zip(args, call.args, strict=True)
        ]
        named = {k: with_tensors(self._spread, v, call.kwargs.get(k)) for k, v in kwargs.items()}
        result = in_double(op, full, named)
        if op._schema.is_mutable:
            return args[0].copy_(selected(result, places))
        if isinstance(result, (tuple, list)):
            return tuple(selected(x, places) for x in result)
        return selected(result, places)

    def _spread(self, value: Tensor, ref: Ref) -> Tensor:
        return spread(value, self.places.of(ref), ref.shape)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(entry, int) for entry in value)
