"""What a layer of the slim network should answer, said in what the original's layer answers.

Usually the channels that are left. Where the cut multiplied a layer's rows (the root of a width
that shrank), as many times as much; where a head of attention is narrower, the best mixture of all
of its channels (:mod:`slimnet.repairs.heads`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slimnet.plan.plan import Plan
from slimnet.plan.rebuild import scaled
from slimnet.reconstruction.consumers import Consumer
from slimnet.reconstruction.forms import Form
from slimnet.repairs.heads import Mixing, left_columns, left_outputs


@dataclass(frozen=True, eq=False)
class Wanted:
    """The outputs of a slim layer [n, O'] from those of the original's [n, O]."""

    left: Tensor  # [O'] int64: the output channels that are left, in the slim network's order
    factors: Tensor | None = None  # [O'], where the cut multiplied
    mixed: Tensor | None = None  # [O', O], where outputs are mixtures

    def of(self, outputs: Tensor) -> Tensor:
        """[n, O'] of [n, O]."""
        mixed = (
            self.channels(outputs) if self.mixed is None else outputs @ self.mixed.mT.to(outputs)
        )
        return mixed if self.factors is None else mixed * self.factors.to(outputs)

    @property
    def is_selection(self) -> bool:
        """Whether it is nothing but channels that are left."""
        return self.factors is None and self.mixed is None

    def channels(self, outputs: Tensor) -> Tensor:
        """The same of a tensor that the outputs are added to: the channels that are left."""
        return outputs.index_select(1, self.left.to(outputs.device))


def can_be_wanted(layer: Consumer, plan: Plan, shape: Sequence[int]) -> bool:
    """Whether it is known how the cut multiplied a layer: all of it, or its rows with its bias."""
    axes = {scale.axis for scale in plan.scaled.get(layer.weight, ())}
    with_it = layer.constants is None or (layer.constants in plan.scaled) == bool(axes)
    return with_it and axes <= {_output_axis(layer, shape)}


def wanted_of(
    layer: Consumer, form: Form, plan: Plan, shape: Sequence[int], mixings: Sequence[Mixing] = ()
) -> Wanted:
    """Of a layer whose weight has this ``shape`` in the original and this ``form`` as it is cut."""
    left = left_outputs(layer, form, plan, shape)
    factors = None
    if layer.weight in plan.scaled:
        rows = scaled(layer.weight, torch.ones(plan.of(layer.weight).after(shape)), plan)
        factors = form.matrix(rows)[:, :, 0].flatten()
    count = int(layer.form.output_channels(shape).max()) + 1
    return Wanted(left, factors, _mixed(left, count, mixings) if mixings else None)


def start_weight(
    layer: Consumer, wanted: Wanted, plan: Plan, weight: Tensor, columns: Sequence[Mixing] = ()
) -> Tensor:
    """The weight by which a layer in one block answers what is wanted, where inputs do not err.

    Args:
        layer: in the original.
        wanted: of it.
        plan: says what of its weight is left.
        weight: the original's.
        columns: what its inputs are mixtures of, where they are.
    """
    matrix = layer.form.matrix(weight.detach())[0].double()  # [O, D]
    left = left_columns(layer, plan, weight.shape)
    read = matrix @ _mixed(left, matrix.shape[1], columns).mT.to(matrix.device)
    slim = wanted.of(read.mT).mT[None]
    return layer.form.weight(slim, plan.of(layer.weight).after(weight.shape))


def _mixed(left: Tensor, count: int, mixings: Sequence[Mixing]) -> Tensor:
    """[left, count] float64: what is left as mixtures of so many channels."""
    mixed = torch.zeros(len(left), count, dtype=torch.float64)
    mixed[torch.arange(len(left)), left] = 1
    places = torch.zeros(count, dtype=torch.long)
    places[left] = torch.arange(len(left))
    for mixing in mixings:
        rows = places[mixing.left]
        mixed[rows] = 0
        mixed[rows[:, None], mixing.channels] = mixing.weights
    return mixed


def _output_axis(layer: Consumer, shape: Sequence[int]) -> int | None:
    """The axis of a weight that counts its outputs; None where there is one output."""
    channels = layer.form.output_channels(shape)
    for axis, length in enumerate(shape):
        if length > 1 and not torch.equal(channels.select(axis, 0), channels.select(axis, 1)):
            return axis
    return None
