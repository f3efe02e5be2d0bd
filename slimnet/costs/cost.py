"""What a network costs: an amount of every registered quantity, after any cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from slimnet.capture.trace import Trace, capture
from slimnet.costs.quantity import CostInputs, Model, models
from slimnet.coupling.couple import Coupling
from slimnet.coupling.labels import Axis
from slimnet.coupling.survival import Survival
from slimnet.example import Example, positional
from slimnet.network import Network


@dataclass(frozen=True)
class Cost:
    """The amount of every quantity, by its name (:data:`~slimnet.costs.quantity.COSTS`)."""

    amounts: Mapping[str, float]

    @property
    def macs(self) -> int:
        """Multiply-adds of one pass over the example."""
        return int(self.amounts["macs"])

    @property
    def params(self) -> int:
        """Elements of parameters."""
        return int(self.amounts["params"])

    @property
    def bytes(self) -> int:
        """Of parameters and buffers as they are stored."""
        return int(self.amounts["bytes"])

    def __repr__(self) -> str:
        amounts = ", ".join(f"{name}={amount}" for name, amount in self.amounts.items())
        return f"Cost({amounts})"

    def to_json(self) -> dict[str, float]:
        """As plain numbers."""
        return dict(self.amounts)


def cost(model: nn.Module, example: Example) -> Cost:
    """The cost of a network as it stands."""
    return cost_of(Network.of(model), positional(model, example))


def cost_of(network: Network, example: tuple[Any, ...]) -> Cost:
    """The same, of a network that was walked already."""
    known = models(cost_inputs(network, example))
    return Cost({name: model.at([n for _, n in model.axes]) for name, model in known.items()})


def cost_inputs(network: Network, example: tuple[Any, ...]) -> CostInputs:
    """What models are made from, of a network as it stands."""
    return CostInputs(network, capture(network, example), {}, {})


class CostModel:
    """The cost of a network as a function of what survives."""

    def __init__(self, network: Network, trace: Trace, coupling: Coupling) -> None:
        inputs = CostInputs(network, trace, coupling.weights, coupling.tensors[0])
        self.models: Mapping[str, Model] = models(inputs)

    def cost(self, survival: Survival) -> Cost:
        """What it costs after a cut."""
        lengths: dict[int, int] = {}  # by the identity of an axis' labels

        def length(axis: Axis, before: int) -> int:
            if axis is None:
                return before
            if id(axis) not in lengths:
                lengths[id(axis)] = survival.length(axis, before)
            return lengths[id(axis)]

        return Cost(
            {
                name: model.at([length(*axis) for axis in model.axes])
                for name, model in self.models.items()
            }
        )
