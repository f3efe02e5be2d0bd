"""What a network costs: multiply-adds, parameters, bytes, for any choice of surviving atoms.

One MAC is one multiply-add of a convolution or matrix product (fvcore's convention for these);
norms, activations and pooling count 0. MACs are those of one pass over the example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from slimnet.capture.modules import named_modules, named_tensors
from slimnet.capture.trace import Call, Trace, capture, refs_in
from slimnet.coupling.couple import Coupling
from slimnet.coupling.labels import Axis, Labelled
from slimnet.example import Example, positional

aten = torch.ops.aten

_Products: TypeAlias = list[tuple[int, list[tuple[Any, int]]]]
"""Per matrix product: a factor, and the axes (tensor, dimension) whose lengths it multiplies."""
_Formula: TypeAlias = Callable[[Call], _Products]


@dataclass(frozen=True)
class Cost:
    """MACs of one pass over the example, parameters, and bytes of parameters and buffers."""

    macs: int
    params: int
    bytes: int

    def to_json(self) -> dict[str, int]:
        """As plain numbers."""
        return {"macs": self.macs, "params": self.params, "bytes": self.bytes}


def count(model: nn.Module, example: Example) -> Cost:
    """The cost of a network as it stands."""
    trace = capture(model, positional(model, example))
    macs = sum(term.factor * prod(n for _, n in term.axes) for term in _mac_terms(trace, {}))
    return Cost(macs, *_stored(model))


@dataclass(frozen=True, eq=False)
class _Term:
    """factor × the product of the lengths of some axes."""

    factor: int
    axes: tuple[tuple[Axis, int], ...]


class CostModel:
    """The cost of a network as a function of which atoms survive."""

    def __init__(self, model: nn.Module, trace: Trace, coupling: Coupling) -> None:
        self._atoms = coupling.atoms
        self._macs = _mac_terms(trace, coupling.tensors[0])
        self._weights = _weight_terms(model, coupling.weights)

    def cost(self, alive: np.ndarray[Any, np.dtype[np.bool_]]) -> Cost:
        """The cost when ``alive`` [atoms] survive."""
        lengths: dict[int, int] = {}

        def length(axis: Axis, full: int) -> int:
            if axis is None:
                return full
            if id(axis) not in lengths:
                lengths[id(axis)] = int(alive[self._atoms.of[axis]].sum())
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


def _stored(model: nn.Module) -> tuple[int, int]:
    """Parameters, and bytes of parameters and buffers; shared ones count once."""
    tensors = {id(t): t for _, t in named_tensors(model)}.values()
    parameters = sum(t.numel() for t in tensors if isinstance(t, nn.Parameter))
    return parameters, sum(t.numel() * t.element_size() for t in tensors)


def _weight_terms(
    model: nn.Module, weights: Mapping[str, Labelled]
) -> list[tuple[_Term, int, bool]]:
    parameters = {id(t) for _, m in named_modules(model) for t in vars(m)["_parameters"].values()}
    seen: set[int] = set()
    terms = []
    for name, tensor in named_tensors(model):
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        labels = weights[name].lengths if name in weights else (None,) * tensor.dim()
        axes = tuple(zip(labels, tensor.shape, strict=True))
        terms.append((_Term(1, axes), tensor.element_size(), id(tensor) in parameters))
    return terms


def _mac_terms(trace: Trace, tensors: Mapping[int, Labelled]) -> list[_Term]:
    terms = []
    for call in trace.calls:
        formula = _FORMULAS.get(call.op)
        if formula is not None:
            for factor, axes in formula(call):
                terms.append(_Term(factor, tuple(_axis(tensors, ref, d) for ref, d in axes)))
    return terms


def _axis(tensors: Mapping[int, Labelled], ref: Any, d: int) -> tuple[Axis, int]:
    labelled = tensors.get(ref.id)
    return (labelled.lengths[d] if labelled else None), ref.shape[d]


def _convolution(call: Call) -> _Products:
    """Output positions × kernel × output channels × input channels of each group."""
    weight, out, transposed = call.args[1], call.outputs[0], call.args[6]
    spatial = len(weight.shape) - 2
    channel = len(out.shape) - spatial - 1
    kernel = prod(weight.shape[2:])
    if transposed:  # every input element meets the kernel of each output of its group
        x = call.args[0]
        positions = prod(x.shape) // x.shape[channel]
        return [(positions * kernel, [(x, channel), (weight, 1)])]
    positions = prod(out.shape) // out.shape[channel]
    return [(positions * kernel, [(out, channel), (weight, 1)])]


def _product(first: int) -> _Formula:
    """[.., n, k] · [.., k, m], the operands starting at argument ``first``."""

    def formula(call: Call) -> _Products:
        a, b = call.args[first], call.args[first + 1]
        left = [(a, d) for d in range(len(a.shape))]
        return [(1, left + ([(b, len(b.shape) - 1)] if len(b.shape) > 1 else []))]

    return formula


def _attention(call: Call) -> _Products:
    """q · kᵀ, then the weights · v."""
    q, k, v = call.args[:3]
    last = len(q.shape) - 1
    rows = [(q, d) for d in range(last)]
    return [(1, [*rows, (q, last), (k, last - 1)]), (1, [*rows, (v, last - 1), (v, last)])]


def _recurrent(call: Call) -> _Products:
    """At every step each weight of every layer and direction, [rows, columns], is used once.

    fvcore counts 0 here: it knows no recurrent operator.
    """
    x = call.args[0]
    steps = [(x, d) for d in range(len(x.shape) - 1)]
    matrices = [ref for ref in refs_in(call.args[2:]) if len(ref.shape) == 2]
    return [(1, [*steps, (weight, 0), (weight, 1)]) for weight in matrices]


_FORMULAS: dict[Any, _Formula] = {
    aten.convolution.default: _convolution,
    aten.mm.default: _product(0),
    aten.bmm.default: _product(0),
    aten.mv.default: _product(0),
    aten.addmm.default: _product(1),
    aten.baddbmm.default: _product(1),
    aten.scaled_dot_product_attention.default: _attention,
    **dict.fromkeys(
        (
            *(aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input),
            *(aten.lstm.data, aten.gru.data, aten.rnn_tanh.data, aten.rnn_relu.data),
            *(aten.lstm_cell.default, aten.gru_cell.default),
            *(aten.rnn_tanh_cell.default, aten.rnn_relu_cell.default),
        ),
        _recurrent,
    ),
}
