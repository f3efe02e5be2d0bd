"""What a schedule may ask for beside steps of an optimiser, as callbacks over the one loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from slimnet.train.callback import Callback, Moment
from slimnet.train.schedule import Schedule


def extras(schedule: Schedule) -> Iterator[Callback]:
    """The callbacks of a schedule, in the order in which they are called."""
    if schedule.clip is not None:
        yield Clipping(schedule.clip)
    if schedule.ema is not None:
        yield MovingAverage(schedule.ema)


class Clipping(Callback):
    """All gradients together are scaled down to a norm at most."""

    def __init__(self, most: float) -> None:
        self.most = most

    def on_gradients(self, moment: Moment) -> None:
        """Scale them, where their norm is larger."""
        nn.utils.clip_grad_norm_(moment.model.parameters(), self.most)


class MovingAverage(Callback):
    """The network ends with the exponential moving average of its weights and statistics.

    Early averages count fewer steps: of step n (1 + n) / (10 + n) stays at most, so that the
    random start is soon forgotten (as in TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, stays: float) -> None:
        self.stays = stays
        self._average: dict[str, Tensor] = {}
        self._steps = 0

    def on_start(self, moment: Moment) -> None:
        """Begin with the network as it is."""
        self._average = {name: t.detach().clone() for name, t in _floating(moment.model).items()}

    def on_step_end(self, moment: Moment) -> None:
        """Move a little towards the new weights."""
        self._steps += 1
        stays = min(self.stays, (1 + self._steps) / (10 + self._steps))
        with torch.no_grad():
            for name, tensor in _floating(moment.model).items():
                self._average[name].lerp_(tensor, 1 - stays)

    def on_end(self, moment: Moment) -> None:
        """The network gets the averages."""
        with torch.no_grad():
            for name, tensor in _floating(moment.model).items():
                tensor.copy_(self._average[name])

    def state(self) -> Mapping[str, Tensor]:
        """The averages, and after how many steps."""
        return {**self._average, _STEPS: torch.tensor(self._steps)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from them."""
        self._steps = int(state[_STEPS])
        for name, tensor in self._average.items():
            tensor.copy_(state[name])


_STEPS = "number of steps"  # no tensor of a network has spaces in its name


def _floating(model: nn.Module) -> dict[str, Tensor]:
    """What is averaged: weights and statistics, and no counters."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
