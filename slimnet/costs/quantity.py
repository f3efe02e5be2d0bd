"""What a cost is: a named quantity with its model, one row per quantity.

A model says what a network costs at any lengths of its axes: a sum of products of lengths
(:class:`Products`, as MACs, parameters and bytes are), or whatever a function of the lengths gives,
such as a latency that was measured, which need not grow with them (:class:`Model`). It is made from
:class:`CostInputs`: a network, its recorded pass, and the labels of every axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal, Protocol, TypeAlias

from torch import Tensor

from slimnet.capture.graph import Call, Ref
from slimnet.capture.trace import Trace
from slimnet.coupling.labels import Axis, Labelled
from slimnet.network import Network
from slimnet.operator import of
from slimnet.registry import Registry

SizedAxis: TypeAlias = tuple[Axis, int]
"""The labels of an axis, None where nothing of it ever leaves, and its length as it stands."""


class Model(Protocol):
    """What one quantity is, as a function of the lengths of some axes."""

    @property
    def axes(self) -> Sequence[SizedAxis]:
        """The axes whose lengths it reads."""

    def at(self, lengths: Sequence[int]) -> float:
        """The amount when :attr:`axes` are so long, each in its place."""


@dataclass(frozen=True, eq=False)
class Term:
    """factor × the product of the lengths of some axes."""

    factor: int
    axes: tuple[SizedAxis, ...]
    counts: Call | str  # the call whose work it is, or the name of the tensor that is stored


@dataclass(frozen=True, eq=False)
class Products:
    """A sum of products of lengths: whole numbers that never fall where an axis grows."""

    terms: tuple[Term, ...]

    @cached_property
    def axes(self) -> Sequence[SizedAxis]:
        """Those of all terms, end to end."""
        return [axis for term in self.terms for axis in term.axes]

    def at(self, lengths: Sequence[int]) -> int:
        """The sum."""
        total = start = 0
        for term in self.terms:
            end = start + len(term.axes)
            total += term.factor * prod(lengths[start:end])
            start = end
        return total


@dataclass(frozen=True, eq=False)
class CostInputs:
    """What a model is made from."""

    network: Network
    trace: Trace
    weights: Mapping[str, Labelled]  # by name; empty where nothing is to leave
    tensors: Mapping[int, Labelled]  # those of the pass, by the number of their record

    def axes(self, ref: Ref) -> tuple[SizedAxis, ...]:
        """Those of a recorded tensor."""
        return _sized(self.tensors.get(ref.id), ref.shape)

    def axis(self, ref: Ref, d: int) -> SizedAxis:
        """One of them."""
        labelled = self.tensors.get(ref.id)
        return (labelled.lengths[d] if labelled is not None else None), ref.shape[d]

    def counted(self, cost: str) -> Products:
        """What the records of operators (:mod:`slimnet.operator`) say of this cost."""
        terms = []
        for call in self.trace.calls:
            formula = (of(call.op).costs or {}).get(cost)
            for factor, places in formula(call) if formula is not None else ():
                axes = [self.axis(ref, d) for ref, d in places]
                terms.append(Term(factor, tuple(axes), call))
        return Products(tuple(terms))

    def stored(self, each: Callable[[Tensor], int]) -> Products:
        """The elements of every parameter and buffer, times what ``each`` says one of them is."""
        rows = [(name, axes, each(tensor)) for name, tensor, axes in self._stored]
        return Products(tuple(Term(factor, axes, name) for name, axes, factor in rows if factor))

    @cached_property
    def _stored(self) -> list[tuple[str, Tensor, tuple[SizedAxis, ...]]]:
        """Tensors that are one count once."""
        first = self.network.first
        return [
            (name, tensor, _sized(self.weights.get(name), tensor.shape))
            for name, tensor in self.network.tensors.items()
            if first[name] == name
        ]


def _sized(labelled: Labelled | None, shape: Sequence[int]) -> tuple[SizedAxis, ...]:
    labels = labelled.lengths if labelled is not None else (None,) * len(shape)
    return tuple(zip(labels, shape, strict=True))


@dataclass(frozen=True)
class Quantity:
    """One cost: what it is called, how it is written, and what it comes to."""

    label: str  # as it is printed after a number: "MACs"
    model: Callable[[CostInputs], Model] | None  # None where only a measurement tells
    budget: Literal["share", "amount"] = "share"  # what a budget of it names: what may remain
    whole: bool = True  # a number without a fraction
    brief: bool = True  # shown where there is room for one line

    def written(self, amount: float) -> str:
        """A number of it, without the label."""
        return f"{amount:,.0f}" if self.whole else f"{amount:,.4g}"


COSTS: Registry[Quantity] = Registry("cost", "slimnet.costs", folder="slimnet.costs.quantities")

_FIRST = ("macs", "params", "bytes")


def quantities(amounts: Mapping[str, Any] | None = None) -> dict[str, Quantity]:
    """Every cost by its name, in the order in which they are shown: slimnet's own, then others.

    Of ``amounts`` those that these hold; else those of which there is a model.
    """
    own = [name for name in _FIRST if name in COSTS]
    ordered = (*own, *(name for name in COSTS if name not in _FIRST))
    return {name: COSTS[name] for name in ordered if _is_known(name, amounts)}


def _is_known(name: str, amounts: Mapping[str, Any] | None) -> bool:
    return COSTS[name].model is not None if amounts is None else name in amounts


def models(inputs: CostInputs) -> dict[str, Model]:
    """What each cost is of a network."""
    return {name: q.model(inputs) for name, q in quantities().items() if q.model is not None}


def share_left(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> str:
    """What remains of a cost, in percent."""
    return f"{after[name] / (before[name] or 1):.1%}"
