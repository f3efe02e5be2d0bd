"""Bytes of parameters and buffers as they are stored; those that layers share count once."""

from __future__ import annotations

from slimnet.costs.quantity import COSTS, Quantity

COSTS.add(
    "bytes",
    Quantity(
        "bytes",
        lambda inputs: inputs.stored(lambda x: x.element_size()),
        budget="amount",
        brief=False,
    ),
)
