"""A task: the batches of a data set, what of them the network takes, a loss and metrics.

The command line and training read data through a :class:`Task`; :func:`samples_from` takes
calibration data (:mod:`slimnet.samples`) from one. A batch may be anything: a tensor, a tuple, a
dict, lists of images of different sizes. Only the task's own methods take it apart.
:class:`LoaderTask` makes a task of two loaders and a loss. Any other object with the members of
:class:`Task` will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from traceback import extract_tb
from typing import Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from slimnet.capture.randomness import drawing_from
from slimnet.digest import digest
from slimnet.errors import InputError, SlimnetError
from slimnet.example import map_tensors, positional, tensors_of
from slimnet.samples import SampleBatches, Samples

Batch: TypeAlias = Any
"""One batch, as a task gives it: tensors on any device, in any containers."""

Split: TypeAlias = Literal["train", "test"]


@dataclass(frozen=True)
class Metric:
    """A number that says how good a network is: its name, its unit, and which way is better."""

    name: str  # "accuracy"
    unit: str = ""  # "%"
    best: Literal["highest", "lowest"] = "highest"

    def is_better(self, one: float, other: float) -> bool:
        """Whether ``one`` is better than ``other``."""
        return one > other if self.best == "highest" else one < other

    def to_json(self) -> dict[str, str]:
        """Every field; ``Metric(**fields)`` reads it back."""
        return dict(vars(self))


@runtime_checkable
class Task(Protocol):
    """Data with a loss and metrics. Only loss and metrics read labels."""

    @property
    def name(self) -> str:
        """The name to print."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """The metrics that :meth:`measure` gives; training and tables go by the first."""

    def batches(
        self, split: Split, size: int, generator: torch.Generator | None = None
    ) -> Iterable[Batch]:
        """Batches of at most ``size`` samples, each sample once; ``len`` gives how many, if known.

        A task whose loaders have a batch size of their own may ignore ``size``.
        With a generator (for training) in random order, and augmented if the task does that; both
        depend on the generator alone. Without one in a fixed order, and not augmented.
        """

    def inputs(self, batch: Batch) -> Any:
        """What the network is called with: a tensor, a tuple, or a dict of keyword inputs."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Call the network; the mean loss over the batch, a tensor of one element."""

    def measure(self, model: nn.Module, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Metric → its value over these batches; called in evaluation mode, without gradients."""


Outputs: TypeAlias = Any
"""Whatever the network returns."""

Update: TypeAlias = Callable[[Any, Outputs, Batch], None]
"""(metric, outputs, batch): adds one batch to a metric of torchmetrics."""


@dataclass(frozen=True)
class Measured:
    """A metric of torchmetrics and how it is updated, for :class:`LoaderTask`.

    ``make`` gives a new metric, such as the class ``MeanAbsoluteError``. Without ``update``, every
    batch must be a pair (inputs, target), and ``metric.update(outputs, target)`` is called.
    """

    make: Callable[[], Any]
    update: Update | None = None
    unit: str = ""
    best: Literal["highest", "lowest"] | None = None  # None: by its own ``higher_is_better``
    scale: float = 1.0  # 100 for a share that is printed in percent


@dataclass(frozen=True)
class LoaderTask:
    """A task made of a loader for each split, a loss and metrics.

    ``train`` and ``test`` are ``DataLoader`` objects, or other iterables that can be iterated more
    than once; their batch size is their own. ``loss_of(outputs, batch)`` gets what the network
    returns. Without ``inputs_of(batch)``, the inputs are the batch itself, or the first of a pair.
    Raises :class:`InputError` where a loss is needed and none was given.
    """

    train: Iterable[Batch]
    test: Iterable[Batch] = ()
    loss_of: Callable[[Outputs, Batch], Tensor] | None = None
    measured: Mapping[str, Measured] = field(default_factory=dict)
    inputs_of: Callable[[Batch], Any] | None = None
    name: str = "own data"
    outputs: Sequence[str] = ()  # those that loss and metrics read, by name; all where empty

    @property
    def metrics(self) -> Sequence[Metric]:
        """The metrics of ``measured``; the loss where that is empty."""
        if not self.measured:
            return (Metric("loss", best="lowest"),)
        return tuple(Metric(name, row.unit, _best(row)) for name, row in self.measured.items())

    def batches(
        self, split: Split, size: int, generator: torch.Generator | None = None
    ) -> Iterable[Batch]:
        """The loader's own batches, whatever ``size``.

        With a generator, torch's global one is seeded from it: a loader draws from that.
        """
        loader = self.train if split == "train" else self.test
        if generator is not None:
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return loader

    def inputs(self, batch: Batch) -> Any:
        """What the network is called with."""
        if self.inputs_of is not None:
            return _ask(f"inputs_of of {self.name}", self.inputs_of, batch)
        return batch[0] if isinstance(batch, (tuple, list)) and len(batch) == 2 else batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """``loss_of`` for the network's outputs."""
        if self.loss_of is None:
            raise InputError(f"{self.name} has no loss: give one to train, or to read gradients")
        what, outputs = f"loss_of of {self.name}", call(model, self.inputs(batch))
        loss = _ask(what, self.loss_of, outputs, batch)
        _check_loss(what, loss, model)
        return cast(Tensor, loss)

    def facts(self) -> dict[str, Any]:
        """Its name, and how many samples each split has, where its loader says that."""
        loaders = {"train": self.train, "test": self.test}
        sets = {split: getattr(loader, "dataset", None) for split, loader in loaders.items()}
        counts = {split: len(rows) for split, rows in sets.items() if isinstance(rows, Sized)}
        return {"name": self.name, **counts}

    def measure(self, model: nn.Module, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Metric → its value over all batches; without metrics, the mean of the batches' losses."""
        if not self.measured:
            losses = [float(self.loss(model, batch)) for batch in batches]
            return {"loss": sum(losses) / max(len(losses), 1)}
        return compute_metrics(self.measured, model, self.inputs, batches)


def compute_metrics(
    rows: Mapping[str, Measured],
    model: nn.Module,
    inputs: Callable[[Batch], Any],
    batches: Iterable[Batch],
) -> dict[str, float]:
    """Metric → its value over the batches; the network runs once for each batch."""
    device = device_of(model)
    metrics = {name: row.make().to(device) for name, row in rows.items()}
    for batch in batches:
        outputs = call(model, inputs(batch))
        for name, row in rows.items():
            _ask(f"the metric {name!r}", row.update or _by_target, metrics[name], outputs, batch)
    values = {
        name: _ask(f"the metric {name!r}", metric.compute) for name, metric in metrics.items()
    }
    return {name: row.scale * float(values[name]) for name, row in rows.items()}


def _ask(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of the user's gives; says which failed, and in which of its lines."""
    try:
        return function(*arguments)
    except (SlimnetError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        frames = [row for row in extract_tb(error.__traceback__)[1:2] if row.filename != __file__]
        place = "".join(f" ({Path(row.filename).name}:{row.lineno})" for row in frames)
        raise InputError(f"{what} failed: {type(error).__name__}: {error}{place}") from error


def _check_loss(what: str, loss: Any, model: nn.Module) -> None:
    """Refuse what cannot be trained on."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = f"tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else None
        raise InputError(
            f"{what} gives a {shape or type(loss).__name__}: it must give one number as a tensor, "
            "the mean over the batch"
        )
    trains = torch.is_grad_enabled() and any(p.requires_grad for p in model.parameters())
    if trains and not loss.requires_grad:
        raise InputError(
            f"{what} gives a number that does not come from the outputs by operations that have "
            "gradients: leave out .detach(), .item(), argmax and NumPy"
        )


def call(model: nn.Module, inputs: Any) -> Outputs:
    """Run a network on what :meth:`Task.inputs` gives.

    Floating point inputs are cast to the type of the network's first floating point parameter.
    Raises :class:`InputError` where it does not run on inputs of these shapes.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    given = map_tensors(lambda tensor: _cast(tensor, dtype), inputs)
    try:
        if isinstance(given, Mapping):
            return model(**given)
        return model(*given) if isinstance(given, tuple) else model(given)
    except (RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        raise InputError(
            f"the network does not run on {shapes_in_words(inputs)}: {error}"
        ) from error


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() and dtype is not None else tensor


def first_tensor(outputs: Outputs) -> Tensor:
    """One tensor of the outputs: of a dict the one named ``out``, else the first."""
    chosen = outputs.get("out", outputs) if isinstance(outputs, Mapping) else outputs
    tensors = tensors_of(chosen)
    if not tensors:
        raise InputError(f"the network gives a {type(outputs).__name__} without tensors")
    return tensors[0]


def relative_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference, in parts of the target's variance."""
    return (output - target).square().mean() / target.var().clamp(min=1e-12)


def shapes_in_words(inputs: Any) -> str:
    """The shapes of some inputs, for an error's text."""
    shapes = [list(tensor.shape) for tensor in _tensors(inputs)]
    few = ", ".join(map(str, shapes[:3])) + ", …" * (len(shapes) > 3)
    return f"inputs of shape {few}" if shapes else f"a {type(inputs).__name__} without tensors"


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch with its tensors on a device; what is no tensor stays as it is."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), batch)


def samples_in(batch: Batch) -> int:
    """How many samples a batch holds: the length of the first tensor, or list, in it."""
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
    """How many batches there are; None where that is not known in advance."""
    try:
        return len(batches) if isinstance(batches, Sized) else None
    except TypeError:  # a loader of an iterable data set
        return None


def device_of(model: nn.Module) -> torch.device:
    """The device of its first parameter; the CPU for a network without parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def check_task(made: Any, where: str) -> Task:
    """The task that a user's function made; raises :class:`InputError` if it lacks a member.

    ``where`` names that function.
    """
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
    """Which way is better: as stated, else by the metric's ``higher_is_better``."""
    if row.best is not None:
        return row.best
    return "lowest" if getattr(row.make(), "higher_is_better", True) is False else "highest"


def facts_of(task: Task) -> dict[str, Any]:
    """What a report says of a task's data: its method ``facts`` if it has one, else its name.

    ``train`` and ``test`` are how many samples there are, where that is known. JSON-able.
    """
    own: Callable[[], dict[str, Any]] | None = getattr(task, "facts", None)
    return own() if own is not None else {"name": task.name}


def outputs_read(task: Task) -> tuple[str, ...]:
    """The outputs that loss and metrics read, where the task says so; nothing is guessed."""
    return tuple(getattr(task, "outputs", ()))


def fingerprint_of(task: Task) -> str:
    """What identifies a task's data: its method ``fingerprint`` if it has one.

    Else a digest of its name, its metrics, how many batches there are, and the first to test on.
    """
    own: Callable[[], str] | None = getattr(task, "fingerprint", None)
    if own is not None:
        return own()
    with drawing_from(0, devices=[]):
        train, test = task.batches("train", PART), task.batches("test", PART)
        first = tree_leaves(next(iter(test), None))
    values = [x.detach().cpu().contiguous() if isinstance(x, Tensor) else x for x in first]
    known = [x for x in values if isinstance(x, (Tensor, str, int, float))]
    metrics = [metric.to_json() for metric in task.metrics]
    return digest([task.name, metrics, number_of(train), number_of(test), known])


def sample_of(task: Task, model: nn.Module) -> tuple[Any, ...]:
    """One sample's inputs, by position: of the shapes of the first to test on, not its content.

    Floating point numbers are in another order, so that files that hold them show nothing of the
    data. Of a batch that cannot be split, all samples.
    """
    with drawing_from(0, devices=[]):
        first = list(each_first(task.batches("test", 1), 1))
    if not first:
        raise InputError(f"{task.name} gives no batch to test on")
    return tuple(map_tensors(_shuffled, _samples(task, model, first[0]).first(1).inputs))


def _shuffled(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    order = torch.randperm(tensor.numel(), generator=torch.Generator().manual_seed(0))
    return tensor.detach().cpu().flatten()[order].reshape(tensor.shape)


def samples_from(
    task: Task, count: int, seed: int, model: nn.Module, split: Split = "train"
) -> Samples:
    """About ``count`` samples of a task, fewer if it has fewer; the seed decides which.

    Batches whose tensors fit together are joined to one tensor per input, with ``count`` samples at
    most. Others stay as they are (:class:`SampleBatches`), and the last may go beyond ``count``.
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
"""The batch size that calibration samples are asked for in."""


def _samples(task: Task, model: nn.Module, batch: Batch) -> Samples:
    """One batch; with a ``count`` where its tensors do not have a row for each sample."""
    inputs = task.inputs(batch)
    arguments = inputs if isinstance(inputs, (tuple, Mapping)) else (inputs,)
    rows = {len(leaf) if leaf.dim() else None for leaf in _tensors((inputs, batch))}
    has_texts = any(isinstance(leaf, str) for leaf in tree_leaves(batch))
    indivisible = len(rows) != 1 or None in rows or has_texts or isinstance(inputs, list)
    count = samples_in(batch) if indivisible else None
    inputs = positional(model, arguments)
    return Samples(inputs, batch, lambda model, some: task.loss(model, some.labels), count)


def _joined(parts: Sequence[Samples]) -> Samples | None:
    """All batches as one, each tensor concatenated; None where their layouts differ."""
    first = parts[0]
    layouts = {_layout(part) for part in parts}
    if len(layouts) > 1 or any(part.count is not None for part in parts):
        return None
    images, labels = (
        tree_map(lambda *leaves: _concatenated(leaves), *(getattr(part, name) for part in parts))
        for name in ("images", "labels")
    )
    return replace(first, images=images, labels=labels)


def _concatenated(leaves: Sequence[Any]) -> Any:
    return torch.cat(list(leaves)) if isinstance(leaves[0], Tensor) else leaves[0]


def _layout(part: Samples) -> str:
    """Containers, shape and type of a single sample's tensors, and all that is no tensor."""
    return repr(map_tensors(_shape_and_type, (part.images, part.labels)))


def _shape_and_type(tensor: Tensor) -> tuple[tuple[int, ...], str]:
    return tuple(tensor.shape[1:]), str(tensor.dtype)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def each_first(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """The first batches that hold ``count`` samples together; the last may go beyond."""
    seen = 0
    for batch in batches:
        yield batch
        seen += samples_in(batch)
        if seen >= count:
            return
