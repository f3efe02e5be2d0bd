"""A training budget as a value: how long, how fast, on how many images at a time."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from slimnet.errors import InputError


@dataclass(frozen=True)
class Schedule:
    """SGD with momentum and a learning rate that falls by ``factor`` at each milestone.

    Milestones are fractions of the epochs, so that a longer schedule stretches them. The defaults
    are the CIFAR protocol of Liu et al. (ICLR 2019): 160 epochs, 0.1, divided by ten at 50 % and
    75 %. Raises ``InputError`` for values that cannot train.
    """

    epochs: int = 160
    lr: float = 0.1
    milestones: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1
    batch: int = 64
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise InputError(f"the learning rate must be greater than 0, not {self.lr}")
        if not all(0 < milestone < 1 for milestone in self.milestones):
            raise InputError(
                f"milestones are fractions of the epochs, between 0 and 1, not {self.milestones}"
            )

    def lr_at(self, epoch: int) -> float:
        """The learning rate of ``epoch``, counted from 0."""
        passed = sum(epoch >= milestone * self.epochs for milestone in self.milestones)
        return self.lr * self.factor**passed

    def stretched(self, times: float) -> Schedule:
        """The schedule ``times`` as long, to the nearest whole epoch and at least one."""
        return replace(self, epochs=max(1, math.floor(self.epochs * times + 0.5)))

    def to_json(self) -> dict[str, Any]:
        """Every field; ``Schedule.from_json`` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Schedule:
        """Read what ``to_json`` gave."""
        return cls(**{**fields, "milestones": tuple(fields["milestones"])})
