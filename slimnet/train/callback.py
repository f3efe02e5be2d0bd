"""Callbacks: code that the training loop calls at certain moments, and the moment that it gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Moment:
    """Where the training stands when a callback is called."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    epoch: int
    step: int  # counted from 0 over the whole training
    loss: Tensor | None = None  # of the last batch; at the end of an epoch the mean of all
    epochs: int = 0  # of the whole training
    part: float = 0.0  # of the training that is done


class Callback:
    """Something that happens while training, e.g. a penalty on gradients; override what is used."""

    def on_start(self, moment: Moment) -> None:
        """Before the first step, or before a training is taken up from a snapshot."""

    def on_gradients(self, moment: Moment) -> None:
        """Between the backward pass and the optimiser's step: gradients may be changed."""

    def on_step_end(self, moment: Moment) -> None:
        """After the optimiser's step: weights may be changed."""

    def on_epoch_end(self, moment: Moment) -> None:
        """After the last step of an epoch."""

    def on_end(self, moment: Moment) -> None:
        """After the last epoch, before the network is tested: weights may be changed."""

    def state(self) -> Mapping[str, Tensor]:
        """What it has to know again when a stopped training is taken up."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Know what :meth:`state` gave; called after :meth:`on_start`."""


def call(callbacks: Iterable[Callback], event: str, moment: Moment) -> None:
    """Call one method of each callback, in their order."""
    for callback in callbacks:
        getattr(callback, event)(moment)
