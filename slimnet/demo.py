"""The demo: two small networks on scikit-learn's scanned digits, the whole way once.

Nothing is downloaded. The dense networks are trained here; a second run goes on from the first.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from slimnet.capture.randomness import drawing_from
from slimnet.comparison import Settings, conditions_of, run_comparison, write_comparison
from slimnet.errors import InputError
from slimnet.export import export_onnx
from slimnet.files.access import save
from slimnet.models import MODELS
from slimnet.networks.arch import Arch
from slimnet.networks.payload import load_payload
from slimnet.output import set_aside, write_torch
from slimnet.progress import Progress, not_shown, remark
from slimnet.report import NetworkReport
from slimnet.study import Study
from slimnet.study.budget import ratios
from slimnet.task import Task, fingerprint_of
from slimnet.tasks.data import DataSpec
from slimnet.timing.prune import prune
from slimnet.train import Schedule, train
from slimnet.version import __version__


@dataclass(frozen=True)
class DemoNetwork:
    """One of the demo's networks and how it is cut."""

    name: str
    criterion: str


DEMO = (DemoNetwork("digits_vgg", "bn-scale"), DemoNetwork("digits_resnet", "l1"))
DEMO_RATIO = 0.5
DEMO_SCHEDULE = Schedule(epochs=12, lr=0.1, batch=64)
DEMO_BATCH = 64


@dataclass(frozen=True)
class DemoResult:
    """What the demo made."""

    networks: tuple[NetworkReport, ...]
    conditions: str  # how the latencies were measured
    page: Path


def run_demo(
    directory: Path,
    *,
    seeds: int = 3,
    watch: Progress = not_shown,
    threads: int | None = None,
    device: str | None = None,
    schedule: Schedule = DEMO_SCHEDULE,
) -> DemoResult:
    """The whole way once, on scikit-learn's scanned digits; a second run goes on from the first.

    ``slim.pt``, ``dense.onnx`` and ``slim.onnx`` are those of the last network.
    """
    settings = Settings(batch=DEMO_BATCH, threads=threads, device=device)
    spec = DataSpec("digits")
    task = spec.load()
    networks = []
    for row in DEMO:
        model = _trained(row.name, task, schedule, directory / row.name, device, watch)
        example = (torch.zeros(1, *MODELS[row.name].input_shape),)
        study = Study(
            budgets=ratios(DEMO_RATIO),
            criteria=(row.criterion,),
            regimes=("repair", "finetune", "scratch-e", "scratch-b"),
            seeds=tuple(range(seeds)),
            base=schedule,
        )
        networks.append(
            run_comparison(
                row.name,
                model,
                example,
                task,
                study,
                directory / row.name,
                settings,
                watch,
                arch=Arch("slimnet", row.name),
                spec=spec,
            )
        )
    watch(f"{row.name}: writing the networks and the report", 0.99)
    _write_networks(directory, row, model, example)
    page = write_comparison(directory, "slimnet demo: digits", "slimnet demo", networks)
    return DemoResult(tuple(networks), conditions_of(networks), page)


def _trained(
    name: str,
    task: Task,
    schedule: Schedule,
    directory: Path,
    device: str | None,
    watch: Progress,
) -> nn.Module:
    """The dense network, trained, or as an earlier run in this folder left it."""
    told = json.dumps([name, schedule.to_json(), fingerprint_of(task), __version__])
    digest = hashlib.blake2b(told.encode(), digest_size=8).hexdigest()
    kept = directory / f"dense-{digest}.pt"
    with drawing_from(0):
        model = MODELS[name].make()
    if not _restored(model, kept):
        watch(f"{name}: training the dense network", 0.0)
        train(
            model,
            task,
            schedule,
            seed=0,
            device=device,
            progress=lambda part: watch(f"{name}: training the dense network", part),
        )
        directory.mkdir(exist_ok=True)
        write_torch(kept, model.state_dict())
    return model.eval()


def _restored(model: nn.Module, kept: Path) -> bool:
    if not kept.exists():
        return False
    try:
        model.load_state_dict(load_payload(kept))
    except (InputError, RuntimeError, TypeError):
        aside = set_aside(kept, "damaged")
        remark(f"{kept} is damaged: it is kept as {aside.name}, and the network is trained again")
        return False
    return True


def _write_networks(
    directory: Path, row: DemoNetwork, model: nn.Module, example: tuple[torch.Tensor, ...]
) -> None:
    """``slim.pt`` and both ONNX files."""
    pruned = prune(model, example, ratio=DEMO_RATIO, criterion=row.criterion)
    save(pruned, directory / "slim.pt", str(Arch("slimnet", row.name)))
    export_onnx(model, example, directory / "dense.onnx")
    export_onnx(pruned.model, example, directory / "slim.onnx")
