"""A training that says where it stands: epoch, loss and time left, and the metrics of each epoch.

:class:`Reporting` is a callback. It measures after every epoch on the test split, of the weights as
they are then, and draws no random number of the training's: the weights are those of a training
that nobody watches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from slimnet.capture.randomness import drawing_from
from slimnet.errors import InputError
from slimnet.output import make_folder
from slimnet.progress import Progress, not_shown
from slimnet.task import Task, device_of
from slimnet.train.callback import Callback, Moment
from slimnet.train.loop import measure

Board: TypeAlias = Callable[[int, Mapping[str, float]], None]
"""(epochs done, numbers by name): keeps a curve of each number."""


class Reporting(Callback):
    """Tells ``watch`` where a training of ``task`` stands, and ``board`` the numbers of epochs."""

    def __init__(
        self, task: Task, title: str, watch: Progress = not_shown, board: Board | None = None
    ) -> None:
        self._task, self._title, self._watch, self._board = task, title, watch, board
        self._began: tuple[float, float] | None = None  # when, and which part was done then
        self._told = -math.inf
        self._measured = ""

    def on_step_end(self, moment: Moment) -> None:
        """Say how far it is, now and then: to read a loss, a GPU has to come to it first."""
        now = time.monotonic()
        if self._began is None:
            self._began = now, moment.part
        if now - self._told > SECONDS:
            self._told = now
            self._tell(moment, now)

    def on_epoch_end(self, moment: Moment) -> None:
        """Measure, and say what came of it."""
        with drawing_from(0):
            metrics = measure(moment.model, self._task, device_of(moment.model))
        first = self._task.metrics[0]
        self._measured = f", {first.name} {metrics[first.name]:.4g}{first.unit}"
        self._tell(moment, time.monotonic())
        if self._board is not None:
            rate = moment.optimizer.param_groups[0]["lr"]
            numbers = {"loss": _number(moment.loss), "learning rate": rate, **metrics}
            self._board(moment.epoch + 1, numbers)

    def _tell(self, moment: Moment, now: float) -> None:
        where = f"{self._title}: epoch {moment.epoch + 1}/{moment.epochs}"
        loss = f", loss {_number(moment.loss):.3g}{self._measured}"
        self._watch(f"{where}{loss}{self._left(moment.part, now)}", moment.part)

    def _left(self, part: float, now: float) -> str:
        began, before = self._began or (now, part)
        if part <= before:
            return ""
        return f", {duration((now - began) / (part - before) * (1 - part))} left"


SECONDS = 0.5
"""Between two readings of the loss."""


def _number(loss: Tensor | None) -> float:
    return math.nan if loss is None else float(loss)


def duration(seconds: float) -> str:
    """``2:10``, or ``1:02:10``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def tensorboard(folder: Path) -> Board:
    """Curves in a folder that TensorBoard shows; those of a training taken up go on.

    Raises :class:`InputError` where ``tensorboard`` is not installed.
    """
    make_writer, writers = _writer_class(), list[Any]()
    make_folder(folder)

    def write(epoch: int, numbers: Mapping[str, float]) -> None:
        if not writers:  # what a killed run wrote from this epoch on is not shown
            writers.append(make_writer(str(folder), purge_step=epoch))
        for name, value in numbers.items():
            writers[0].add_scalar(name, value, epoch)
        writers[0].flush()

    return write


def _writer_class() -> Callable[..., Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "curves need TensorBoard, which is not installed: pip install 'slimnet[tensorboard]'"
        ) from None
    made: Callable[..., Any] = SummaryWriter
    return made
