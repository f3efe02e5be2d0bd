"""A training budget as a value: how long, how fast, on how many samples at a time."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from slimnet.errors import InputError

OPTIMIZERS = ("sgd", "adamw")
SHAPES = ("step", "cosine", "constant")


@dataclass(frozen=True)
class Schedule:
    """An optimiser, and a learning rate that falls: by ``factor`` at each milestone, or to zero.

    Milestones are fractions of the epochs, so that a longer schedule stretches them. The defaults
    are the CIFAR protocol of Liu et al. (ICLR 2019): 160 epochs of SGD, 0.1, divided by ten at 50 %
    and 75 %. Raises ``InputError`` for values that cannot train.
    """

    epochs: int = 160
    lr: float = 0.1
    milestones: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1
    batch: int = 64
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = False
    optimizer: Literal["sgd", "adamw"] = "sgd"
    shape: Literal["step", "cosine", "constant"] = "step"
    warmup: float = 0.0  # epochs in which the rate rises from zero
    clip: float | None = None  # the largest norm of all gradients together
    accumulate: int = 1  # batches for each step of the optimiser
    ema: float | None = None  # how much of an exponential moving average stays with each step
    done: int = 0  # epochs that lie behind: the rate is as if these had been trained before

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise InputError(f"the learning rate must be greater than 0, not {self.lr}")
        if not all(0 < milestone < 1 for milestone in self.milestones):
            raise InputError(
                f"milestones are fractions of the epochs, between 0 and 1, not {self.milestones}"
            )
        for name, known in (("optimizer", OPTIMIZERS), ("shape", SHAPES)):
            if getattr(self, name) not in known:
                one = getattr(self, name)
                raise InputError(f"unknown {name} {one!r}: the known ones are {', '.join(known)}")
        if self.warmup < 0 or (self.clip is not None and self.clip <= 0):
            raise InputError("warmup must not be negative, and clip must be greater than 0")
        if self.done < 0:
            raise InputError(f"epochs that lie behind are none, or some, not {self.done}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError(f"ema is a share that stays, between 0 and 1, not {self.ema}")

    def lr_at(self, epoch: float) -> float:
        """The learning rate once so many epochs are done, counted from 0."""
        since = epoch + self.done
        return self.lr * self._warmed(since) * self._fallen(since)

    def _warmed(self, epoch: float) -> float:
        """[0, 1]; never 0, for a step without a rate teaches nothing."""
        return min(1.0, max(epoch, 0.01) / self.warmup) if epoch < self.warmup else 1.0

    def _fallen(self, epoch: float) -> float:
        if self.shape == "constant":
            return 1.0
        if self.shape == "cosine":
            return (1 + math.cos(math.pi * min(epoch / self._whole, 1.0))) / 2
        passed = sum(int(epoch) >= milestone * self._whole for milestone in self.milestones)
        return self.factor**passed

    @property
    def _whole(self) -> int:
        """Its epochs with those that lie behind."""
        return self.done + self.epochs

    def rest(self, epoch: int) -> Schedule:
        """What is left of it from an epoch on; raises ``InputError`` where that is nothing."""
        if not 0 <= epoch < self.epochs:
            raise InputError(
                f"there is no going back to epoch {epoch} of a schedule of {self.epochs}: of those "
                f"up to {self.epochs - 1} something is left to train"
            )
        return replace(self, epochs=self.epochs - epoch, done=self.done + epoch)

    def stretched(self, times: float) -> Schedule:
        """The schedule ``times`` as long, to the nearest whole epoch and at least one."""
        return replace(self, epochs=max(1, math.floor(self.epochs * times + 0.5)))

    def to_json(self) -> dict[str, Any]:
        """What was said of it; ``Schedule.from_json`` reads it back.

        A field that came later is left out at its default: digests of older schedules stay.
        """
        later = {field.name: field.default for field in fields(self)[_FIRST:]}
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in later or value != later[name]
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Schedule:
        """Read what ``to_json`` gave."""
        return cls(**{**fields, "milestones": tuple(fields["milestones"])})


_FIRST = 8  # fields that every schedule has written
