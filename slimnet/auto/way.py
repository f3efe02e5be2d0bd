"""Run the steps that are not done yet, and keep the page up to date.

A step that fails ends the way: the page and the error say at which and why, and everything before
it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from slimnet.auto.journal import Done
from slimnet.auto.pieces import Way, begin, taken
from slimnet.auto.request import AutoRequest
from slimnet.auto.steps import STEPS
from slimnet.files.access import Opened
from slimnet.progress import Progress, not_shown
from slimnet.report.way import Page, StepRow, write_way
from slimnet.task import Task

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
    way = begin(opened, example, task, request, folder, device=device, watch=watch)
    journal, page = way.journal, Page(title, command, task.metrics, way.versions)
    for name, (what, _) in STEPS.items():
        earlier = journal.done(name)
        done = earlier or _taken(way, name, page)
        _write(way, page)  # also after a kill between both
        tell(what, done, earlier is not None)
    return journal.steps


def _taken(way: Way[AutoRequest], name: str, page: Page) -> Done:
    """What came of a step, taken now."""
    (what, step), names = STEPS[name], list(STEPS)
    way.journal.forget(names[names.index(name) :])
    return taken(way, name, what, step, partial(_write, way, page))


def _write(way: Way[AutoRequest], page: Page, stopped: str = "") -> None:
    steps = way.journal.steps
    rows = [StepRow(n, what, **vars(steps[n])) for n, (what, _) in STEPS.items() if n in steps]
    write_way(way.path("report.html"), page, rows, stopped)
