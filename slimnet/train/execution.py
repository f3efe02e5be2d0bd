"""How a training computes: layout in memory, number type, compiled or not.

The same training is fastest in another way on another machine: bfloat16 where the processor has
units for it, channels last where its convolutions like that. :func:`fastest` tries them on a copy
of the network, and takes what is faster by more than noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.capture.modules import copied
from slimnet.capture.randomness import drawing_from
from slimnet.example import map_tensors
from slimnet.network import Network
from slimnet.progress import remark
from slimnet.task import Task, to_device
from slimnet.text import first_line_with_kind


@dataclass(frozen=True)
class Execution:
    """One way to compute the same training."""

    channels_last: bool = False
    bfloat16: bool = False  # products in bfloat16, weights and sums in float32
    compiled: bool = False

    def __str__(self) -> str:
        parts = [
            "bfloat16" if self.bfloat16 else "float32",
            *["channels last"] * self.channels_last,
            *["compiled"] * self.compiled,
        ]
        return ", ".join(parts)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """As :meth:`laid`, and put back afterwards."""
        try:
            yield self.laid(model)
        finally:
            if self.channels_last:
                model.to(memory_format=torch.contiguous_format)

    def laid(self, model: nn.Module) -> nn.Module:
        """The network laid out as this says, in place, and what to call in its place."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        return torch.compile(model) if self.compiled else model  # type: ignore[return-value]

    def computing(self, device: torch.device) -> AbstractContextManager[Any]:
        """Within it, products are computed in the number type of this."""
        if not self.bfloat16:
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    def laid_out(self, batch: Any) -> Any:
        """A batch whose images lie in memory as the network's weights do."""
        return map_tensors(_channels_last, batch) if self.channels_last else batch


AS_IT_IS = Execution()
"""What gives the same weights to the bit as any earlier version."""


def _channels_last(tensor: Tensor) -> Tensor:
    images = tensor.dim() == 4
    return tensor.contiguous(memory_format=torch.channels_last) if images else tensor


@dataclass(frozen=True)
class Trial:
    """Seconds of one step in each way that was tried, and the way that was taken."""

    seconds: Mapping[Execution, float]
    taken: Execution

    @property
    def gain(self) -> float:
        """How many times as fast as the way that was tried first."""
        return self.seconds[self.plain] / self.seconds[self.taken]

    @property
    def plain(self) -> Execution:
        """The way that was tried first: float32 in torch's own layout, or what was told."""
        return next(iter(self.seconds))

    def __str__(self) -> str:
        if len(self.seconds) == 1:
            return f"trained in {self.taken}, as told"
        if self.taken == self.plain:
            return f"trained in {self.plain}: nothing that was tried is faster here"
        return f"trained in {self.taken}: {self.gain:.2f} times as fast here as {self.plain}"


WAYS = tuple(Execution(layout, half) for half in (False, True) for layout in (False, True))
"""What is tried by itself; compiling takes minutes, so who wants that says so."""

ROUNDS = 5
ENOUGH = 1.05
"""A way must be so many times as fast as the plain one to be taken."""


def fastest(
    model: nn.Module,
    task: Task,
    batch_size: int,
    device: torch.device,
    told: Execution | None = None,
    rounds: int = ROUNDS,
    *,
    compiled: bool = False,
) -> Trial:
    """Time training steps on the first batch in every way, in turns; the model stays as it is.

    Where the way is ``told``, only that is timed. With ``compiled`` the fastest is also compiled,
    and taken so if that pays; where it cannot be compiled, a remark says why.
    """
    with drawing_from(0):  # loaders and dropout draw from generators that all share
        batch = next(iter(task.batches("train", batch_size, torch.Generator().manual_seed(0))))
        tried = partial(_times, model, task, to_device(batch, device), device, rounds)
        single = next(model.parameters()).dtype == torch.float32
        seconds = tried([told] if told else [way for way in WAYS if single or way == AS_IT_IS])
        taken = _taken(seconds)
        if compiled:
            try:
                seconds |= tried([replace(taken, compiled=True)])
            except Exception as error:  # whatever compilers raise: there may be none here
                remark(f"the training is not compiled: {first_line_with_kind(error)}")
    return Trial(seconds, _taken(seconds))


def _taken(seconds: Mapping[Execution, float]) -> Execution:
    """The fastest, where that is faster than the plain one by more than noise."""
    plain, best = next(iter(seconds)), min(seconds, key=lambda way: seconds[way])
    return best if seconds[plain] > ENOUGH * seconds[best] else plain


def _times(
    model: nn.Module,
    task: Task,
    batch: Any,
    device: torch.device,
    rounds: int,
    ways: Sequence[Execution],
) -> dict[Execution, float]:
    """Seconds of a step, by the way it was computed, in the order of the ways."""
    stepping = {way: _stepping(model, task, batch, way, device) for way in ways}
    times: dict[Execution, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way in list(times):
            times[way].append(stepping[way]())
            if number == 0 and times[way][0] > _HOPELESS * times[ways[0]][0]:
                del times[way]
    return {way: median(taken[1:]) for way, taken in times.items()}  # the first warms up


_HOPELESS = 5
"""What takes so many times as long in the first round is not tried again."""


def _stepping(
    model: nn.Module, task: Task, batch: Any, way: Execution, device: torch.device
) -> Callable[[], float]:
    """What takes one step of a copy, and says how long it took."""
    copy = copied(Network.of(model)).to(device).train()
    running = way.laid(copy)

    def step() -> float:
        began = time.perf_counter()
        with way.computing(device):
            loss = task.loss(running, way.laid_out(batch))
        torch.autograd.backward(loss)
        copy.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    return step
