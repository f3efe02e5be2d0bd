"""What a network is for, as one value: its batches, what it is called with, its loss and metrics.

All that slimnet reads of a user's data it reads through a :class:`Task`. A batch is anything: a
tensor, a tuple, a dict, lists of images of different sizes. Only the task takes it apart.
:class:`LoaderTask` is one made of two loaders and a loss; any object with the members of
:class:`Task` is as good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from slimnet.capture.randomness import drawing_from
from slimnet.errors import InputError
from slimnet.example import positional, tensors_of
from slimnet.samples import SampleBatches, Samples

Batch: TypeAlias = Any
"""What ``batches`` gives, in any containers; its tensors may lie on any device."""

Split: TypeAlias = Literal["train", "test"]


@dataclass(frozen=True)
class Metric:
    """How one number of a task is called, printed, and which way is better."""

    name: str  # "accuracy"
    unit: str = ""  # "%"
    best: Literal["highest", "lowest"] = "highest"

    def is_better(self, one: float, other: float) -> bool:
        """Whether ``one`` is better than ``other``."""
        return one > other if self.best == "highest" else one < other


@runtime_checkable
class Task(Protocol):
    """What a network is for. Labels are needed only by what uses them: loss and metrics."""

    @property
    def name(self) -> str:
        """How a report calls it."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """What :meth:`measure` gives; the first counts."""

    def batches(
        self, split: Split, size: int, generator: torch.Generator | None = None
    ) -> Iterable[Batch]:
        """Batches of at most ``size`` samples; the number of them by ``len``, where it is known.

        With a generator each sample once in a random order, changed at random if the task wants
        that, and both follow the generator alone; without one as they are, in their order.
        """

    def inputs(self, batch: Batch) -> Any:
        """What the network is called with: a tensor, a tuple, or a dict of keyword inputs."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a batch, a tensor of one number; calls the network itself."""

    def measure(self, model: nn.Module, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Each metric over these batches, of a network in evaluation mode, without gradients."""


Outputs: TypeAlias = Any
"""Whatever the network returns."""

Update: TypeAlias = Callable[[Any, Outputs, Batch], None]
"""(a metric of torchmetrics, outputs, batch): adds what a batch says to the metric."""


@dataclass(frozen=True)
class Measured:
    """A metric of torchmetrics and how a batch reaches it, for :class:`LoaderTask`.

    ``make`` gives a fresh one: ``lambda: MeanAbsoluteError()``. Without an ``update`` it is told
    ``(outputs, target)``, of a batch that is a pair.
    """

    make: Callable[[], Any]
    update: Update | None = None
    unit: str = ""
    best: Literal["highest", "lowest"] | None = None  # None: as the metric itself says
    scale: float = 1.0  # 100 for a share that is printed in percent


@dataclass(frozen=True)
class LoaderTask:
    """A task made of a loader for each split, a loss and metrics.

    ``train`` and ``test`` are ``DataLoader`` objects or any iterables that can be gone through
    again, and give batches of their own size. ``loss_of(outputs, batch)`` is called on what the
    network returns. ``inputs_of(batch)`` is by default the batch itself, or the first of a pair.
    Raises :class:`InputError` where it is asked for what it does not have.
    """

    train: Iterable[Batch]
    test: Iterable[Batch] = ()
    loss_of: Callable[[Outputs, Batch], Tensor] | None = None
    measured: Mapping[str, Measured] = field(default_factory=dict)
    inputs_of: Callable[[Batch], Any] | None = None
    name: str = "own data"

    @property
    def metrics(self) -> Sequence[Metric]:
        """Those that were given; the loss alone where none was."""
        if not self.measured:
            return (Metric("loss", best="lowest"),)
        return tuple(Metric(name, row.unit, _best(row)) for name, row in self.measured.items())

    def batches(
        self, split: Split, size: int, generator: torch.Generator | None = None
    ) -> Iterable[Batch]:
        """The loader's own batches. What it draws follows torch's generator, which is seeded."""
        loader = self.train if split == "train" else self.test
        if generator is not None:
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return loader

    def inputs(self, batch: Batch) -> Any:
        """What the network is called with."""
        if self.inputs_of is not None:
            return self.inputs_of(batch)
        return batch[0] if isinstance(batch, (tuple, list)) and len(batch) == 2 else batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The given loss of the network's outputs."""
        if self.loss_of is None:
            raise InputError(f"{self.name} has no loss: give one to train, or to read gradients")
        return self.loss_of(call(model, self.inputs(batch)), batch)

    def measure(self, model: nn.Module, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Each metric over all batches."""
        if not self.measured:
            losses = [float(self.loss(model, batch)) for batch in batches]
            return {"loss": sum(losses) / max(len(losses), 1)}
        return measured(self.measured, model, self.inputs, batches)


def measured(
    rows: Mapping[str, Measured],
    model: nn.Module,
    inputs: Callable[[Batch], Any],
    batches: Iterable[Batch],
) -> dict[str, float]:
    """Metrics of torchmetrics over batches, with one pass of the network for each batch."""
    place = device_of(model)
    metrics = {name: row.make().to(place) for name, row in rows.items()}
    for batch in batches:
        outputs = call(model, inputs(batch))
        for name, row in rows.items():
            (row.update or _by_target)(metrics[name], outputs, batch)
    return {name: row.scale * float(metrics[name].compute()) for name, row in rows.items()}


def call(model: nn.Module, inputs: Any) -> Outputs:
    """Run a network on what :meth:`Task.inputs` gives, floating point in the network's own type.

    Raises :class:`InputError` where it does not run on inputs of such shapes.
    """
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    given = tree_map(lambda leaf: _as(kind, leaf), inputs)
    try:
        if isinstance(given, Mapping):
            return model(**given)
        return model(*given) if isinstance(given, tuple) else model(given)
    except (RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        raise InputError(f"the network does not run on {in_words(inputs)}: {error}") from error


def _as(kind: torch.dtype | None, leaf: Any) -> Any:
    floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return leaf.to(kind) if floating and kind is not None else leaf


def first_tensor(outputs: Outputs) -> Tensor:
    """The output that counts where there are several: the first, or ``out`` among names."""
    given = outputs.get("out", outputs) if isinstance(outputs, Mapping) else outputs
    found = tensors_of(given)
    if not found:
        raise InputError(f"the network gives a {type(outputs).__name__} without tensors")
    return found[0]


def in_words(inputs: Any) -> str:
    """What inputs look like, in words."""
    found = [list(leaf.shape) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    few = ", ".join(map(str, found[:3])) + ", …" * (len(found) > 3)
    return f"inputs of shape {few}" if found else f"a {type(inputs).__name__} without tensors"


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch with its tensors on a device; other leaves stay as they are."""
    return tree_map(lambda leaf: _placed(leaf, device), batch)


def _placed(leaf: Any, device: torch.device) -> Any:
    return leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf


def samples_in(batch: Batch) -> int:
    """How many samples a batch holds, by its first part: a tensor's length, or a list's."""
    part = _first(batch) if isinstance(batch, (Mapping, tuple, list)) else batch
    while isinstance(part, (Mapping, tuple)):
        part = _first(part)
    if isinstance(part, Tensor):
        return len(part) if part.dim() else 1
    return len(part) if isinstance(part, list) else 1


def _first(parts: Any) -> Any:
    values = list(parts.values()) if isinstance(parts, Mapping) else list(parts)
    return values[0] if values else None


def number_of(batches: Iterable[Batch]) -> int | None:
    """How many batches there are; None where nobody knows before the end."""
    try:
        return len(batches) if isinstance(batches, Sized) else None
    except TypeError:  # a loader of an iterable data set
        return None


def device_of(model: nn.Module) -> torch.device:
    """Where its parameters lie; the CPU where it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def check_task(made: Any, where: str) -> Task:
    """A user's task; raises :class:`InputError` for what is none, and says what it lacks."""
    lacks = [name for name in _MEMBERS if not hasattr(made, name)]
    if lacks:
        raise InputError(
            f"{where} returned a {type(made).__name__}, which is no task: it lacks "
            f"{', '.join(lacks)}; return a slimnet.LoaderTask, or an object with "
            f"{', '.join(_MEMBERS)}"
        )
    task: Task = made
    if not task.metrics:
        raise InputError(f"the task of {where} has no metric: name one at least")
    return task


_MEMBERS = ("name", "metrics", "batches", "inputs", "loss", "measure")


def _by_target(metric: Any, outputs: Outputs, batch: Batch) -> None:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise InputError("a metric without update= needs batches that are pairs (inputs, target)")
    metric.update(outputs, batch[1])


def _best(row: Measured) -> Literal["highest", "lowest"]:
    """Which way is better, where the metric itself must say."""
    if row.best is not None:
        return row.best
    return "lowest" if getattr(row.make(), "higher_is_better", True) is False else "highest"


def fingerprint_of(task: Task) -> str:
    """What tells the data of a task from others: its own digest where it has one, else its name."""
    digest: Callable[[], str] | None = getattr(task, "fingerprint", None)
    return digest() if digest is not None else task.name


def samples_from(
    task: Task, count: int, seed: int, model: nn.Module, split: Split = "train"
) -> Samples:
    """At most about ``count`` samples of a task; the seed alone decides which.

    One tensor for each input where all batches have the same shapes, else the batches as they come.
    """
    own: Callable[[int, int], Samples] | None = getattr(task, "samples", None)
    if own is not None and split == "train":
        return own(count, seed)
    generator = torch.Generator().manual_seed(seed) if split == "train" else None
    with drawing_from(seed, devices=[]):
        batches = list(each_first(task.batches(split, PART, generator), count))
    if not batches:
        raise InputError(f"{task.name} gives no batch to read")
    parts = [_samples(task, model, batch) for batch in batches]
    joined = _joined(parts)
    return joined.first(count) if joined is not None else SampleBatches.of(parts)


PART = 8
"""Samples that are asked for at a time: what may be the smallest batch."""


def _samples(task: Task, model: nn.Module, batch: Batch) -> Samples:
    inputs = task.inputs(batch)
    given = inputs if isinstance(inputs, (tuple, Mapping)) else (inputs,)
    rows = {len(leaf) if leaf.dim() else None for leaf in _tensors((inputs, batch))}
    other = any(isinstance(leaf, str) for leaf in tree_leaves(batch))
    whole = len(rows) != 1 or None in rows or other or isinstance(inputs, list)
    count = samples_in(batch) if whole else None
    inputs = positional(model, given)
    return Samples(inputs, batch, lambda model, some: task.loss(model, some.labels), count)


def _joined(parts: Sequence[Samples]) -> Samples | None:
    """One tensor for each input, and for each part of a batch; None where they do not fit."""
    first = parts[0]
    alike = {_outline(part) for part in parts}
    if len(alike) > 1 or any(part.count is not None for part in parts):
        return None
    images, labels = (
        tree_map(lambda *leaves: _along(leaves), *(getattr(part, name) for part in parts))
        for name in ("images", "labels")
    )
    return replace(first, images=images, labels=labels)


def _along(leaves: Sequence[Any]) -> Any:
    return torch.cat(list(leaves)) if isinstance(leaves[0], Tensor) else leaves[0]


def _outline(part: Samples) -> str:
    """The containers, the shapes of single samples, and what is no tensor."""
    return repr(tree_map(_brief, (part.images, part.labels)))


def _brief(leaf: Any) -> Any:
    return (tuple(leaf.shape[1:]), str(leaf.dtype)) if isinstance(leaf, Tensor) else leaf


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def each_first(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """Batches until ``count`` samples were seen; the last may go beyond."""
    seen = 0
    for batch in batches:
        yield batch
        seen += samples_in(batch)
        if seen >= count:
            return
