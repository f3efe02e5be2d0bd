"""One training that goes on from its file where there is one of the same training."""

from __future__ import annotations

from typing import Any

from torch import nn

from slimnet.task import Task
from slimnet.train.checkpoint import Checkpoint
from slimnet.train.loop import History, train
from slimnet.train.schedule import Schedule


def train_kept(
    model: nn.Module, task: Task, schedule: Schedule, file: Checkpoint | None, **how: Any
) -> tuple[History, int]:
    """:func:`~slimnet.train.loop.train`, and how many epochs an earlier run had done."""
    snapshot = None if file is None else file.read()
    keep = None if file is None else file.write
    history = train(model, task, schedule, keep=keep, resume=snapshot, **how)
    return history, 0 if snapshot is None else len(snapshot.losses)
