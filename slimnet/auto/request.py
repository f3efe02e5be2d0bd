"""What is asked of the whole way, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimnet.errors import InputError
from slimnet.planning.request import CutRequest
from slimnet.task import Task
from slimnet.tasks.classification import Dataset
from slimnet.train.execution import Execution
from slimnet.train.schedule import Schedule


@dataclass(frozen=True)
class Spelled:
    """How files and data were named, for the commands that repeat each step."""

    model: str
    data: str
    more: tuple[tuple[str, ...], ...] = ()  # ("--normalize", "imagenet"): for those that take it


@dataclass(frozen=True)
class AutoRequest:
    """A target, how long it may take, and how; raises :class:`InputError`.

    The cut has a budget, or ``speed`` says how many times as fast as the dense network the slim one
    must be. ``epochs`` are trained, or as many as fit into what is left of ``minutes``.
    """

    cut: CutRequest
    speed: float | None = None
    minutes: float = 30.0  # for all steps together
    epochs: int | None = None  # in place of the minutes
    samples: int = 1024  # that the criterion and the repair read
    distill: bool = True
    batch: int = 128  # samples per training step
    lr: float | None = None  # the usual one of the optimiser
    optimizer: str | None = None  # the usual one of the network
    execution: Execution | None = None  # of the training; found by a trial
    compile: bool = False  # where that is faster
    latency_batch: int = 1
    threads: int | None = None
    seed: int = 0
    spelled: Spelled = field(default_factory=lambda: Spelled("MODEL", "DATA"))

    def __post_init__(self) -> None:
        if (self.speed is None) == (not self.cut.budgets):
            raise InputError(
                "say what is wanted, in one way: a share of the MACs (--macs 0.5) or another "
                "budget, a time (--latency 4ms), or how many times as fast (--speed 2x)"
            )
        if self.speed is not None and not 1 < self.speed < math.inf:
            raise InputError(f"the speed is how many times as fast, more than 1, not {self.speed}")
        if not 0 < self.minutes < math.inf:
            raise InputError(f"the minutes must be more than 0, not {self.minutes}")
        self._schedule(self.optimizer or "adamw")
        self.cutting().check(data=True, init=False)

    @property
    def is_timed(self) -> bool:
        """Whether it is a time that is wanted, which only measuring finds."""
        return self.speed is not None or self.cut.latency is not None

    def cutting(self) -> CutRequest:
        """The cut; a speed is a share of the dense network's time.

        Channels go by what they add to the error, where that does least harm, unless it was said
        otherwise.
        """
        share = None if self.speed is None else f"{1 / self.speed:.6g}x"
        return replace(
            self.cut,
            latency=share or self.cut.latency,
            batch=self.latency_batch,
            criterion=self.cut.criterion or "obs",
            scope=self.cut.scope or "harm",
            seed=self.seed,
        )

    def schedule(self, model: nn.Module, task: Task) -> Schedule:
        """SGD where images are classified with batch norms, as such networks are trained.

        AdamW for all else: its steps do not depend on the scale of a loss.
        """
        usual = isinstance(task, Dataset) and any(
            isinstance(x, _BatchNorm) for x in model.modules()
        )
        return self._schedule(self.optimizer or ("sgd" if usual else "adamw"))

    def _schedule(self, optimizer: str) -> Schedule:
        return Schedule(
            epochs=1 if self.epochs is None else self.epochs,
            lr=_RATES.get(optimizer, 0.01) if self.lr is None else self.lr,
            batch=self.batch,
            weight_decay=5e-4 if optimizer == "sgd" else 0.01,
            optimizer=optimizer,  # type: ignore[arg-type]  # Schedule refuses others
            nesterov=optimizer == "sgd",
            shape="cosine",
        )

    def to_json(self) -> dict[str, Any]:
        """What decides the outcome."""
        own = {name: getattr(self, name) for name in _DECIDE}
        execution = None if self.execution is None else vars(self.execution)
        budgets: Mapping[str, Any] = dict(self.cut.budgets)
        return {**own, "execution": execution, "cut": {**self.cut.plain(), **budgets}}


_RATES = {"sgd": 0.01, "adamw": 3e-4}
"""A tenth of the rate that CIFAR and ImageNet ResNets are trained with; Adam's for transformers."""

_DECIDE = (
    *("speed", "minutes", "epochs", "samples", "distill", "batch", "lr", "optimizer"),
    *("compile", "latency_batch", "seed"),
)
