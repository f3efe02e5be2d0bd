"""The steps of the whole way, in order: each reads the files before it and writes its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import torch

from slimnet.auto.journal import Done
from slimnet.auto.pieces import Way, cut_to, dense_onnx, grouped, slim_onnx, train_on
from slimnet.auto.request import AutoRequest, Request
from slimnet.errors import PruneError
from slimnet.export import measure_latency
from slimnet.export.inputs import random_inputs
from slimnet.export.profile import by_layer
from slimnet.files.access import repair
from slimnet.files.artifact import write_artifact
from slimnet.pruning import inspect
from slimnet.report.sensitivity import measured_sentence, write_sensitivity
from slimnet.study.curves import Curve, Sensitivity, sensitivity
from slimnet.text import count

Step: TypeAlias = Callable[[Way[AutoRequest]], Done]


def look(way: Way[Request]) -> Done:
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
        command=way.command("inspect", way.request.spelled.model, *grouped(way.request)),
    )


def hurts(way: Way[AutoRequest]) -> Done:
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


def cut(way: Way[AutoRequest]) -> Done:
    """Remove channels, and prove it."""
    return cut_to(way, way.request.cutting(), "cut.pt", "plan.json")


def mend(way: Way[AutoRequest]) -> Done:
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


def tune(way: Way[AutoRequest]) -> Done:
    """Train on, for as long as there is time."""
    minutes = None if way.request.epochs else way.journal.settle("minutes", lambda: _left(way))
    return train_on(way, "repaired.pt", "tuned.pt", minutes)


def _left(way: Way[AutoRequest]) -> float:
    """Minutes for the training: what is over, but for a part that export and timing take."""
    whole, spent = way.request.minutes, way.journal.seconds / 60
    return max(whole - spent - _RESERVE * whole, 1e-9)


_RESERVE = 0.1


def ship(way: Way[AutoRequest]) -> Done:
    """ONNX of the better of both slim networks, and of the dense one, compared with PyTorch."""
    name = _better(way)
    made = slim_onnx(way, name, "slim.onnx")
    dense_onnx(way)
    parity = "" if made.parity is None else f"; {made.parity.sentence('onnxruntime')}"
    return Done(
        f"slim.onnx is {name}{parity}",
        files=("slim.onnx", "dense.onnx"),
        command=way.command("export", way.path(name), way.path("slim.onnx"), "--onnx"),
        record={"of": name, "onnx": made.to_json()},
    )


def _better(way: Way[AutoRequest]) -> str:
    """The tuned network, unless it is worse than the repaired one."""
    tuned = way.journal.steps["retrain"].metrics
    if not tuned or way.metric.is_better(way.worth("repair"), tuned[way.metric.name]):
        return "repaired.pt"
    return "tuned.pt"


def clock(way: Way[AutoRequest]) -> Done:
    """How fast both files run."""
    way.watch("measuring the speed", 0.0)
    request, files = way.request, {"dense": dense_onnx(way), "slim": way.path("slim.onnx")}
    how: dict[str, Any] = {"batch": request.latency_batch, "threads": request.threads}
    latency = measure_latency(files, way.example, **how)
    return Done(latency.sentence(), record={**latency.to_json(), "layers": _layers(way)})


def _layers(way: Way[AutoRequest]) -> dict[str, dict[str, float]]:
    """Where the milliseconds of both files go."""
    inputs = random_inputs(way.example, way.request.latency_batch, way.request.seed)
    threads = way.request.threads or torch.get_num_threads()
    files = {"dense": dense_onnx(way), "slim": way.path("slim.onnx")}
    return {name: by_layer(file, inputs, threads=threads) for name, file in files.items()}


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
