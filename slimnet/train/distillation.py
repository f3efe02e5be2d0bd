"""Distillation: a task whose loss also asks for the outputs of a teacher, the dense network.

The teacher runs on what the network itself was called with, so that any inputs are distilled. What
is compared is the task's own ``teacher_loss`` or, without one, every output in floating point that
both have in the same shape: class scores as probabilities at a temperature (Hinton, Vinyals and
Dean, *Distilling the Knowledge in a Neural Network*, 2015), all else by mean squared difference in
parts of the teacher's variance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.digest import weights_digest
from slimnet.errors import InputError
from slimnet.example import is_read, named_tensors, tensors_of
from slimnet.task import Batch, Metric, Split, Task, fingerprint_of, relative_error
from slimnet.train.features import Calls, Features


@dataclass(frozen=True, eq=False)
class Distilled:
    """A task with a teacher; ``weight`` of the loss is the teacher's, in [0, 1].

    ``features`` are compared beside, and added to it ``hint`` times.
    """

    task: Task
    teacher: nn.Module  # in evaluation mode, on the device of the training
    weight: float = 0.9
    temperature: float = 4.0
    features: Features | None = None
    hint: float = 0.0
    read: Sequence[str] = ()  # outputs that are compared; all where empty

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or self.temperature <= 0:
            raise InputError("the teacher's weight lies between 0 and 1, its temperature above 0")

    @property
    def name(self) -> str:
        """That of the task."""
        return self.task.name

    @property
    def metrics(self) -> Sequence[Metric]:
        """Those of the task."""
        return self.task.metrics

    def fingerprint(self) -> str:
        """Of the task's data and the teacher's weights."""
        return f"{fingerprint_of(self.task)} {weights_digest(self.teacher)}"

    def batches(
        self, split: Split, size: int, generator: torch.Generator | None = None
    ) -> Iterable[Batch]:
        """Those of the task."""
        return self.task.batches(split, size, generator)

    def inputs(self, batch: Batch) -> Any:
        """Those of the task."""
        return self.task.inputs(batch)

    def measure(self, model: nn.Module, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Those of the task."""
        return self.task.measure(model, batches)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The task's loss and the teacher's, by their weights; one pass of each network."""
        with _watched(model) as calls, self._layers(model) as given:
            own = self.task.loss(model, batch)
        if not calls:
            raise InputError(f"the loss of {self.name} never calls the network: nothing to distil")
        args, named, outputs = calls[-1]
        with torch.no_grad(), self._layers(self.teacher) as wanted:
            targets = self.teacher(*args, **named)
        loss = (1 - self.weight) * own + self.weight * self._apart(outputs, targets)
        if self.features is None:
            return loss
        return loss + self.hint * self.features.apart(given, wanted)

    def _layers(self, model: nn.Module) -> AbstractContextManager[Calls]:
        return nullcontext({}) if self.features is None else self.features.watched(model)

    def _apart(self, outputs: Any, targets: Any) -> Tensor:
        told: Callable[[Any, Any], Tensor] | None = getattr(self.task, "teacher_loss", None)
        if told is not None:
            return told(outputs, targets)
        named = zip(named_tensors(outputs), tensors_of(targets), strict=False)
        pairs = [(x, y) for (name, x), y in named if is_read(name, self.read)]
        alike = [(x, y) for x, y in pairs if x.shape == y.shape and x.is_floating_point()]
        if not alike:
            raise InputError("network and teacher have no output of the same shape to compare")
        apart = [self._difference(x.float(), y.float()) for x, y in alike]
        return torch.stack(apart).mean()

    def _difference(self, output: Tensor, target: Tensor) -> Tensor:
        if output.dim() == 2 and output.shape[1] > 1:
            return divergence(output, target, self.temperature)
        return relative_error(output, target)


def divergence(scores: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(targets / T) ‖ softmax(scores / T)), the mean over the batch [N, C]."""
    one, other = ((x / temperature).log_softmax(1) for x in (scores, targets))
    apart = nn.functional.kl_div(one, other, reduction="batchmean", log_target=True)
    return temperature**2 * apart


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[tuple[tuple[Any, ...], dict[str, Any], Any]]]:
    """What the network is called with, and what it gives."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

    def hook(module: nn.Module, args: Any, named: Any, outputs: Any) -> None:
        calls.append((args, named, outputs))

    handle = model.register_forward_hook(hook, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()
