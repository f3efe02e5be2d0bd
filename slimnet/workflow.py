"""The comparison and the demo: prune, export, measure, retrain, and one folder of results.

Built from the public pieces only; the command line parses, calls this, and prints.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import nn

from slimnet.artifact import write_artifact
from slimnet.cost import count
from slimnet.errors import InputError
from slimnet.export import Latency, export_onnx, measure_latency
from slimnet.files import Opened
from slimnet.models import MODELS
from slimnet.modules import clone
from slimnet.prune import prune
from slimnet.report import Network, Report, slim_networks, write_html
from slimnet.study import (
    Candidate,
    Status,
    Study,
    latency_facts,
    run_study,
    slim_candidate,
    write_json,
)
from slimnet.train import Dataset, Schedule, load_data, train
from slimnet.version import __version__

Watch = Callable[[str, float], None]
"""Told what is being done and how much of it is (0..1)."""


@dataclass(frozen=True)
class Settings:
    """How slim networks are made and timed in a comparison."""

    prune: Mapping[str, Any] = field(default_factory=dict)  # options of slimnet.prune
    latency_batch: int | None = 1  # None: latency is not measured
    threads: int | None = None
    device: str | None = None


def compare(
    name: str,
    model: nn.Module,
    example: tuple[Any, ...],
    dataset: Dataset,
    study: Study,
    directory: Path,
    settings: Settings,
    watch: Watch,
) -> tuple[Network, Latency | None]:
    """Run a study of one network; what was finished in ``directory`` before is not run again."""
    study = replace(study, settings={**study.settings, "prune": dict(settings.prune)})
    with tempfile.TemporaryDirectory(prefix="slimnet-") as folder:
        timer = _Timer(model, example, settings, Path(folder))
        dense = _dense_candidate(model, example, timer)

        def make_slim(criterion: str, ratio: float) -> Candidate:
            watch(f"{name}: cutting {criterion}, ratio {ratio:g}", 0.0)
            pruned = prune(model, example, ratio=ratio, criterion=criterion, **settings.prune)
            return slim_candidate(pruned, timer.slim(pruned.model))

        def progress(status: Status) -> None:
            text = f"{name}: {status.cell} ({status.done} of {status.total} done)"
            watch(text, (status.done + status.part % 1) / status.total)

        results = run_study(
            study,
            make_slim,
            dense,
            dataset,
            directory,
            progress=progress,
            clone=copied,
            device=settings.device,
        )
    stored = results.dense
    network = Network(
        name=name,
        macs=stored.macs,
        params=stored.params,
        slim=slim_networks(results),
        latency=stored.latency,
        results=results,
    )
    return network, timer.last


def copied(model: nn.Module) -> nn.Module:
    """A copy with weights of its own."""
    return clone(model, lambda _, tensor: tensor.detach().clone())


def _dense_candidate(model: nn.Module, example: tuple[Any, ...], timer: _Timer) -> Candidate:
    cost = count(model, example)
    return Candidate(model, cost.macs, cost.params, latency=timer.dense())


class _Timer:
    """Exports the dense network once, and times each slim one against it."""

    def __init__(
        self, model: nn.Module, example: tuple[Any, ...], settings: Settings, folder: Path
    ) -> None:
        self.model = model
        self.example = example
        self.settings = settings
        self.folder = folder
        self.last: Latency | None = None

    def dense(self) -> dict[str, Any] | None:
        """The dense network alone."""
        if self.settings.latency_batch is None:
            return None
        export_onnx(self.model, self.example, self.folder / "dense.onnx")
        return latency_facts(self._measure(["dense"]), "dense")

    def slim(self, model: nn.Module) -> dict[str, Any] | None:
        """A slim network, interleaved with the dense one."""
        if self.settings.latency_batch is None:
            return None
        export_onnx(model, self.example, self.folder / "slim.onnx")
        self.last = self._measure(["dense", "slim"])
        return latency_facts(self.last, "slim")

    def _measure(self, names: Sequence[str]) -> Latency:
        return measure_latency(
            {name: self.folder / f"{name}.onnx" for name in names},
            self.example,
            batch=self.settings.latency_batch or 1,
            threads=self.settings.threads,
        )


def write_comparison(
    directory: Path, title: str, command: str, networks: Sequence[Network], latency: Latency | None
) -> Path:
    """Write ``results.json`` and ``report.html``; gives the page's path."""
    measured = [
        "Accuracy: on all test images, of the last epoch; mean and standard deviation over seeds.",
        "Cost: one MAC is one multiply-add of a convolution or linear layer, for one image.",
    ]
    if latency is not None:
        measured.append(f"Latency: {latency.conditions()}.")
    write_json(
        directory / "results.json",
        {network.name: network.results.to_json() for network in networks if network.results},
    )
    report = Report(title, command, networks, versions(), measured)
    return write_html(directory / "report.html", report)


def versions() -> dict[str, str]:
    """What was used."""
    return {
        "slimnet": __version__,
        "torch": str(torch.__version__),
        "onnxruntime": str(onnxruntime.__version__),
    }


@contextmanager
def folder_for(directory: Path) -> Iterator[Path]:
    """The output folder, made if need be; raises :class:`InputError` where it cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise InputError(f"{directory} cannot be written: {error.strerror}") from error
    yield directory


@dataclass(frozen=True)
class DemoNetwork:
    """One of the demo's networks and how it is cut."""

    name: str
    criterion: str


DEMO = (DemoNetwork("digits_vgg", "bn-scale"), DemoNetwork("digits_resnet", "l1"))
DEMO_RATIO = 0.5
DEMO_SCHEDULE = Schedule(epochs=8, lr=0.1, batch=64)
DEMO_BATCH = 64


@dataclass(frozen=True)
class DemoResult:
    """What the demo made."""

    networks: tuple[Network, ...]
    certificates: tuple[str, ...]
    latency: tuple[Latency, ...]
    page: Path


def demo(directory: Path, *, seeds: int, watch: Watch, settings: Settings) -> DemoResult:
    """The whole way once, on scikit-learn's scanned digits: see the README."""
    dataset = load_data("digits")
    networks, certificates, latencies = [], [], []
    for row in DEMO:
        model = _trained(row.name, dataset, settings, watch)
        example = (torch.zeros(1, *MODELS[row.name].input_shape),)
        study = Study(
            ratios=(DEMO_RATIO,),
            criteria=(row.criterion,),
            regimes=("finetune", "scratch-e", "scratch-b"),
            seeds=tuple(range(seeds)),
            base=DEMO_SCHEDULE,
        )
        cells = directory / row.name
        network, latency = compare(row.name, model, example, dataset, study, cells, settings, watch)
        networks.append(network)
        certificates.append(_write_files(directory, row, model, example))
        latencies += [latency] if latency is not None else []
    page = write_comparison(
        directory, "slimnet demo: digits", "slimnet demo", networks, (latencies or [None])[-1]
    )
    return DemoResult(tuple(networks), tuple(certificates), tuple(latencies), page)


def _trained(name: str, dataset: Dataset, settings: Settings, watch: Watch) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name].make()
    train(
        model,
        dataset,
        DEMO_SCHEDULE,
        seed=0,
        device=settings.device,
        progress=lambda part: watch(f"{name}: training the dense network", part),
    )
    return model.eval()


def _write_files(
    directory: Path, row: DemoNetwork, model: nn.Module, example: tuple[Any, ...]
) -> str:
    """``slim.pt`` and both ONNX files (the last network's stay); gives the certificate's words."""
    from slimnet.arch import Arch

    pruned = prune(model, example, ratio=DEMO_RATIO, criterion=row.criterion)
    opened = Opened(model, Arch("slimnet", row.name))
    write_artifact(opened.artifact_of(pruned), directory / "slim.pt")
    export_onnx(model, example, directory / "dense.onnx")
    export_onnx(pruned.model, example, directory / "slim.onnx")
    return f"{row.name}: {pruned.certificate}"
