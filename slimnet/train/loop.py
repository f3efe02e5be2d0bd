"""The one training loop: a network, data and a schedule in, a history out.

Everything that differs between ways of training is an argument: the schedule, the weights that the
network starts with, and callbacks that look in while it trains. The same seed gives the same
weights to the bit on the same device, also where the training was stopped and taken up again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.capture.randomness import drawing_from
from slimnet.errors import InputError
from slimnet.train.callback import Callback, Moment, call
from slimnet.train.dataset import Dataset, check_classes
from slimnet.train.schedule import Schedule
from slimnet.train.snapshot import Snapshot, Training

Progress = Callable[[float], None]  # told after each step which part of the training is done
Keep = Callable[[Snapshot], None]  # told after each epoch where the training stands


@dataclass(frozen=True)
class History:
    """What one training did: the loss of each epoch, and the accuracy of the last, in percent."""

    losses: tuple[float, ...]
    accuracy: float
    epochs: int
    samples: int  # training images seen, each epoch's counted anew
    seconds: float


def train(
    model: nn.Module,
    dataset: Dataset,
    schedule: Schedule,
    *,
    seed: int,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
    keep: Keep | None = None,
    resume: Snapshot | None = None,
) -> History:
    """Train ``model``, which the caller owns, in place, and test it after the last epoch.

    It ends in eval mode on the device where it was. ``device`` defaults to the GPU where there is
    one. The accuracy is that of the last epoch, never of the best. ``keep`` is handed a snapshot
    after each epoch, which it must copy or write at once; ``resume`` goes on from such a one, of a
    call with the same arguments. Raises ``InputError`` where the loss is no longer finite, or
    network and data do not fit.
    """
    check_classes(dataset)
    home = _device_of(model)
    place = place_of(device)
    start = time.perf_counter()
    with _deterministic(seed, place):
        model.to(place)
        generator = torch.Generator().manual_seed(seed)
        training = Training(model, _optimizer(model, schedule), callbacks, generator, place)
        losses = _epochs(training, dataset, schedule, progress, keep, resume)
        accuracy = evaluate(model, dataset, place)
        model.to(home)
    seconds = time.perf_counter() - start
    samples = schedule.epochs * len(dataset.y_train)
    return History(losses, accuracy, schedule.epochs, samples, seconds)


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    device: torch.device | str | None = None,
    batch: int = 256,
) -> float:
    """The share of test images that ``model`` labels right, in percent; it ends in eval mode."""
    home = _device_of(model)
    place = place_of(device)
    model.to(place).eval()
    right = 0
    with torch.inference_mode():
        for images, labels in dataset.test_batches(batch):
            predicted = _logits(model, images.to(place), dataset.num_classes).argmax(1).cpu()
            right += int((predicted == labels).sum())
    model.to(home)
    return 100 * right / len(dataset.y_test)


def place_of(device: torch.device | str | None) -> torch.device:
    """The device that is named; without a name the GPU where there is one, else the CPU."""
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(usual if device is None else device)


def _epochs(
    training: Training,
    dataset: Dataset,
    schedule: Schedule,
    progress: Progress | None,
    keep: Keep | None,
    resume: Snapshot | None,
) -> tuple[float, ...]:
    """Train epoch by epoch; gives the mean loss of each."""
    model, optimizer, callbacks = training.model, training.optimizer, training.callbacks
    losses: list[float] = []
    call(callbacks, "on_start", Moment(model, optimizer, 0, 0))
    if resume is not None:
        training.restore(resume)
        losses += resume.losses
    for epoch in range(len(losses), schedule.epochs):
        _set_rate(optimizer, schedule.lr_at(epoch))
        loss = _epoch(training, dataset, schedule, epoch, progress)
        losses.append(_finite(loss, epoch, schedule))
        if keep is not None:
            keep(training.snapshot(losses))
    call(callbacks, "on_end", Moment(model, optimizer, schedule.epochs, 0))
    return tuple(losses)


def _epoch(
    training: Training,
    dataset: Dataset,
    schedule: Schedule,
    epoch: int,
    progress: Progress | None,
) -> float:
    """Train on every image once; gives the mean loss."""
    training.model.train()
    batches = _order(len(dataset.y_train), schedule.batch, training.generator)
    total = torch.zeros((), dtype=torch.float64)
    for number, indices in enumerate(batches):
        images, labels = dataset.training_batch(indices, training.generator)
        step = epoch * len(batches) + number
        moment = Moment(training.model, training.optimizer, epoch, step)
        loss = _step(moment, images, labels, dataset.num_classes, training.callbacks)
        total = total.to(loss.device) + loss.double()
        if progress is not None:
            progress((epoch + (number + 1) / len(batches)) / schedule.epochs)
    last = Moment(training.model, training.optimizer, epoch, step, loss)
    call(training.callbacks, "on_epoch_end", last)
    return float(total) / len(batches)


def _step(
    moment: Moment,
    images: Tensor,
    labels: Tensor,
    classes: int,
    callbacks: Sequence[Callback],
) -> Tensor:
    """One step of the optimiser on one batch; gives the batch's loss."""
    place = _device_of(moment.model)
    logits = _logits(moment.model, images.to(place), classes)
    loss = nn.functional.cross_entropy(logits, labels.to(place))
    moment.optimizer.zero_grad()
    torch.autograd.backward(loss)
    after = Moment(moment.model, moment.optimizer, moment.epoch, moment.step, loss.detach())
    call(callbacks, "on_gradients", after)
    moment.optimizer.step()
    call(callbacks, "on_step_end", after)
    return loss.detach()


def _optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise InputError("the network has no parameter to train: every one is frozen")
    check_held(trained, **{"learning rate": schedule.lr, "weight decay": schedule.weight_decay})
    return torch.optim.SGD(
        trained,
        lr=schedule.lr,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
        nesterov=schedule.nesterov,
    )


def check_held(trained: Iterable[nn.Parameter], **numbers: float) -> None:
    """Raise ``InputError`` for a number that the type of a parameter cannot hold.

    The optimiser multiplies in that type, and fails where it cannot.
    """
    narrowest = min((p.dtype for p in trained), key=lambda dtype: torch.finfo(dtype).max)
    for name, number in numbers.items():
        if abs(number) > torch.finfo(narrowest).max:
            raise InputError(f"the {name} {number:g} is more than {narrowest} holds; try less")


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _order(count: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """The training images in a random order, batch by batch."""
    batches = torch.split(torch.randperm(count, generator=generator), batch)
    # batch norm cannot train on one image: a last batch of one sits this epoch out
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def _logits(model: nn.Module, images: Tensor, classes: int) -> Tensor:
    """The network's class scores; what auxiliary heads add after them is left out."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), images.dtype)
    output: Any = _run(model, images.to(dtype))
    logits = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise InputError("training needs a network that gives one score per class, [N, classes]")
    if logits.shape[1] < classes:
        raise InputError(
            f"the data has {classes} classes and the network {logits.shape[1]} outputs; "
            f"give a network with at least {classes}"
        )
    return logits


def _run(model: nn.Module, images: Tensor) -> Any:
    try:
        return model(images)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        shape = list(images.shape)
        raise InputError(f"the network does not run on images of shape {shape}: {error}") from error


def _finite(loss: float, epoch: int, schedule: Schedule) -> float:
    if not torch.isfinite(torch.tensor(loss)):
        raise InputError(
            f"the training diverged: the loss is {loss} in epoch {epoch + 1} of {schedule.epochs} "
            f"at learning rate {schedule.lr_at(epoch):g}; try a smaller one"
        )
    return loss


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@contextmanager
def _deterministic(seed: int, device: torch.device) -> Iterator[None]:
    """What dropout draws follows the seed; the caller's own random state stays as it was."""
    devices = [device] if device.type == "cuda" else []
    with (
        drawing_from(seed, devices),  # dropout draws from the generator that all threads share
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        yield
