"""What the whole way and a frontier are made of: a cut, a training, an ONNX file, each by its name.

A :class:`Way` is what every step is given; :func:`begin` makes one, in a folder that is new or of
the same run. :func:`taken` runs a step and writes it into the journal.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from slimnet.auto.journal import AUTO, Done, Journal
from slimnet.auto.request import Request
from slimnet.capture.modules import copied
from slimnet.comparison import versions
from slimnet.costs.quantity import quantities, share_left
from slimnet.digest import digest, weights_digest
from slimnet.errors import InputError, SlimnetError
from slimnet.example import map_tensors
from slimnet.export import OnnxExport, export_onnx, metadata_of
from slimnet.files.access import Opened
from slimnet.files.artifact import Artifact, write_artifact
from slimnet.files.slim_file import read_slim
from slimnet.network import Network
from slimnet.output import make_folder, write_json
from slimnet.planning.outcome import asked_and_achieved
from slimnet.planning.request import BUDGETS, CutRequest
from slimnet.planning.review import review_of
from slimnet.progress import Progress
from slimnet.pruning import Pruned
from slimnet.ranges import written
from slimnet.retraining import NoTime, Recipe, Retrained, retrain
from slimnet.samples import Samples
from slimnet.study.results import check_finite
from slimnet.task import Metric, Task, fingerprint_of, outputs_read, samples_from
from slimnet.text import count
from slimnet.timing.prune import prune
from slimnet.train import measure
from slimnet.train.checkpoint import checkpoint_of
from slimnet.train.reporting import Reporting
from slimnet.version import __version__

Asked = TypeVar("Asked", bound=Request)
Asked_co = TypeVar("Asked_co", bound=Request, covariant=True)


@dataclass(frozen=True, eq=False)
class Way(Generic[Asked_co]):
    """What every step is given."""

    opened: Opened  # the dense network
    example: tuple[Any, ...]
    task: Task
    request: Asked_co
    folder: Path
    journal: Journal
    watch: Progress
    device: torch.device
    versions: Mapping[str, str]

    @property
    def model(self) -> nn.Module:
        """The dense network, in evaluation mode, which no step changes."""
        return self.opened.model

    @property
    def metric(self) -> Metric:
        """The one that counts."""
        return self.task.metrics[0]

    @cached_property
    def samples(self) -> Samples:
        """What the criterion and the repair read."""
        return samples_from(self.task, self.request.samples, self.request.seed, self.model)

    @property
    def outputs(self) -> Sequence[str]:
        """The outputs that somebody reads; all where none is named."""
        return self.request.cut.outputs

    def path(self, name: str) -> Path:
        """A file of the folder."""
        return self.folder / name

    def measured(self, artifact: Artifact | None = None) -> dict[str, float]:
        """The metrics of a slim network, or of the dense one."""
        dense = Network.of(self.model)
        model = copied(dense) if artifact is None else artifact.model(dense)
        return check_finite(measure(model, self.task, self.device))

    def worth(self, step: str) -> float:
        """What the metric that counts came to after a step."""
        return self.journal.steps[step].metrics[self.metric.name]

    def said(self, value: float) -> str:
        """The metric that counts, in words."""
        return f"{self.metric.name} {value:.4g}{self.metric.unit}"

    def command(self, name: str, *words: str | Path) -> str:
        """What a user types for a step of its own."""
        more = [words for words in self.request.spelled.more if words[0] in _TAKES[name]]
        return shlex.join(["slimnet", name, *map(str, (*words, *chain.from_iterable(more)))])

    def on_data(self, *words: str | Path) -> tuple[str | Path, ...]:
        """With the data."""
        return (*words, "--data", self.request.spelled.data)


_NETWORK = ("--arch", "--weights", "--allow-pickle")
_READ = (*_NETWORK, "--normalize", "--seed")
_TAKES = {
    "inspect": (*_NETWORK, "--input"),
    "prune": (*_READ, "--input"),
    "repair": _READ,
    "retrain": (*_READ, "--train-images", "--test-images", "--precision", "--compile"),
    "export": (),
    "latency": (),
}
"""Command → what of the options that the user gave to all of the way it takes, too."""


def begin(
    opened: Opened,
    example: tuple[Any, ...],
    task: Task,
    request: Asked,
    folder: Path,
    *,
    device: torch.device,
    watch: Progress,
    file: str = AUTO,
    **decides: Any,
) -> Way[Asked]:
    """The way of a request in a folder; ``decides`` is what else its outcome depends on.

    Raises :class:`InputError` for a network that is slim already and for a folder of another run.
    """
    if opened.artifact is not None:
        raise InputError(
            "the network is a slim one already: give the dense one that it was cut from"
        )
    read = request.cut.outputs or outputs_read(task)
    request = replace(request, cut=replace(request.cut, outputs=read))
    model = opened.model.to(device).eval()
    inputs = map_tensors(lambda x: x.to(device), example)
    identity = {
        "request": request.to_json(),
        "network": weights_digest(model),
        "data": digest(fingerprint_of(task)),
        "slimnet": __version__,
        **decides,
    }
    journal = Journal(make_folder(folder), identity, file)
    return Way(opened, inputs, task, request, folder, journal, watch, device, versions())


def taken(
    way: Way[Asked],
    name: str,
    what: str,
    step: Callable[[Way[Asked]], Done],
    stop: Callable[[str], None],
) -> Done:
    """What came of a step, taken now; raises what it raises, with its name.

    ``stop`` is told the sentence where it fails; everything before it stays.
    """
    way.watch(what, 0.0)
    try:
        return way.journal.take(name, partial(step, way))
    except SlimnetError as error:
        stop(f"{what}: {error}")
        kept = ", ".join(way.journal.steps) or "nothing"
        raise InputError(f"{name}: {error}; {way.folder} keeps what was done: {kept}") from error


def cut_to(way: Way[Request], request: CutRequest, slim: str, plan: str) -> Done:
    """Remove channels, prove it, and repair where asked; writes both files."""
    pruned = prune(way.model, way.example, data=way.samples, watch=way.watch, **vars(request))
    artifact = way.opened.artifact_of(pruned)
    write_artifact(artifact, way.path(slim))
    write_json(way.path(plan), review_of(pruned.plan, pruned.inspection.groups))
    metrics = way.measured(artifact)
    before, after = pruned.plan.before or {}, pruned.plan.after or {}
    left = ", ".join(
        f"{share_left(before, after, name)} of the {quantity.label}"
        for name, quantity in quantities(before).items()
        if quantity.brief
    )
    proof = pruned.certificate
    typed = _typed_plan(request, way.path(plan)) if request.latency else _typed_cut(pruned)
    return Done(
        f"{left} left, {way.said(metrics[way.metric.name])}",
        files=(slim, plan),
        command=way.command(
            *("prune", way.request.spelled.model, *typed, *grouped(way.request)),
            *way.on_data("--samples", str(way.request.samples), "-o", way.path(slim)),
        ),
        metrics=metrics,
        record={
            "plan": pruned.plan.to_json(),
            "certificate": None if proof is None else proof.to_json(),
            "proof": str(proof),
            "sentences": list(asked_and_achieved(pruned.plan)),
        },
    )


def _typed_plan(request: CutRequest, plan: Path) -> list[str]:
    """How a cut that was found by measuring is typed: as its plan."""
    repair = ["--repair"] if request.repair else []
    return ["--plan", str(plan), "--criterion", str(request.criterion), *repair]


def _typed_cut(pruned: Pruned) -> list[str]:
    """How any other is typed."""
    asked = pruned.plan.asked or {}
    named = {name: asked[name] for name in _TYPED if asked.get(name) is not None}
    words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in named.items()]
    words += [("--keep", layer) for layer in asked.get("keep", ())]
    words += [("--drop-blocks", block.name) for block in pruned.plan.blocks]
    words += [("--layer-ratio", f"{k}={v}") for k, v in asked.get("layer_ratio", {}).items()]
    words += [("--width", f"{k}={_listed(v)}") for k, v in asked.get("widths", {}).items()]
    words += [("--align", "off")] if asked.get("align") is None else [("--align", asked["align"])]
    flags = ["--best-effort"] if asked.get("best_effort") else []
    return [*(str(word) for pair in words for word in pair), *flags]


def grouped(request: Request) -> list[str]:
    """How what decides the groups is typed."""
    read = ["--outputs", ",".join(request.cut.outputs)] if request.cut.outputs else []
    return [*read, *(["--heads"] if request.cut.heads else [])]


def _listed(keep: int | Sequence[int]) -> str:
    return str(keep) if isinstance(keep, int) else written(keep)


_TYPED = (*BUDGETS, "criterion", "scope", "min_channels")


def train_on(way: Way[Request], slim: str, tuned: str, minutes: float | None) -> Done:
    """Train a slim network on, for the epochs of the request or so many minutes."""
    target, request = way.path(tuned), way.request
    checkpoint = checkpoint_of(target)
    recipe = Recipe(
        request.schedule(way.model, way.task),
        minutes=minutes,
        distill=request.distill,
        seed=request.seed,
        compile=request.compile,
    )
    try:
        trained = retrain(
            way.path(slim),
            way.task,
            recipe,
            against=way.model,
            checkpoint=checkpoint,
            device=way.device,
            execution=request.execution,
            callbacks=[Reporting(way.task, "training", way.watch)],
        )
    except NoTime as why:
        return Done(f"not trained: {why}", record={"why": str(why)})
    write_artifact(trained.artifact, target)
    checkpoint.unlink(missing_ok=True)
    metrics = check_finite(trained.history.metrics)
    return Done(
        f"{way.said(metrics[way.metric.name])} after {count(trained.history.epochs, 'epoch')}",
        files=(tuned,),
        command=_training(way, recipe, trained, slim, tuned),
        metrics=metrics,
        record=trained.to_json(),
    )


def _training(way: Way[Request], recipe: Recipe, trained: Retrained, slim: str, tuned: str) -> str:
    schedule = recipe.schedule
    words = ["--epochs", trained.history.epochs, "--optimizer", schedule.optimizer]
    words += ["--lr", f"{schedule.lr:g}", "--weight-decay", f"{schedule.weight_decay:g}"]
    words += ["--batch", schedule.batch, *(["--distill"] if recipe.distill else [])]
    files = ("--against", way.request.spelled.model, "-o", way.path(tuned))
    return way.command("retrain", way.path(slim), *way.on_data(*files, *map(str, words)))


def slim_onnx(way: Way[Request], slim: str, onnx: str) -> OnnxExport:
    """ONNX of a slim network, with its plan and proof, compared with PyTorch."""
    artifact = read_slim(way.path(slim))
    model = artifact.model(Network.of(way.model)).eval()
    way.watch("exporting", 0.0)
    told = metadata_of(artifact.plan, artifact.certificate, trained=artifact.trained)
    return export_onnx(model, way.example, way.path(onnx), outputs=way.outputs, extra=told)


def dense_onnx(way: Way[Request]) -> Path:
    """That of the dense network, written once."""
    path = way.path("dense.onnx")
    if not path.exists() or "dense.onnx" not in way.journal.settled:  # or of another network
        export_onnx(way.model, way.example, path, verify=False, outputs=way.outputs)
        way.journal.settle("dense.onnx", lambda: path.name)
    return path
