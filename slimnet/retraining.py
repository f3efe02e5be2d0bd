"""Retraining: from a slim network to one that is worth deploying, and a file that keeps it.

Takes a slim network, a task and a schedule; gives the network trained on, with the plan and the
proof of its cut. The start (a regime) says which weights it begins with, a teacher is the network
that it was cut from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimnet.capture.modules import copied
from slimnet.files.artifact import Artifact, make_artifact
from slimnet.lineage import remember
from slimnet.network import Network
from slimnet.task import Task
from slimnet.train import History, Repairer, Schedule, measure, start, train
from slimnet.train.checkpoint import Checkpoint
from slimnet.train.distillation import Distilled
from slimnet.train.execution import Execution, Trial, fastest
from slimnet.train.loop import place_of
from slimnet.train.regimes import REGIMES


@dataclass(frozen=True, eq=False)
class Retrained:
    """A slim network that was trained on, its file's content, and what the training did."""

    model: nn.Module
    artifact: Artifact
    before: Mapping[str, float]  # metrics of the slim network as it was
    history: History
    trial: Trial | None = None  # None where the way to compute was told
    resumed: int = 0  # epochs that an earlier run had done

    def to_json(self) -> dict[str, Any]:
        """Everything but the network."""
        return {
            "before": dict(self.before),
            "history": self.history.to_json(),
            "execution": None if self.trial is None else str(self.trial.taken),
            "resumed": self.resumed,
        }


@dataclass(frozen=True)
class Recipe:
    """How a slim network is retrained."""

    schedule: Schedule
    regime: str = "finetune"  # a name of REGIMES, for the weights that it starts from
    distill: bool = False  # from the network that it was cut from
    weight: float = 0.9  # of the teacher's loss
    temperature: float = 4.0
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Every field."""
        return {**vars(self), "schedule": self.schedule.to_json()}


def retrain(
    artifact: Artifact,
    task: Task,
    recipe: Recipe,
    *,
    dense: nn.Module | None = None,
    repairer: Repairer | None = None,
    checkpoint: Path | None = None,
    interval: float = 120.0,
    device: torch.device | str | None = None,
    execution: Execution | None = None,
    progress: Callable[[float], None] | None = None,
) -> Retrained:
    """Train a slim network on.

    ``dense`` is the network that it was cut from: needed where its class is the user's own, and to
    distil. ``checkpoint`` is written after every epoch and every ``interval`` seconds; a training
    that was stopped goes on from there to the same weights. ``execution`` is found by a short trial
    unless it is told. Raises :class:`~slimnet.errors.InputError` where these do not fit together.
    """
    place = place_of(device)
    model = artifact.model(dense).to(place)
    before = measure(model, task, place)
    start(REGIMES[recipe.regime], model, recipe.seed, repairer)
    whole = task
    if recipe.distill and dense is not None:
        teacher = copied(Network.of(dense)).to(place).eval().requires_grad_(False)
        whole = Distilled(task, teacher, recipe.weight, recipe.temperature)
    kept = None if checkpoint is None else Checkpoint.of(checkpoint, model, recipe.to_json())
    snapshot = None if kept is None else kept.read()
    trial = None if execution else fastest(model, whole, recipe.schedule.batch, place)
    history = train(
        model,
        whole,
        recipe.schedule,
        seed=recipe.seed,
        device=place,
        progress=progress,
        keep=None if kept is None else kept.write,
        interval=interval,
        resume=snapshot,
        execution=execution or (trial.taken if trial else Execution()),
    )
    made = make_artifact(
        model, artifact.plan, artifact.certificate, artifact.example, artifact.arch, trained=True
    )
    remember(Network.of(model), made.plan, made.certificate, trained=True)
    done = 0 if snapshot is None else len(snapshot.losses)
    return Retrained(model, made, before, history, trial, done)
