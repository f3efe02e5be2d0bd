"""Retraining: from a slim network to one that is worth deploying, and a file that keeps it.

Takes a slim network, a task and a schedule; gives the network trained on, with the plan and the
proof of its cut. The start (a regime) says which weights it begins with, a teacher is the network
that it was cut from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimnet.capture.modules import copied
from slimnet.capture.randomness import drawing_from
from slimnet.errors import InputError
from slimnet.files.access import Reweighted
from slimnet.files.artifact import Artifact, make_artifact, reweighted
from slimnet.files.slim_file import read_slim
from slimnet.lineage import remember
from slimnet.network import Network
from slimnet.plan.plan import Plan
from slimnet.program.program import Program
from slimnet.pruning import Pruned
from slimnet.task import Task, fingerprint_of, number_of
from slimnet.train import Callback, History, Repairer, Schedule, Sources, measure, start, train
from slimnet.train.checkpoint import Checkpoint
from slimnet.train.distillation import Distilled
from slimnet.train.execution import Execution, Trial, fastest
from slimnet.train.features import Features
from slimnet.train.loop import place_of, trained_of
from slimnet.train.processes import ALONE, Processes
from slimnet.train.regimes import REGIMES


class NoTime(InputError):
    """No epoch fits into the minutes that there are."""


@dataclass(frozen=True, eq=False)
class Retrained(Reweighted):
    """A slim network that was trained on, and what the training did."""

    before: Mapping[str, float]  # metrics of the slim network as it was
    history: History
    execution: Execution  # how it was computed
    trial: Trial | None = None  # None where an earlier run had tried
    resumed: int = 0  # epochs that an earlier run had done

    def to_json(self) -> dict[str, Any]:
        """Everything but the network."""
        return {
            "before": dict(self.before),
            "history": self.history.to_json(),
            "execution": str(self.execution),
            "resumed": self.resumed,
        }


@dataclass(frozen=True)
class Recipe:
    """How a slim network is retrained."""

    schedule: Schedule
    regime: str = "finetune"  # a name of REGIMES, for the weights that it starts from
    minutes: float | None = None  # as many epochs as fit, in place of the schedule's
    distill: bool = False  # from the network that it was cut from
    weight: float = 0.9  # of the teacher's loss
    temperature: float = 4.0
    features: float = 0.0  # weight of hidden features beside the teacher's outputs
    seed: int = 0
    compile: bool = False  # where that is faster

    def __post_init__(self) -> None:
        REGIMES[self.regime]
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise InputError(f"the minutes to train must be more than 0, not {self.minutes}")
        if not 0 <= self.features < math.inf or (self.features and not self.distill):
            raise InputError(
                "features are compared with those of a teacher, by a weight from 0 on: distill, too"
            )
        if self.compile and self.features:
            raise InputError("features are read from layers, which a compiled network has not")

    def to_json(self) -> dict[str, Any]:
        """Every field."""
        return {**vars(self), "schedule": self.schedule.to_json()}


def retrain(
    slim: Pruned | Reweighted | Artifact | str | Path,
    task: Task,
    recipe: Recipe,
    *,
    against: nn.Module | None = None,
    repairer: Repairer | None = None,
    checkpoint: Path | None = None,
    interval: float = 120.0,
    device: torch.device | str | None = None,
    execution: Execution | None = None,
    callbacks: Sequence[Callback] = (),
    progress: Callable[[float], None] | None = None,
    processes: Processes = ALONE,
) -> Retrained:
    """Train a slim network on; what is given stays as it is.

    ``against`` is the network that it was cut from: needed to distil, and of a file whose class is
    the user's own. ``checkpoint`` is written after every epoch and every ``interval`` seconds; a
    training that was stopped goes on from there to the same weights. ``execution`` is found by a
    short trial unless it is told. Of several ``processes`` each makes this call, and the first one
    writes. Raises :class:`~slimnet.errors.InputError` where these do not fit together.
    """
    place = place_of(device)
    model, artifact = _opened(slim, against)
    before, measuring = _measured(model, task, recipe.seed, place)
    start(REGIMES[recipe.regime], model, Sources(recipe.seed, repairer))
    trained_of(model)
    whole = _with_teacher(task, recipe, model, artifact.plan, against, place)
    file = _checkpoint(checkpoint, model, whole, recipe, execution)
    snapshot = processes.share(file.read() if file is not None and processes.first else None)
    settled, trial = dict(snapshot.settled) if snapshot else {}, None
    if not settled:
        trial = fastest(
            model, whole, recipe.schedule.batch, place, execution, compiled=recipe.compile
        )
        trial, measuring = processes.share((trial, measuring))
        epochs = _epochs(recipe, task, trial, measuring)
        settled = {"execution": vars(trial.taken), "epochs": epochs}
    taken = Execution(**settled["execution"])
    history = train(
        model,
        whole,
        replace(recipe.schedule, epochs=settled["epochs"]),
        seed=recipe.seed,
        device=place,
        progress=progress,
        callbacks=callbacks,
        keep=file.write if file is not None and processes.first else None,
        interval=interval,
        resume=snapshot,
        execution=taken,
        settled=settled,
        processes=processes,
    )
    done = 0 if snapshot is None else len(snapshot.losses)
    return Retrained(model, _artifact(artifact, model), before, history, taken, trial, done)


def _opened(
    slim: Pruned | Reweighted | Artifact | str | Path, against: nn.Module | None
) -> tuple[nn.Module, Artifact]:
    """A network to train, which nobody else holds, and what its file says."""
    if isinstance(slim, Pruned):
        artifact = make_artifact(slim.model, *slim.whole(), slim.example, embed=False)
        return copied(Network.of(slim.model)), artifact
    if isinstance(slim, Reweighted):
        return copied(Network.of(slim.model)), slim.artifact
    artifact = slim if isinstance(slim, Artifact) else read_slim(slim)
    model = artifact.model(None if against is None else Network.of(against))
    if isinstance(model, Program):
        raise InputError(
            f"the network is of the class {artifact.class_name}, which is not known here, and runs "
            "as an exported program, which cannot be trained: give its class, with --arch "
            "path/to/file.py:make_model or against="
        )
    return model, artifact


def _measured(
    model: nn.Module, task: Task, seed: int, place: torch.device
) -> tuple[dict[str, float], float]:
    """The metrics as it is, and the seconds that it takes to measure them."""
    began = time.perf_counter()
    with drawing_from(seed):
        metrics = measure(model.to(place), task, place)
    return metrics, time.perf_counter() - began


def _artifact(artifact: Artifact, model: nn.Module) -> Artifact:
    """With the weights that it has now; the network is known as cut from the original."""
    made = reweighted(artifact, model)
    remember(Network.of(model), made.plan, made.certificate, trained=True)
    return made


def _with_teacher(
    task: Task,
    recipe: Recipe,
    slim: nn.Module,
    plan: Plan,
    against: nn.Module | None,
    place: torch.device,
) -> Task:
    if not recipe.distill:
        return task
    if against is None:
        raise InputError("to distil, give the network that the slim one was cut from")
    teacher = copied(Network.of(against)).to(place).eval().requires_grad_(False)
    features = Features.of(plan, slim, teacher) if recipe.features else None
    weights = (recipe.weight, recipe.temperature, features, recipe.features)
    return Distilled(task, teacher, *weights, read=plan.outputs)


def _checkpoint(
    path: Path | None, model: nn.Module, task: Task, recipe: Recipe, told: Execution | None
) -> Checkpoint | None:
    """Where this training is kept: its file says all that its outcome depends on."""
    if path is None:
        return None
    execution = None if told is None else vars(told)
    identity = {"data": fingerprint_of(task), "execution": execution, **recipe.to_json()}
    return Checkpoint.of(path, model, identity)


def _epochs(recipe: Recipe, task: Task, trial: Trial, measuring: float) -> int:
    """Those of the schedule, or as many as fit into the minutes with a measurement after each.

    Raises :class:`NoTime` where not even one fits.
    """
    if recipe.minutes is None:
        return recipe.schedule.epochs
    steps = number_of(task.batches("train", recipe.schedule.batch))
    if steps is None:
        raise InputError(f"how long an epoch of {task.name} is cannot be told: name the epochs")
    epoch = (steps * trial.seconds[trial.taken] + measuring) / 60
    if recipe.minutes < epoch:
        raise NoTime(
            f"an epoch takes about {epoch:.2g} minutes here, more than there are "
            f"({recipe.minutes:.2g}): give more, or name the epochs"
        )
    return int(recipe.minutes / epoch)
