"""Elements of parameters; those that layers share count once."""

from __future__ import annotations

from torch import nn

from slimnet.costs.quantity import COSTS, Quantity

COSTS.add(
    "params",
    Quantity("parameters", lambda inputs: inputs.stored(lambda x: isinstance(x, nn.Parameter))),
)
