"""What is asked of the whole way, or of a frontier, as plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimnet.errors import InputError
from slimnet.planning.request import CutRequest, TimeTarget
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
class Request:
    """How networks are cut, repaired, trained on and timed; raises :class:`InputError`.

    ``epochs`` are trained, or as many as fit into the ``minutes``.
    """

    cut: CutRequest
    minutes: float | None = None
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
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise InputError(f"the minutes must be more than 0, not {self.minutes}")
        self._schedule(self.optimizer or "adamw")

    def within(self, latency: str | float | None, *, repair: bool = False) -> CutRequest:
        """The cut to a time, or to its own budget.

        Channels go by what they add to the error, where that does least harm, unless it was said
        otherwise.
        """
        return replace(
            self.cut,
            latency=latency,
            batch=self.latency_batch,
            criterion=self.cut.criterion or "obs",
            scope=self.cut.scope or "harm",
            repair=repair,
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

    def training(self) -> dict[str, Any]:
        """What decides the outcome of a training."""
        execution = None if self.execution is None else vars(self.execution)
        return {**{name: getattr(self, name) for name in _TRAINING}, "execution": execution}

    def to_json(self) -> dict[str, Any]:
        """What decides the outcome."""
        cut = {**self.cut.plain(), **dict[str, Any](self.cut.budgets)}
        read = {name: getattr(self, name) for name in ("samples", "latency_batch", "seed")}
        return {**self.training(), **read, "cut": cut}


@dataclass(frozen=True)
class AutoRequest(Request):
    """A target, and how long it may take.

    The cut has a budget, or ``speed`` says how many times as fast as the dense network the slim one
    must be.
    """

    minutes: float = 30.0  # for all steps together
    speed: float | None = None

    def __post_init__(self) -> None:
        if (self.speed is None) == (not self.cut.budgets):
            raise InputError(
                "say what is wanted, in one way: a share of the MACs (--macs 0.5) or another "
                "budget, a time (--latency 4ms), or how many times as fast (--speed 2x)"
            )
        if self.speed is not None and not 1 < self.speed < math.inf:
            raise InputError(f"the speed is how many times as fast, more than 1, not {self.speed}")
        super().__post_init__()
        self.cutting().check(data=True, init=False)

    def cutting(self) -> CutRequest:
        """The cut; a speed is a share of the dense network's time."""
        share = None if self.speed is None else f"{1 / self.speed:.6g}x"
        return self.within(share or self.cut.latency)

    def to_json(self) -> dict[str, Any]:
        """What decides the outcome."""
        return {"speed": self.speed, **super().to_json()}


@dataclass(frozen=True)
class FrontierRequest(Request):
    """Several times to cut to, each from the dense network.

    Each slim network is trained on, by distillation, where ``epochs`` or ``minutes`` say for how
    long.
    """

    targets: tuple[TimeTarget, ...] = ()

    def __post_init__(self) -> None:
        if not self.targets:
            raise InputError("there is no time to cut to: name some (--latency 0.8x,0.6x)")
        if self.cut.budgets:
            raise InputError("a frontier has times for a budget: leave the others out")
        if not self.trains and (self.lr or self.optimizer or self.execution or self.compile):
            raise InputError(
                "nothing is trained, so how it is trained means nothing: add --epochs or --minutes"
            )
        super().__post_init__()
        for target in self.targets:
            self.cutting(target).check(data=True, init=False)

    @property
    def trains(self) -> bool:
        """Whether what was repaired is trained on."""
        return self.epochs is not None or self.minutes is not None

    def cutting(self, target: TimeTarget) -> CutRequest:
        """The cut to one of the times, repaired."""
        return self.within(str(target), repair=True)

    def to_json(self) -> dict[str, Any]:
        """What decides a cut: other times and a training may be asked for later, too."""
        kept = super().to_json()
        return {name: kept[name] for name in kept.keys() - self.training().keys()}


_RATES = {"sgd": 0.01, "adamw": 3e-4}
"""A tenth of the rate that CIFAR and ImageNet ResNets are trained with; Adam's for transformers."""

_TRAINING = ("minutes", "epochs", "distill", "batch", "lr", "optimizer", "compile")
