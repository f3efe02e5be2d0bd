"""The metric that counts after each epoch of a training, to look at: the last one alone counts.

A callback, which draws no random number of the training's: the weights are those of a training that
is not looked at. It goes on where a snapshot was.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from slimnet.capture.randomness import drawing_from
from slimnet.task import Task, device_of
from slimnet.train import Callback, Moment, measure


class EachEpoch(Callback):
    """Tests a network after each epoch but the last, which the training itself tests."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._values: list[float] = []

    def on_epoch_end(self, moment: Moment) -> None:
        """Measure."""
        if moment.epoch + 1 < moment.epochs:
            with drawing_from(0):
                metrics = measure(moment.model, self._task, device_of(moment.model))
            self._values.append(metrics[self._task.metrics[0].name])

    def state(self) -> Mapping[str, Tensor]:
        """What was measured."""
        return {"values": torch.tensor(self._values, dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what was measured."""
        self._values = state["values"].tolist()

    def ended(self, metrics: Mapping[str, float]) -> tuple[tuple[float, ...], float]:
        """The whole curve, and the best of it; ``metrics`` are those of the last epoch."""
        first = self._task.metrics[0]
        values = (*self._values, metrics[first.name])
        return values, (max if first.best == "highest" else min)(values)
