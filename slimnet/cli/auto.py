"""``slimnet auto``: the whole way, from a trained network to files to ship."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from slimnet.auto.journal import Done
from slimnet.auto.request import AutoRequest, Spelled
from slimnet.auto.steps import FILES
from slimnet.auto.way import run_auto
from slimnet.cli import commands, console
from slimnet.cli.calibration import check_recognised
from slimnet.cli.shared import (
    built_by,
    execution_called,
    open_to_train,
    place_of,
    print_json,
    shape_text,
)
from slimnet.cli.targets import check_apart
from slimnet.cli.training import sized
from slimnet.comparison import one_sample
from slimnet.files.access import Opened
from slimnet.tasks.classification import Dataset
from slimnet.tasks.data import DataSpec


def auto(options: commands.Auto) -> None:
    """Refuse, read, take every step, show each as it ends."""
    files, run = options.files, options.run
    place, request = place_of(run), _request(options)
    made = [options.output / name for name in ("auto.json", "report.html", *FILES)]
    check_apart(made, (options.model, options.data, files.arch), overwrite=files.overwrite)
    opened = open_to_train(options.model, files)
    images = options.train_images, options.test_images
    spec = DataSpec(options.data, options.normalize, *images)
    task = sized(spec, opened, files).load()
    example = one_sample(opened, task)
    if isinstance(task, Dataset):
        check_recognised(options.model, opened, task.samples(512, run.seed))
    spelled = Spelled(str(options.model), options.data, tuple(_typed(options, opened, example)))
    with console.watching(quiet=run.json) as watch:
        steps = run_auto(
            opened,
            example,
            task,
            replace(request, spelled=spelled),
            options.output,
            title=f"{options.model.name}: from dense to slim",
            command=shlex.join(["slimnet", *sys.argv[1:]]),
            device=place,
            watch=watch,
            tell=lambda what, done, earlier: None if run.json else _tell(what, done, earlier),
        )
    if run.json:
        print_json({name: asdict(done) for name, done in steps.items()})
        return
    console.written(options.output / "report.html", "says what was done, and how to repeat it")


def _request(options: commands.Auto) -> AutoRequest:
    run = options.run
    return AutoRequest(
        options.cut,
        options.speed,
        minutes=options.minutes,
        epochs=options.epochs,
        samples=options.samples,
        distill=options.distill,
        batch=options.train_batch,
        lr=options.lr,
        optimizer=options.optimizer,
        execution=execution_called(options.precision),
        compile=options.compile,
        latency_batch=options.batch,
        threads=run.threads,
        seed=run.seed,
    )


def _typed(
    options: commands.Auto, opened: Opened, example: tuple[Any, ...]
) -> Iterator[tuple[str, ...]]:
    """The options that the commands of single steps need, too."""
    yield from built_by(options.files)
    named = {
        "--normalize": options.normalize,
        "--seed": options.run.seed or None,
        "--train-images": options.train_images,
        "--test-images": options.test_images,
        "--precision": options.precision,
    }
    yield from ((name, str(value)) for name, value in named.items() if value is not None)
    if options.compile:
        yield ("--compile",)
    usual = None if opened.arch is None else opened.arch.input_shape
    if all(isinstance(x, Tensor) and x.is_floating_point() for x in example):
        for x in example if [x.shape[1:] for x in example] != [usual] else ():
            yield "--input", shape_text(x.shape)


def _tell(what: str, done: Done, earlier: bool) -> None:
    when = "by an earlier run" if earlier else f"{done.seconds:.0f} s"
    console.say(f"{what}: {done.sentence} ({when})")
