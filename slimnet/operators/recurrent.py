"""Recurrent layers, whole: LSTM, GRU and plain RNN, their cells, and packed sequences.

The rows of a weight are its gates, one block of units after the other: the same units leave every
gate. A unit whose weights are all zero stays at zero once it is there (tanh(0) is what enters an
LSTM's memory and a GRU's state), so removal is exact. A module has one ``hidden_size``: its layers
and both directions lose the same units, and the initial state, which holds them all, ties them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from slimnet.capture.graph import Call, refs_in
from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Axis, Labelled
from slimnet.operator import ArgumentCheck, Nothing, Products, Reading, Whole, register
from slimnet.operators.axes import concatenate
from slimnet.operators.families import NO_LINK, NOT_LINEAR, plain, slot_by_slot

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""Blocks of rows in a weight: i, f, g, o of an LSTM, r, z, n of a GRU."""


def recurrent(
    at: At,
    x: Labelled,
    start: Labelled | list[Labelled],
    weights: list[Labelled],
    biased: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> list[Axes]:
    """x [steps, batch, features] → outputs of the last layer, and the last state of every layer."""
    batch = x.axes[0 if batch_first else 1]
    at.pin(x.axes[1 if batch_first else 0], "steps along it")
    stack = _layers(weights, biased, layers, 1 + bidirectional)
    out, states = _run(at, x, batch, start, stack)
    return [(batch, None, out) if batch_first else (None, batch, out), *states]


def packed(
    at: At,
    x: Labelled,
    running: Labelled,
    start: Labelled | list[Labelled],
    weights: list[Labelled],
    biased: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
) -> list[Axes]:
    """The same for x [steps of all samples, features]."""
    at.pin(x.axes[0], "steps along it")
    out, states = _run(at, x, None, start, _layers(weights, biased, layers, 1 + bidirectional))
    return [(None, out), *states]


def cell(
    at: At,
    x: Labelled,
    start: Labelled | list[Labelled],
    ih: Labelled,
    hh: Labelled,
    *biases: Labelled | None,
) -> Axes | list[Axes]:
    """One step: x [.., features] → the next state, and of an LSTM the next memory."""
    weights = _Weights(ih, hh, tuple(bias for bias in biases if bias is not None))
    units, _ = _step(at, x.axes[-1], x.vanishes, weights)
    states = _states(start)
    for state in states:
        _starts(at, state, units)
        for ours, theirs in zip(x.axes[:-1], state.axes[:-1], strict=True):
            at.tie_if_live(ours, theirs)
    at.vanish(_all_vanish([weights], states) and x.live in ((), (len(x.shape) - 1,)))
    axes = (*x.axes[:-1], units)
    return [axes] * len(at.call.outputs)


@dataclass(frozen=True, eq=False)
class _Weights:
    """The weights of one layer in one direction."""

    ih: Labelled  # [gates · units, features]
    hh: Labelled  # [gates · units, outputs]
    biases: tuple[Labelled, ...]  # each [gates · units]
    hr: Labelled | None = None  # an LSTM's projection [outputs, units]

    @property
    def vanish(self) -> bool:
        """Whether removed slots are zero in all of them."""
        parts = [self.ih, self.hh, *self.biases, *([self.hr] if self.hr else [])]
        return all(part.vanishes for part in parts)


def _layers(
    weights: Sequence[Labelled], biased: bool, layers: int, directions: int
) -> list[list[_Weights]]:
    """Weights as torch lists them, by layer and direction."""
    each = len(weights) // (layers * directions)
    biases = 2 if biased else 0
    found = [
        _Weights(
            weights[i],
            weights[i + 1],
            tuple(weights[i + 2 : i + 2 + biases]),
            weights[i + 2 + biases] if each > 2 + biases else None,
        )
        for i in range(0, len(weights), each)
    ]
    return [found[i : i + directions] for i in range(0, len(found), directions)]


def _run(
    at: At,
    x: Labelled,
    batch: Axis,
    start: Labelled | list[Labelled],
    stack: list[list[_Weights]],
) -> tuple[Axis, list[Axes]]:
    """The features of the outputs, and the axes of the last states [layers · directions, ..]."""
    states = _states(start)
    features, zero = x.axes[-1], x.vanishes
    for layer in stack:
        parts = []
        for weights in layer:
            out, units = _step(at, features, zero, weights)
            for state, axis in zip(states, (out, units), strict=False):
                _starts(at, state, axis)
            parts.append((out, weights.hh.shape[1]))
        features = concatenate(at, parts, "hands out a fixed number")
        zero = _all_vanish(layer, states)
    for state in states:
        at.pin(state.axes[0], "keeps a state for each layer and direction")
        at.tie_if_live(state.axes[1], batch)
    at.vanish(batch is None and all(_all_vanish(layer, states) for layer in stack))
    return features, [(None, batch, state.axes[-1]) for state in states]


def _step(at: At, features: Axis, zero: bool, weights: _Weights) -> tuple[Axis, Axis]:
    """What one layer and direction hands out, and its units; they differ after a projection."""
    units = _gated(at, weights)
    _sum(at, features, zero, weights.ih)
    if weights.hr is None:
        out = units
    else:
        _sum(at, units, False, weights.hr)
        out = weights.hr.axes[0]
    _sum(at, out, False, weights.hh)
    return out, units


def _gated(at: At, weights: _Weights) -> Axis:
    """The labels of the units: the same ones leave every gate of every weight."""
    gates = GATES[at.name.removeprefix("aten.").removesuffix("_cell")]
    rows = weights.ih.axes[0]
    for other in (weights.hh, *weights.biases):
        at.tie_if_live(rows, other.axes[0])
    at.tie_blocks(rows, gates)
    return None if rows is None else rows[: len(rows) // gates]


def _sum(at: At, axis: Axis, zero: bool, weight: Labelled) -> None:
    """A product over the columns of a weight: exact where they, or what they meet, are zero."""
    at.tie_if_live(axis, weight.axes[1])
    if not (zero or weight.vanishes):
        at.pin(weight.axes[1], "sums over slots that are not zero when removed")


def _states(start: Labelled | list[Labelled]) -> list[Labelled]:
    """The initial hidden state, and of an LSTM the memory."""
    return [start] if isinstance(start, Labelled) else start


def _starts(at: At, state: Labelled, units: Axis) -> None:
    """The initial state has a slot for every unit."""
    if state.axes[-1] is None:
        at.pin(units, "starts from a state of fixed length")
    else:
        at.tie(state.axes[-1], units)


def _all_vanish(layer: Sequence[_Weights], states: Sequence[Labelled]) -> bool:
    """Whether removed units are zero at every step."""
    return all(weights.vanish for weights in layer) and all(state.vanishes for state in states)


# -------------------------------------------------------------------------- what it costs and takes


def _each_step(call: Call) -> Products:
    """At every step each weight of every layer and direction, [rows, columns], is used once.

    fvcore counts 0 here: it knows no recurrent operator.
    """
    x = call.args[0]
    steps = [(x, d) for d in range(len(x.shape) - 1)]
    matrices = [ref for ref in refs_in(call.args[2:]) if len(ref.shape) == 2]
    return [(1, [*steps, (weight, 0), (weight, 1)]) for weight in matrices]


def _per_layer(gates: int) -> ArgumentCheck:
    """Recurrent layers: first states, and weights of each layer and direction, as in torch.nn."""

    def check(args: Sequence[Any]) -> str | None:
        x, states, weights, has_biases, layers, _, _, both, batch_first = args
        told = [*states] if isinstance(states, (list, tuple)) else [states]
        sides = 2 if both else 1
        if {x.dim(), *(state.dim() for state in told)} != {3} or not 0 < layers <= len(weights):
            return f"{len(weights)} weights for {layers} layers"
        out, cells = told[0].shape[2], told[-1].shape[2]
        first: tuple[int, ...] = (layers * sides, x.shape[0 if batch_first else 1])
        wanted = [(*first, n) for n in (out, cells)[: len(told)]]
        for layer in range(layers):
            width = out * sides if layer else x.shape[2]
            wanted += _of_layer(gates * cells, width, out, cells, has_biases) * sides
        found = [tuple(tensor.shape) for tensor in (*told, *weights)]
        return None if found == wanted else "weights that are not those of its layers"

    return check


def _of_layer(
    rows: int, width: int, out: int, cells: int, has_biases: bool
) -> list[tuple[int, ...]]:
    """The shapes of one direction's weights; a projection stands last."""
    biases: list[tuple[int, ...]] = [(rows,), (rows,)] if has_biases else []
    return [(rows, width), (rows, out), *biases, *([(out, cells)] if out != cells else [])]


SEVERAL = Nothing("its gates are several products, with a state between them")
stepping = partial(
    plain,
    reading=Reading.ALL,
    zeros=Nothing("starts from a state, and has gates"),
    scaling=NOT_LINEAR,
    moves=False,
    costs={"macs": _each_step},
    reads=SEVERAL,
    layer=SEVERAL,
    link=NO_LINK,
    differentiable=False,
)
for name, gates in GATES.items():
    register(
        stepping(
            names=(f"aten.{name}.input",),
            labels=recurrent,
            whole=Whole((getattr(torch, name),), fits=lambda args: isinstance(args[3], bool)),
            permitted=_per_layer(gates),
        )
    )
    register(
        stepping(
            names=(f"aten.{name}.data",),
            labels=packed,
            whole=Whole((getattr(torch, name),), fits=lambda args: not isinstance(args[3], bool)),
            permitted="it trusts its batch sizes",
        )
    )
    register(
        stepping(
            names=(f"aten.{name}_cell",),
            labels=cell,
            whole=Whole((getattr(torch, f"{name}_cell"),)),
            permitted=True,
        )
    )

# ------------------------------------------------------------------------------- packed sequences


def pack(at: At, x: Labelled, lengths: Labelled, batch_first: bool) -> list[Axes]:
    """[steps, batch, *] → [steps of all samples, *], and how many samples each step has."""
    for axis in (*x.axes[:2], *lengths.axes):
        at.pin(axis, "packs it")
    return [(None, *x.axes[2:]), (None,)]


def pad(
    at: At, x: Labelled, running: Labelled, batch_first: bool, value: float, steps: int
) -> list[Axes]:
    """[steps of all samples, *] → [steps, batch, *], and the lengths of the samples."""
    for axis in (x.axes[0], *running.axes):
        at.pin(axis, "pads it")
    at.vanish(x.vanishes and value == 0)
    return [(None, None, *x.axes[1:]), (None,)]


packing = partial(slot_by_slot, permitted="trusts its lengths")
register(packing(names=("aten._pack_padded_sequence",), labels=pack))
register(
    packing(
        names=("aten._pad_packed_sequence",),
        labels=pad,
        zeros=lambda call: [[call.args[0]]] if call.args[3] == 0 else [],
        whole=Whole((torch._pad_packed_sequence,)),
    )
)
