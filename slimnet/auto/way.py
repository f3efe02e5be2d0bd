"""Run the steps that are not done yet, and keep the page up to date.

A step that fails ends the way: the page and the error say at which and why, and everything before
it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from slimnet.auto.journal import Done, Journal
from slimnet.auto.request import AutoRequest
from slimnet.auto.steps import STEPS, Way
from slimnet.comparison import versions
from slimnet.digest import digest, weights_digest
from slimnet.errors import InputError, SlimnetError
from slimnet.example import map_tensors
from slimnet.files.access import Opened
from slimnet.output import make_folder
from slimnet.progress import Progress, not_shown
from slimnet.report.way import Page, StepRow, write_way
from slimnet.task import Task, fingerprint_of, outputs_read
from slimnet.version import __version__

Tell = Callable[[str, Done, bool], None]
"""(what, what came of it, whether an earlier run had done it): told after each step."""


def run_auto(
    opened: Opened,
    example: tuple[Any, ...],
    task: Task,
    request: AutoRequest,
    folder: Path,
    *,
    title: str,
    command: str,
    device: torch.device,
    watch: Progress = not_shown,
    tell: Tell = lambda what, done, earlier: None,
) -> Mapping[str, Done]:
    """From a trained network to the files and the page in ``folder``; gives what each step did.

    ``example`` is one sample of the task's inputs. A step that is taken anew, since its file is
    gone, has those after it taken anew, too. Raises :class:`InputError` for a network that is
    slim already and for a folder of another run, and what a step raises, with its name.
    """
    if opened.artifact is not None:
        raise InputError("the network is a slim one already: the whole way starts at a dense one")
    read = request.cut.outputs or outputs_read(task)
    request = replace(request, cut=replace(request.cut, outputs=read))
    model = opened.model.to(device).eval()
    inputs = map_tensors(lambda x: x.to(device), example)
    identity = {
        "request": request.to_json(),
        "network": weights_digest(model),
        "data": digest(fingerprint_of(task)),
        "slimnet": __version__,
    }
    journal, used = Journal(make_folder(folder), identity), versions()
    way = Way(opened, inputs, task, request, folder, journal, watch, device, used)
    page = Page(title, command, task.metrics, used)
    for name, (what, _) in STEPS.items():
        earlier = journal.done(name)
        done = earlier or _taken(way, name, page)
        write_way(folder / "report.html", page, _rows(journal))  # also after a kill between both
        tell(what, done, earlier is not None)
    return journal.steps


def _taken(way: Way, name: str, page: Page) -> Done:
    """What came of a step, taken now; raises what it raises, with its name."""
    what, step = STEPS[name]
    journal, names = way.journal, list(STEPS)
    journal.forget(names[names.index(name) :])
    way.watch(what, 0.0)
    try:
        return journal.take(name, partial(step, way))
    except SlimnetError as error:
        write_way(way.path("report.html"), page, _rows(journal), stopped=f"{what}: {error}")
        kept = ", ".join(journal.steps) or "nothing"
        raise InputError(f"{name}: {error}; {way.folder} keeps what was done: {kept}") from error


def _rows(journal: Journal) -> list[StepRow]:
    return [
        StepRow(name, what, **vars(journal.steps[name]))
        for name, (what, _) in STEPS.items()
        if name in journal.steps
    ]
