"""What the commands of all steps together share: a dense network, its task, and their options."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from slimnet.auto.journal import Done
from slimnet.auto.request import Request, Spelled
from slimnet.cli import commands, console
from slimnet.cli.calibration import check_recognised
from slimnet.cli.shared import built_by, execution_called, open_to_train, place_of, shape_text
from slimnet.cli.targets import check_apart
from slimnet.cli.training import sized
from slimnet.comparison import one_sample
from slimnet.files.access import Opened
from slimnet.task import Task
from slimnet.tasks.classification import Dataset
from slimnet.tasks.data import DataSpec

Asked = TypeVar("Asked", bound=Request)
Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Whole:
    """What all steps start from."""

    opened: Opened
    task: Task
    example: tuple[Any, ...]
    spelled: Spelled
    place: torch.device


def asked(options: commands.Auto | commands.Frontier) -> dict[str, Any]:
    """What a request of either command holds; raises :class:`~slimnet.errors.InputError`."""
    tuning, run = options.tuning, options.run
    return {
        "cut": options.cut,
        "minutes": options.minutes,
        "epochs": options.epochs,
        "samples": tuning.samples,
        "batch": tuning.train_batch,
        "lr": tuning.lr,
        "optimizer": tuning.optimizer,
        "execution": execution_called(tuning.precision),
        "compile": tuning.compile,
        "latency_batch": options.batch,
        "threads": run.threads,
        "seed": run.seed,
    }


def open_whole(options: commands.Auto | commands.Frontier) -> Whole:
    """Read the network and its task; raises :class:`~slimnet.errors.InputError`."""
    files, run, tuning = options.files, options.run, options.tuning
    place = place_of(run)
    opened = open_to_train(options.model, files)
    images = tuning.train_images, tuning.test_images
    spec = DataSpec(options.data, tuning.normalize, *images)
    task = sized(spec, opened, files).load()
    example = one_sample(opened, task)
    if isinstance(task, Dataset):
        check_recognised(options.model, opened, task.samples(512, run.seed))
    spelled = Spelled(str(options.model), options.data, tuple(_typed(options, opened, example)))
    return Whole(opened, task, example, spelled, place)


def run_whole(
    options: commands.Auto | commands.Frontier,
    request: Asked,
    made: Iterable[str],
    title: Callable[[Task], str],
    run: Callable[..., Found],
) -> Found:
    """Refuse, read, and take every step, each shown as it ends; ``made`` are the files' names."""
    reads = (options.model, options.data, options.files.arch)
    paths = [options.output / name for name in made]
    check_apart(paths, reads, overwrite=options.files.overwrite)
    whole, quiet = open_whole(options), options.run.json
    with console.watching(quiet=quiet) as watch:
        return run(
            whole.opened,
            whole.example,
            whole.task,
            replace(request, spelled=whole.spelled),
            options.output,
            title=title(whole.task),
            command=shlex.join(["slimnet", *sys.argv[1:]]),
            device=whole.place,
            watch=watch,
            tell=_silent if quiet else _tell,
        )


def _typed(
    options: commands.Auto | commands.Frontier, opened: Opened, example: tuple[Any, ...]
) -> Iterator[tuple[str, ...]]:
    """The options that the commands of single steps need, too."""
    yield from built_by(options.files)
    named = {
        "--normalize": options.tuning.normalize,
        "--seed": options.run.seed or None,
        "--train-images": options.tuning.train_images,
        "--test-images": options.tuning.test_images,
        "--precision": options.tuning.precision,
    }
    yield from ((name, str(value)) for name, value in named.items() if value is not None)
    if options.tuning.compile:
        yield ("--compile",)
    usual = None if opened.arch is None else opened.arch.input_shape
    if all(isinstance(x, Tensor) and x.is_floating_point() for x in example):
        for x in example if [x.shape[1:] for x in example] != [usual] else ():
            yield "--input", shape_text(x.shape)


def _silent(what: str, done: Done, earlier: bool) -> None:
    pass


def _tell(what: str, done: Done, earlier: bool) -> None:
    """What came of a step."""
    when = "by an earlier run" if earlier else f"{done.seconds:.0f} s"
    console.say(f"{what}: {done.sentence} ({when})")
