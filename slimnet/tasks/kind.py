"""The registry of tasks: how one is written on a command line, and what reads it.

To add one: a file in :mod:`slimnet.tasks` with one ``TASKS.add``, or a plug-in's entry point in the
group ``slimnet.tasks``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from slimnet.errors import InputError
from slimnet.registry import Registry
from slimnet.task import Task


@dataclass(frozen=True)
class Kind:
    """One kind of task: ``read(rest, size)`` reads what stands behind its name."""

    usage: str  # "task:regression:FILE.npz"
    meaning: str
    read: Callable[[str, int], Task]


TASKS: Registry[Kind] = Registry("kind of task", "slimnet.tasks", folder="slimnet.tasks")


def read_task(text: str, size: int) -> Task:
    """The task behind ``task:``; images are resized to ``size`` where the kind does that."""
    name, _, rest = text.partition(":")
    kind = TASKS[name]
    if not rest:
        raise InputError(f"cannot read the task {text!r}: write {kind.usage}")
    return kind.read(rest, size)
