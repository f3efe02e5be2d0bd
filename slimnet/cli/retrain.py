"""``slimnet retrain``: a slim network trained on, in one file with its plan and its proof."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from slimnet.cli import commands, console, tables
from slimnet.cli.calibration import size_of
from slimnet.cli.shared import execution_called, open_any, place_of, print_json, write_slim
from slimnet.cli.targets import SLIM, check_target
from slimnet.errors import InputError
from slimnet.files.artifact import Artifact
from slimnet.files.slim_file import read_slim
from slimnet.networks.arch import parse_arch
from slimnet.progress import Progress
from slimnet.retraining import Recipe, Retrained
from slimnet.retraining import retrain as retrain_network
from slimnet.study.repaired import repaired
from slimnet.task import Metric, Task
from slimnet.tasks.classification import Dataset
from slimnet.tasks.data import DataSpec
from slimnet.train import REGIMES, Repairer, Schedule
from slimnet.train.checkpoint import checkpoint_of
from slimnet.train.processes import Processes, joined
from slimnet.train.reporting import Reporting, tensorboard


def retrain(options: commands.Retrain) -> None:
    """Refuse, read, train, write, show; one of several processes trains alone."""
    with joined() as processes:
        trained, metrics = _trained(options, processes)
    if not processes.first:
        return
    if options.run.json:
        print_json({"output": str(options.output), **trained.to_json()})
        return
    tables.show_retrained(trained, metrics)
    console.written(options.output)


def _trained(options: commands.Retrain, processes: Processes) -> tuple[Retrained, Sequence[Metric]]:
    """The trained network, in its file, and the metrics of its task."""
    files, run = options.files, options.run
    place = place_of(run)
    recipe = _recipe(options)
    reads = (options.slim, options.against, options.data, files.arch)
    check_target(options.output, SLIM, reads, overwrite=files.overwrite)
    artifact, dense = read_slim(options.slim), _dense(options)
    task = _task(options, artifact)
    checkpoint = checkpoint_of(options.output)
    with console.watching(quiet=run.json or not processes.first) as watch:
        trained = retrain_network(
            artifact,
            task,
            recipe,
            against=dense,
            repairer=_repairer(options, artifact, dense, task, place),
            checkpoint=checkpoint,
            device=place,
            execution=execution_called(options.precision),
            callbacks=list(_reporting(options, task, watch)) if processes.first else (),
            processes=processes,
        )
        if processes.first:
            write_slim(trained.artifact, trained.model.cpu(), options.output)
            checkpoint.unlink(missing_ok=True)
    return trained, task.metrics


def _recipe(options: commands.Retrain) -> Recipe:
    fresh = REGIMES[options.regime].start == "fresh"
    usual = {"sgd": 0.1 if fresh else 0.01}.get(options.optimizer, 0.001)
    schedule: dict[str, Any] = {
        name: getattr(options, name)
        for name in (
            *("epochs", "batch", "weight_decay", "optimizer", "shape", "warmup"),
            *("accumulate", "ema", "clip"),
        )
    }
    if REGIMES[options.regime].rewind is not None:
        raise InputError(
            f"the regime {options.regime} goes back in the dense network's training: slimnet "
            "compare --history runs it, and keeps what comes of it"
        )
    if not REGIMES[options.regime].epochs:
        raise InputError(
            f"the regime {options.regime} does not train: slimnet repair does what it does"
        )
    return Recipe(
        Schedule(
            lr=usual if options.lr is None else options.lr,
            nesterov=options.optimizer == "sgd",
            **schedule,
        ),
        options.regime,
        options.minutes,
        options.distill,
        options.teacher_weight,
        options.temperature,
        options.distill_features,
        options.run.seed,
        options.compile,
    )


def _dense(options: commands.Retrain) -> nn.Module | None:
    """The network that it was cut from, or its class alone."""
    if options.against is not None:
        return open_any(options.against, options.files).model
    if options.distill or REGIMES[options.regime].start == "repaired":
        why = "to distil" if options.distill else "to repair first"
        raise InputError(f"{why}, give the network that it was cut from: --against model.pt")
    return parse_arch(options.files.arch).build() if options.files.arch else None


def _task(options: commands.Retrain, artifact: Artifact) -> Task:
    limits = options.train_images, options.test_images
    task = DataSpec(options.data, options.normalize, *limits, size=size_of(artifact.example)).load()
    if isinstance(task, Dataset):
        return replace(task, smoothing=options.smoothing)
    if options.smoothing:
        raise InputError(
            f"{options.data} is a task of its own: --smoothing is for labelled images, so leave it "
            "out"
        )
    return task


def _reporting(options: commands.Retrain, task: Task, watch: Progress) -> Iterator[Reporting]:
    """What says where the training stands; nothing where nobody would read it."""
    board = None if options.tensorboard is None else tensorboard(options.tensorboard)
    if board is not None or not options.run.json:
        yield Reporting(task, f"training: {options.regime}", watch, board)


def _repairer(
    options: commands.Retrain,
    artifact: Artifact,
    dense: nn.Module | None,
    task: Task,
    place: torch.device,
) -> Repairer | None:
    """Writes the weights of a repair, where the regime starts with one."""
    if REGIMES[options.regime].start != "repaired" or dense is None:
        return None
    plan, count = artifact.plan, options.samples

    def write(model: nn.Module, seed: int) -> None:
        made = repaired(dense, model, plan, task, samples=count, seed=seed, place=place)
        model.load_state_dict(made.state_dict())

    return write
