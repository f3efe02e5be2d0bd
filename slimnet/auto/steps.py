"""The steps of the whole way, in order: each reads the files before it and writes its own."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from slimnet.auto.journal import Done, Journal
from slimnet.auto.request import AutoRequest
from slimnet.capture.modules import copied
from slimnet.costs.quantity import quantities, share_left
from slimnet.errors import PruneError
from slimnet.export import Latency, export_onnx, measure_latency, metadata_of
from slimnet.export.inputs import random_inputs
from slimnet.export.profile import by_layer
from slimnet.files.access import Opened, repair
from slimnet.files.artifact import Artifact, write_artifact
from slimnet.files.slim_file import read_slim
from slimnet.network import Network
from slimnet.output import write_json
from slimnet.planning.outcome import asked_and_achieved
from slimnet.planning.request import BUDGETS
from slimnet.planning.review import review_of
from slimnet.progress import Progress
from slimnet.pruning import Pruned, inspect
from slimnet.ranges import written
from slimnet.report.sensitivity import measured_sentence, write_sensitivity
from slimnet.retraining import NoTime, Recipe, Retrained, retrain
from slimnet.samples import Samples
from slimnet.study.curves import Curve, Sensitivity, sensitivity
from slimnet.study.results import check_finite
from slimnet.task import Metric, Task, samples_from
from slimnet.text import count
from slimnet.timing.prune import prune
from slimnet.train import measure
from slimnet.train.checkpoint import checkpoint_of
from slimnet.train.reporting import Reporting


@dataclass(frozen=True, eq=False)
class Way:
    """What every step is given."""

    opened: Opened  # the dense network
    example: tuple[Any, ...]
    task: Task
    request: AutoRequest
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
}
"""Command → what of the options that the user gave to all of the way it takes, too."""

Step: TypeAlias = Callable[[Way], Done]


def look(way: Way) -> Done:
    """What the dense network is worth, and what of it can be cut."""
    metrics = way.measured()
    heads = way.request.cut.heads
    found = inspect(way.model, way.example, heads=heads, outputs=way.outputs)
    cuttable = sum(layer.prunable > 0 for layer in found.layers)
    if not found.groups:
        reasons = [layer.reasons[0] for layer in found.layers if layer.reasons]
        raise PruneError(f"no layer of this network can be cut: {(reasons or ['it has none'])[0]}")
    return Done(
        f"{way.said(metrics[way.metric.name])}; {cuttable} of {count(len(found.layers), 'layer')} "
        f"can be cut, in {count(len(found.groups), 'group')}",
        metrics=metrics,
        record={"cost": found.cost.to_json()},
        command=way.command("inspect", way.request.spelled.model, *_grouped(way.request)),
    )


def hurts(way: Way) -> Done:
    """Where a cut hurts least: each group alone, on some of the calibration samples."""
    samples = way.samples.first(_SENSITIVE)
    how: dict[str, Any] = {"points": 3, "seed": way.request.seed, "outputs": way.outputs}
    how["heads"] = way.request.cut.heads
    on = replace(samples, labels=None, loss=None)
    found = sensitivity(way.model, way.example, on, watch=way.watch, **how)
    write_sensitivity(way.path("sensitivity.html"), found, "Where a cut hurts", way.versions)
    return Done(_least_and_most(found), files=("sensitivity.html",))


_SENSITIVE = 128  # samples: every group costs three passes over them


def _least_and_most(found: Sensitivity) -> str:
    curves = sorted((c for c in found.curves if c.points), key=_damage)
    if not curves:
        return "no group was measured"
    ends = f"least in {curves[0].layers[0]}, most in {curves[-1].layers[0]}"
    return f"half of a group's channels: {ends}; {measured_sentence(found)}"


def _damage(curve: Curve) -> float:
    return curve.points[len(curve.points) // 2].error


def cut(way: Way) -> Done:
    """Remove channels, and prove it."""
    request = way.request.cutting()
    pruned = prune(way.model, way.example, data=way.samples, watch=way.watch, **vars(request))
    artifact = way.opened.artifact_of(pruned)
    write_artifact(artifact, way.path("cut.pt"))
    write_json(way.path("plan.json"), review_of(pruned.plan, pruned.inspection.groups))
    metrics = way.measured(artifact)
    before, after = pruned.plan.before or {}, pruned.plan.after or {}
    left = ", ".join(
        f"{share_left(before, after, name)} of the {quantity.label}"
        for name, quantity in quantities(before).items()
        if quantity.brief
    )
    proof = pruned.certificate
    return Done(
        f"{left} left, {way.said(metrics[way.metric.name])}",
        files=("cut.pt", "plan.json"),
        command=way.command(
            *("prune", way.request.spelled.model, *_spelled(way, pruned), *_grouped(way.request)),
            *way.on_data("--samples", str(way.request.samples), "-o", way.path("cut.pt")),
        ),
        metrics=metrics,
        record={
            "plan": pruned.plan.to_json(),
            "certificate": None if proof is None else proof.to_json(),
            "proof": str(proof),
            "sentences": list(asked_and_achieved(pruned.plan)),
        },
    )


def _spelled(way: Way, pruned: Pruned) -> list[str]:
    """How the cut is typed; one that was found by measuring as its plan."""
    asked = pruned.plan.asked or {}
    if way.request.is_timed:
        return ["--plan", str(way.path("plan.json")), "--criterion", str(asked["criterion"])]
    named = {name: asked[name] for name in _TYPED if asked.get(name) is not None}
    words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in named.items()]
    words += [("--keep", layer) for layer in asked.get("keep", ())]
    words += [("--drop-blocks", block.name) for block in pruned.plan.blocks]
    words += [("--layer-ratio", f"{k}={v}") for k, v in asked.get("layer_ratio", {}).items()]
    words += [("--width", f"{k}={_listed(v)}") for k, v in asked.get("widths", {}).items()]
    words += [("--align", "off")] if asked.get("align") is None else [("--align", asked["align"])]
    flags = ["--best-effort"] if asked.get("best_effort") else []
    return [*(str(word) for pair in words for word in pair), *flags]


def _grouped(request: AutoRequest) -> list[str]:
    """How what decides the groups is typed."""
    read = ["--outputs", ",".join(request.cut.outputs)] if request.cut.outputs else []
    return [*read, *(["--heads"] if request.cut.heads else [])]


def _listed(keep: int | Sequence[int]) -> str:
    return str(keep) if isinstance(keep, int) else written(keep)


_TYPED = (*BUDGETS, "criterion", "scope", "min_channels")


def mend(way: Way) -> Done:
    """Win back without labels what can be won."""
    repaired = repair(
        way.path("cut.pt"), way.model, way.samples, seed=way.request.seed, watch=way.watch
    )
    write_artifact(repaired.artifact, way.path("repaired.pt"))
    metrics = way.measured(repaired.artifact)
    files = ("--against", way.request.spelled.model, "-o", way.path("repaired.pt"))
    samples = ("--samples", str(way.request.samples))
    return Done(
        f"{way.said(metrics[way.metric.name])}, without labels",
        files=("repaired.pt",),
        command=way.command("repair", way.path("cut.pt"), *way.on_data(*files, *samples)),
        metrics=metrics,
        record={"repair": repaired.repair.to_json()},
    )


def tune(way: Way) -> Done:
    """Train on, for as long as there is time."""
    target, request = way.path("tuned.pt"), way.request
    checkpoint = checkpoint_of(target)
    minutes = None if request.epochs else way.journal.settle("minutes", lambda: _left(way))
    recipe = Recipe(
        request.schedule(way.model, way.task),
        minutes=minutes,
        distill=request.distill,
        seed=request.seed,
        compile=request.compile,
    )
    try:
        trained = retrain(
            way.path("repaired.pt"),
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
        files=("tuned.pt",),
        command=_training(way, recipe, trained),
        metrics=metrics,
        record=trained.to_json(),
    )


def _left(way: Way) -> float:
    """Minutes for the training: what is over, but for a part that export and timing take."""
    whole, spent = way.request.minutes, way.journal.seconds / 60
    return max(whole - spent - _RESERVE * whole, 1e-9)


_RESERVE = 0.1


def _training(way: Way, recipe: Recipe, trained: Retrained) -> str:
    schedule = recipe.schedule
    words = ["--epochs", trained.history.epochs, "--optimizer", schedule.optimizer]
    words += ["--lr", f"{schedule.lr:g}", "--weight-decay", f"{schedule.weight_decay:g}"]
    words += ["--batch", schedule.batch, *(["--distill"] if recipe.distill else [])]
    files = ("--against", way.request.spelled.model, "-o", way.path("tuned.pt"))
    return way.command("retrain", way.path("repaired.pt"), *way.on_data(*files, *map(str, words)))


def ship(way: Way) -> Done:
    """ONNX of the better of both slim networks, and of the dense one, compared with PyTorch."""
    name = _better(way)
    artifact = read_slim(way.path(name))
    slim = artifact.model(Network.of(way.model)).eval()
    way.watch("exporting", 0.0)
    told = metadata_of(artifact.plan, artifact.certificate, trained=artifact.trained)
    made = export_onnx(slim, way.example, way.path("slim.onnx"), outputs=way.outputs, extra=told)
    _dense_onnx(way)
    parity = "" if made.parity is None else f"; {made.parity.sentence('onnxruntime')}"
    return Done(
        f"slim.onnx is {name}{parity}",
        files=("slim.onnx", "dense.onnx"),
        command=way.command("export", way.path(name), way.path("slim.onnx"), "--onnx"),
        record={"of": name, "onnx": made.to_json()},
    )


def _better(way: Way) -> str:
    """The tuned network, unless it is worse than the repaired one."""
    tuned = way.journal.steps["retrain"].metrics
    if not tuned or way.metric.is_better(way.worth("repair"), tuned[way.metric.name]):
        return "repaired.pt"
    return "tuned.pt"


def clock(way: Way) -> Done:
    """How fast both files run."""
    way.watch("measuring the speed", 0.0)
    latency = _timed(way, way.path("slim.onnx"))
    return Done(latency.sentence(), record={**latency.to_json(), "layers": _layers(way)})


def _layers(way: Way) -> list[dict[str, Any]]:
    """Where the milliseconds of both files go; what takes longest in the dense one first."""
    inputs = random_inputs(way.example, way.request.latency_batch, way.request.seed)
    threads = way.request.threads or torch.get_num_threads()
    dense, slim = (
        by_layer(file, inputs, threads=threads)
        for file in (_dense_onnx(way), way.path("slim.onnx"))
    )
    names = sorted({**dense, **slim}, key=lambda name: -dense.get(name, 0.0))
    return [{"name": n, "dense": dense.get(n, 0.0), "slim": slim.get(n, 0.0)} for n in names]


def _timed(way: Way, slim: Path) -> Latency:
    files = {"dense": _dense_onnx(way), "slim": slim}
    request = way.request
    return measure_latency(files, way.example, batch=request.latency_batch, threads=request.threads)


def _dense_onnx(way: Way) -> Path:
    path = way.path("dense.onnx")
    if not path.exists() or "dense.onnx" not in way.journal.settled:  # or of another network
        export_onnx(way.model, way.example, path, verify=False, outputs=way.outputs)
        way.journal.settle("dense.onnx", lambda: path.name)
    return path


FILES = (
    "plan.json",
    *("cut.pt", "repaired.pt", "tuned.pt", "tuned.pt.training", "slim.onnx", "dense.onnx"),
    "sensitivity.html",
)
"""What the steps write."""

STEPS: Mapping[str, tuple[str, Step]] = {
    "inspect": ("what can be cut", look),
    "sensitivity": ("where it hurts least", hurts),
    "prune": ("cut and proven", cut),
    "repair": ("repaired", mend),
    "retrain": ("trained on", tune),
    "export": ("exported", ship),
    "latency": ("measured", clock),
}
"""Name → what the step does, in words, and the step."""
