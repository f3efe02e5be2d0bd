"""Multiply-adds of one pass over the example.

One MAC is one multiply-add of a convolution or matrix product (fvcore's convention for these);
norms, activations and pooling count 0.
"""

from __future__ import annotations

from slimnet.costs.quantity import COSTS, Quantity

COSTS.add("macs", Quantity("MACs", lambda inputs: inputs.counted("macs")))
