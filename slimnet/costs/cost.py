"""What a network costs: multiply-adds, parameters, bytes, for any choice of surviving atoms.

One MAC is one multiply-add of a convolution or matrix product (fvcore's convention for these);
norms, activations and pooling count 0. MACs are those of one pass over the example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import nn

from slimnet.capture.trace import Trace, capture
from slimnet.coupling.couple import Coupling
from slimnet.coupling.labels import Axis, Labelled
from slimnet.coupling.survival import Survival
from slimnet.example import Example, positional
from slimnet.network import Network
from slimnet.operator import of


@dataclass(frozen=True)
class Cost:
    """MACs of one pass over the example, parameters, and bytes of parameters and buffers."""

    macs: int
    params: int
    bytes: int

    def to_json(self) -> dict[str, int]:
        """As plain numbers."""
        return {"macs": self.macs, "params": self.params, "bytes": self.bytes}


def cost(model: nn.Module, example: Example) -> Cost:
    """The cost of a network as it stands."""
    return cost_of(Network.of(model), positional(model, example))


def cost_of(network: Network, example: tuple[Any, ...]) -> Cost:
    """The same, of a network that was walked already."""
    trace = capture(network, example)
    macs = sum(term.factor * prod(n for _, n in term.axes) for term in _mac_terms(trace, {}))
    return Cost(macs, *_stored(network))


@dataclass(frozen=True, eq=False)
class _Term:
    """factor × the product of the lengths of some axes."""

    factor: int
    axes: tuple[tuple[Axis, int], ...]


class CostModel:
    """The cost of a network as a function of what survives."""

    def __init__(self, network: Network, trace: Trace, coupling: Coupling) -> None:
        self._macs = _mac_terms(trace, coupling.tensors[0])
        self._weights = _weight_terms(network, coupling.weights)

    def cost(self, survival: Survival) -> Cost:
        """What it costs after a cut."""
        lengths: dict[int, int] = {}

        def length(axis: Axis, full: int) -> int:
            if axis is None:
                return full
            if id(axis) not in lengths:
                lengths[id(axis)] = survival.length(axis, full)
            return lengths[id(axis)]

        def total(term: _Term) -> int:
            return term.factor * prod(length(axis, n) for axis, n in term.axes)

        params = size = 0
        for term, element, is_parameter in self._weights:
            number = total(term)
            size += number * element
            params += number * is_parameter
        return Cost(sum(total(term) for term in self._macs), params, size)

    @property
    def terms(self) -> Iterator[tuple[tuple[int, int, int], tuple[tuple[Axis, int], ...]]]:
        """How often (MACs, params, bytes) count the product of the lengths of some axes."""
        for term in self._macs:
            yield (term.factor, 0, 0), term.axes
        for term, element, is_parameter in self._weights:
            yield (0, int(is_parameter), element), term.axes


def _stored(network: Network) -> tuple[int, int]:
    """Parameters, and bytes of parameters and buffers; shared ones count once."""
    tensors = {id(t): t for t in network.tensors.values()}.values()
    parameters = sum(t.numel() for t in tensors if isinstance(t, nn.Parameter))
    return parameters, sum(t.numel() * t.element_size() for t in tensors)


def _weight_terms(
    network: Network, weights: Mapping[str, Labelled]
) -> list[tuple[_Term, int, bool]]:
    modules = network.modules.values()
    parameters = {id(t) for module in modules for t in vars(module)["_parameters"].values()}
    terms = []
    for name, tensor in network.tensors.items():
        if network.first[name] != name:
            continue
        labels = weights[name].lengths if name in weights else (None,) * tensor.dim()
        axes = tuple(zip(labels, tensor.shape, strict=True))
        terms.append((_Term(1, axes), tensor.element_size(), id(tensor) in parameters))
    return terms


def _mac_terms(trace: Trace, tensors: Mapping[int, Labelled]) -> list[_Term]:
    terms = []
    for call in trace.calls:
        formula = (of(call.op).costs or {}).get("macs")
        for factor, axes in formula(call) if formula is not None else ():
            terms.append(_Term(factor, tuple(_axis(tensors, ref, d) for ref, d in axes)))
    return terms


def _axis(tensors: Mapping[int, Labelled], ref: Any, d: int) -> tuple[Axis, int]:
    labelled = tensors.get(ref.id)
    return (labelled.lengths[d] if labelled else None), ref.shape[d]
