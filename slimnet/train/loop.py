"""The one training loop: a network, a task and a schedule in, a history out.

Everything that differs between ways of training is an argument: the task (what is read, the loss),
the schedule, the weights that the network starts with, and callbacks that look in while it trains.
The same seed gives the same weights to the bit on the same device, also where the training was
stopped and taken up again, in the middle of an epoch too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.capture.randomness import drawing_from
from slimnet.errors import InputError
from slimnet.task import Batch, Task, device_of, number_of, samples_in, to_device
from slimnet.train.callback import Callback, call
from slimnet.train.execution import AS_IT_IS, Execution
from slimnet.train.extras import extras
from slimnet.train.processes import ALONE, Processes
from slimnet.train.schedule import Schedule
from slimnet.train.snapshot import Place, Snapshot, Training

Progress = Callable[[float], None]  # told after each step which part of the training is done
Keep = Callable[[Snapshot], None]  # told where the training stands


@dataclass(frozen=True)
class History:
    """What one training did: the loss of each epoch, and the metrics after the last."""

    losses: tuple[float, ...]
    metrics: Mapping[str, float]
    epochs: int
    samples: int  # of the training split, each epoch's counted anew
    seconds: float

    @property
    def accuracy(self) -> float:
        """The metric that counts: of classification the accuracy, in percent."""
        return next(iter(self.metrics.values()))

    def to_json(self) -> dict[str, Any]:
        """Numbers by name; the metrics beside the rest."""
        rest = asdict(self)
        return {"losses": rest.pop("losses"), **rest.pop("metrics"), **rest}


@dataclass(frozen=True, eq=False)
class _Run:
    """One call of :func:`train`, apart from what changes while it trains."""

    task: Task
    schedule: Schedule
    training: Training
    execution: Execution
    processes: Processes
    progress: Progress
    keep: Keep | None
    interval: float
    settled: Mapping[str, Any]
    losses: list[float] = field(default_factory=list)
    done: list[tuple[int, int]] = field(default_factory=list)  # steps and samples of each epoch


def train(
    model: nn.Module,
    task: Task,
    schedule: Schedule,
    *,
    seed: int,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
    keep: Keep | None = None,
    interval: float = math.inf,
    resume: Snapshot | None = None,
    execution: Execution = AS_IT_IS,
    settled: Mapping[str, Any] | None = None,
    processes: Processes = ALONE,
) -> History:
    """Train ``model``, which the caller owns, in place, and measure it after the last epoch.

    It ends in eval mode on the device where it was. ``device`` defaults to the GPU where there is
    one. The metrics are those of the last epoch, never of the best. ``keep`` is handed a snapshot
    after each epoch, and every ``interval`` seconds, which it must copy or write at once;
    ``resume`` goes on from such a one, of a call with the same arguments; ``settled`` is what a
    snapshot should remember beside. Of several ``processes`` each makes this call, with the same
    arguments but for ``keep``, and trains on its part of every batch. Raises ``InputError``
    where the loss is no longer finite, or network and data do not fit.
    """
    home, place = device_of(model), place_of(device)
    started = time.perf_counter()
    callbacks = (*callbacks, *extras(schedule))
    with (
        _deterministic(seed, place),
        execution.applied(model.to(place)) as running,
        processes.normalising(model),
    ):
        processes.start_alike(model)
        generator = torch.Generator().manual_seed(seed)
        training = Training(
            *(model, _optimizer(model, schedule), callbacks, generator, place, running),
            schedule.epochs,
        )
        told = progress or (lambda part: None)
        how = (execution, processes)
        run = _Run(task, schedule, training, *how, told, keep, interval, settled or {})
        _epochs(run, resume)
        metrics = measure(model, task, place)
        model.to(home)
    seconds = time.perf_counter() - started
    samples = sum(seen for _, seen in run.done)
    return History(tuple(run.losses), metrics, schedule.epochs, samples, seconds)


def measure(
    model: nn.Module, task: Task, device: torch.device | str | None = None, batch: int = 256
) -> dict[str, float]:
    """Each metric of the task over its test split; the model ends in eval mode where it was."""
    home, place = device_of(model), place_of(device)
    model.to(place).eval()
    batches = task.batches("test", batch)
    if number_of(batches) == 0:
        raise InputError(f"{task.name} gives no batch to test on")
    with torch.inference_mode():
        metrics = dict(task.measure(model, (to_device(each, place) for each in batches)))
    model.to(home)
    return metrics


def evaluate(
    model: nn.Module, task: Task, device: torch.device | str | None = None, batch: int = 256
) -> float:
    """The metric that counts, e.g. the share of test images that are labelled right, in percent."""
    return measure(model, task, device, batch)[task.metrics[0].name]


def place_of(device: torch.device | str | None) -> torch.device:
    """The device that is named; without a name the GPU where there is one, else the CPU."""
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(usual if device is None else device)


def _epochs(run: _Run, resume: Snapshot | None) -> None:
    """Train epoch by epoch, from the snapshot on where there is one."""
    training, epochs = run.training, run.schedule.epochs
    call(training.callbacks, "on_start", training.moment(0, 0))
    place = Place() if resume is None else training.restore(resume)
    if resume is None and run.settled:
        _keep(run)
    if resume is not None:
        run.losses.extend(resume.losses)
        run.done.extend(resume.done)
    for epoch in range(len(run.losses), epochs):
        end = _epoch(run, epoch, place)
        run.losses.append(_finite(float(end.total) / end.steps, epoch, run.schedule))
        run.done.append((end.steps, end.samples))
        place = Place()
        _keep(run)
    call(training.callbacks, "on_end", training.moment(epochs, 0))


def _epoch(run: _Run, epoch: int, place: Place) -> Place:
    """Train on every sample once, from a place in the epoch on; gives the place at its end."""
    training, order = run.training, run.training.generator.get_state()
    training.model.train()
    batches = run.task.batches("train", run.schedule.batch, training.generator)
    number, kept = number_of(batches), time.monotonic()
    before = sum(steps for steps, _ in run.done)
    for batch in _from(batches, place, training):
        part = place.steps / number if number else 0.0
        training.set_rate(run.schedule.lr_at(epoch + part))
        after = epoch + ((place.steps + 1) / number if number else 0.0)
        step = _Step(epoch, place.steps, before + place.steps, place.steps + 1 == number, after)
        loss = _train_on(run, step, batch)
        total = place.total.to(loss.device) + loss.double()
        place = Place(place.steps + 1, total, place.samples + samples_in(batch), order)
        if number:
            run.progress(after / run.schedule.epochs)
        if _is_kept(run, place) and time.monotonic() - kept > run.interval:
            waiting = training.gradients() if run.schedule.accumulate > 1 else ()
            here = replace(place, gradients=waiting)
            _keep(run, here)
            kept = time.monotonic()
    if not place.steps:
        raise InputError(f"{run.task.name} gives no batch to train on")
    last = before + place.steps - 1
    mean = place.total / place.steps
    call(training.callbacks, "on_epoch_end", training.moment(epoch, last, mean, epoch + 1))
    return place


def _is_kept(run: _Run, place: Place) -> bool:
    """Whether a place may be kept: of several processes each has its own part of what waits."""
    waits = place.steps % run.schedule.accumulate != 0
    return run.keep is not None and not (waits and run.processes.count > 1)


def _keep(run: _Run, place: Place | None = None) -> None:
    """Hand out where the training stands."""
    if run.keep is not None:
        run.keep(run.training.snapshot(run.losses, run.done, place, settled=run.settled))


@dataclass(frozen=True)
class _Step:
    """One batch of a training."""

    epoch: int
    place: int  # in the epoch
    number: int  # in the whole training
    last: bool  # of the epoch
    done: float  # of the epochs, with this batch


def _from(batches: Iterable[Batch], place: Place, training: Training) -> Iterator[Batch]:
    """The batches after those that were done; what these draw is drawn, and thrown away."""
    if not place.steps:
        return iter(batches)
    drawn = iter(batches)
    for _ in islice(drawn, place.steps):
        pass
    training.restore_random(place)
    return drawn


def _train_on(run: _Run, step: _Step, batch: Batch) -> Tensor:
    """The gradients of one batch and, where it is due, a step; gives the batch's loss."""
    training, often = run.training, run.schedule.accumulate
    with run.execution.computing(training.device):
        mine, share = run.processes.part(batch)
        placed = run.execution.laid_out(to_device(mine, training.device))
        loss = share * run.task.loss(training.running, placed)
    if step.place % often == 0:
        training.optimizer.zero_grad()
    torch.autograd.backward(loss / often if often > 1 else loss)
    whole = run.processes.sum(loss.detach())
    if step.last or (step.place + 1) % often == 0:
        run.processes.sum_gradients(list(training.model.parameters()))
        after = training.moment(step.epoch, step.number, whole, step.done)
        call(training.callbacks, "on_gradients", after)
        training.optimizer.step()
        call(training.callbacks, "on_step_end", after)
    return whole


def _optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    trained = trained_of(model)
    check_held(trained, **{"learning rate": schedule.lr, "weight decay": schedule.weight_decay})
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(trained, lr=schedule.lr, weight_decay=schedule.weight_decay)
    return torch.optim.SGD(
        trained,
        lr=schedule.lr,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
        nesterov=schedule.nesterov,
    )


def trained_of(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained; raises ``InputError`` where every one is frozen."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise InputError("the network has no parameter to train: every one is frozen")
    return trained


def check_held(trained: Iterable[nn.Parameter], **numbers: float) -> None:
    """Raise ``InputError`` for a number that the type of a parameter cannot hold.

    The optimiser multiplies in that type, and fails where it cannot.
    """
    narrowest = min((p.dtype for p in trained), key=lambda dtype: torch.finfo(dtype).max)
    for name, number in numbers.items():
        if abs(number) > torch.finfo(narrowest).max:
            raise InputError(f"the {name} {number:g} is more than {narrowest} holds; try less")


def _finite(loss: float, epoch: int, schedule: Schedule) -> float:
    if not math.isfinite(loss):
        raise InputError(
            f"the training diverged: the loss is {loss} in epoch {epoch + 1} of {schedule.epochs} "
            f"at learning rate {schedule.lr_at(epoch):g}; try a smaller one"
        )
    return loss


@contextmanager
def _deterministic(seed: int, device: torch.device) -> Iterator[None]:
    """What dropout draws follows the seed; the caller's own random state stays as it was."""
    devices = [device] if device.type == "cuda" else []
    with (
        drawing_from(seed, devices),  # dropout draws from the generator that all threads share
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        yield
