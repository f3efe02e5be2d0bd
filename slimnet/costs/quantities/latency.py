"""Milliseconds of one run, where something measures them (:mod:`slimnet.timing`)."""

from __future__ import annotations

from slimnet.costs.quantity import COSTS, Quantity

COSTS.add("latency", Quantity("ms", None, budget="amount", whole=False))
