"""A way to train a network sparse: a callback of the training loop, and a row that describes it.

The callback is made for one network and changes its training. It has a single number: the strength
of a penalty, or the share of the weights that it sets to zero. When the training ends, the network
has the same parameters and shapes as before; what shall be cut is zero, or small enough that a
criterion ranks it lowest. To add a way: one file in :mod:`slimnet.sparsity.methods` with one
``SPARSIFIERS.add``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import nn

from slimnet.errors import InputError
from slimnet.registry import Registry
from slimnet.train.callback import Callback

Make: TypeAlias = Callable[[nn.Module, tuple[Any, ...], float], Callback]
"""(the network that will be trained, its example, strength or rate) → the callback."""


@dataclass(frozen=True)
class Sparsifier:
    """One way to train a network sparse."""

    make: Make
    knob: Literal["strength", "rate"]  # of a penalty, > 0; the share that is zeroed, in (0, 1)
    default: float
    cut: str  # options of ``slimnet prune`` that fit what it leaves; "" where nothing can be cut
    source: str  # the paper
    meaning: str

    def amount(self, name: str, strength: float | None, rate: float | None) -> float:
        """The number that the user gave, or the default; raises :class:`InputError`."""
        amounts = {"strength": strength, "rate": rate}
        value = amounts.pop(self.knob)
        (other,) = amounts
        if amounts[other] is not None:
            raise InputError(f"{name} has no {other}: its amount is given by --{self.knob}")
        amount = self.default if value is None else value
        limit = 1.0 if self.knob == "rate" else float("inf")
        if not 0 < amount < limit:
            bound = "lie between 0 and 1" if self.knob == "rate" else "be greater than 0"
            raise InputError(f"the {self.knob} of {name} must {bound}, and {amount:g} does not")
        return amount


SPARSIFIERS: Registry[Sparsifier] = Registry(
    "method", "slimnet.sparsifiers", folder="slimnet.sparsity.methods"
)


def nothing_to_do(name: str, reads: str) -> InputError:
    """What a method raises for a network that has nothing which it could make sparse."""
    others = ", ".join(other for other in SPARSIFIERS if other != name)
    return InputError(
        f"{name} works on {reads}, and this network has none: choose another method: {others}"
    )
