"""The comparison: prune, export, measure, retrain, and one folder of results.

Each step is a package of its own (a cut, an export, a latency measurement, a study, a page of
results); this module calls them in order and hands results on. The command line parses, calls it,
and prints.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.capture.modules import copied, evaluation_mode
from slimnet.capture.trace import capture
from slimnet.costs.cost import cost
from slimnet.digest import sealed_json, weights_digest
from slimnet.errors import CaptureError, InputError, PruneError
from slimnet.example import tensors_of
from slimnet.export import export_onnx, measure_latency
from slimnet.export.inputs import check_batch, random_inputs
from slimnet.export.profile import by_layer
from slimnet.files.access import Opened
from slimnet.lineage import lineage_of
from slimnet.network import Network
from slimnet.networks.arch import Arch
from slimnet.output import scratch, write_json
from slimnet.progress import Progress
from slimnet.pruning import Pruned
from slimnet.repairs import check_number
from slimnet.report import NetworkReport, Report, slim_networks, write_html
from slimnet.rewinding import Rewinds
from slimnet.samples import Samples
from slimnet.study import (
    STORES,
    Candidate,
    Facts,
    LatencyFacts,
    Status,
    Study,
    latency_facts,
    run_study,
    slim_candidate,
)
from slimnet.study.budget import Budget
from slimnet.study.candidate import WHOLE
from slimnet.study.cells import Cut, cells, check_history, mask_of
from slimnet.study.masked import Masked, masked_candidate
from slimnet.study.results_file import results_json
from slimnet.task import Task, sample_of, shapes_in_words
from slimnet.tasks.classification import Dataset, check_fits
from slimnet.tasks.data import DataSpec
from slimnet.text import first_line
from slimnet.timing.prune import prune
from slimnet.train.masks import MASKS, single_weights
from slimnet.version import __version__


@dataclass(frozen=True)
class Settings:
    """How slim networks are made and timed in a comparison."""

    prune: Mapping[str, Any] = field(default_factory=dict)  # options of slimnet.prune
    batch: int = 1  # samples in a run that is timed
    timed: bool = True  # every network, beside the cuts to a time
    threads: int | None = None
    device: str | None = None
    samples: int = 1024  # what a repair reads, others for each seed
    data: Samples | None = None  # what criteria read
    init: Network | None = None  # before training
    history: Rewinds | None = None  # the dense network's earlier weights
    engine: str = "local"  # where cells run
    workers: int | None = None
    store: str = "folder"  # where results are kept
    keep: str = "none"  # which of the trained networks are kept, too
    curves: bool = False  # whether networks are tested after each epoch

    def cut(self, model: nn.Module, example: tuple[Any, ...], cut: Cut, **more: Any) -> Pruned:
        """One slim network."""
        init = None if self.init is None else self.init.tensors
        asked = {**self.prune, "criterion": cut.criterion, **cut.budget.options, **more}
        if cut.scope is not None:
            asked["scope"] = cut.scope
        if cut.budget.is_time:
            asked["batch"] = self.batch
        return prune(model, example, data=self.data, init=init, **asked)

    def initial(self, mask: str) -> Mapping[str, Tensor] | None:
        """The weights before training, where a mask criterion reads them."""
        if self.history is None or not MASKS[mask].reads_initial:
            return None
        return self.history.state(0)

    def to_json(self, example: tuple[Any, ...], study: Study) -> dict[str, Any]:
        """What decides the numbers of a study beside its own fields."""
        return {
            "prune": dict(self.prune),
            "latency_batch": self.batch if self.timed else None,
            **({} if self.timed or not study.is_timed else {"batch": self.batch}),
            "threads": self.threads,
            "input": [list(x.shape) for x in tensors_of(example)],
            **({} if self.data is None else {"samples": len(self.data)}),
            **({} if self.init is None else {"init": weights_digest(self.init.model)}),
            **({"repair": self.samples} if "repaired" in study.starts else {}),
        }


def one_sample(opened: Opened, task: Task) -> tuple[Any, ...]:
    """One sample as the example; refuses data that the network cannot train on."""
    model = opened.model
    if isinstance(task, Dataset):
        usual = opened.arch.input_shape if opened.arch is not None else None
        check_fits(task, usual or task.image_shape)
    example = sample_of(task, model)
    try:
        capture(Network.of(model), example)
    except CaptureError as error:
        why = first_line(error.__cause__)
        raise InputError(
            f"{task.name}: the network does not run on {shapes_in_words(example)}: {why}"
        ) from error
    with torch.no_grad(), evaluation_mode(Network.of(model)):
        # several samples: some metrics are of no single one
        task.measure(model, islice(task.batches("test", 16), 1))
    return example


def check_cuts(
    model: nn.Module, example: tuple[Any, ...], study: Study, settings: Settings
) -> None:
    """Raise, before anything is trained or written, where one of the cuts is not possible."""
    check_history(study, settings.history)
    if settings.timed or study.is_timed:
        check_batch(example, settings.batch)
    if "repaired" in study.starts:
        check_number(settings.samples)
    if settings.data is not None:
        settings = replace(settings, data=settings.data.first(16))  # which channels go is no matter
    for cut in study.cuts():
        try:
            _check(model, example, cut, settings)
        except (InputError, PruneError) as error:
            raise type(error)(f"{cut}: {error}") from error


def _check(model: nn.Module, example: tuple[Any, ...], cut: Cut, settings: Settings) -> None:
    """Raise where a cut is not possible; of one to a time, where nothing can be cut so."""
    if mask_of(cut.criterion) is not None:
        _masked(model, cut, settings)
        return
    nothing = replace(cut, budget=Budget("ratio", 0.0))  # to reach a time takes measuring
    settings.cut(model, example, nothing if cut.budget.is_time else cut, verify=False)


def run_comparison(
    name: str,
    model: nn.Module,
    example: tuple[Any, ...],
    task: Task,
    study: Study,
    directory: Path,
    settings: Settings,
    watch: Progress,
    *,
    arch: Arch | None = None,
    spec: DataSpec | None = None,
) -> NetworkReport:
    """Run a study of one network; what was finished in ``directory`` before is not run again.

    ``arch`` builds ``model`` and ``spec`` loads ``task`` in other processes, as
    :func:`slimnet.study.run_study` says.
    """
    study = replace(study, settings={**study.settings, **settings.to_json(example, study)})
    trained = None if settings.history is None else settings.history.trained
    if study.dense_compute is None and trained is not None:
        study = replace(study, dense_compute=trained.compute)
    with scratch() as folder:
        timer = _Timer(model, example, settings, folder)
        dense = _dense_candidate(model, example, task, study, directory, timer)
        if arch is not None and (lineage := lineage_of(Network.of(model))) is not None:
            dense = replace(dense, plan=lineage.plan)
        results = run_study(
            study,
            _Cutter(name, dense, settings, timer, watch),
            dense,
            task,
            directory,
            arch=arch,
            spec=spec,
            samples=settings.samples,
            engine=settings.engine,
            workers=settings.workers,
            store=settings.store,
            keep=settings.keep,
            curves=settings.curves,
            history=settings.history,
            progress=lambda status: watch(f"{name}: {_progress_text(status)}", status.share),
            device=settings.device,
            threads=settings.threads,
        )
    return NetworkReport(name, results.dense.facts, slim_networks(results), results, directory)


def _progress_text(status: Status) -> str:
    return f"{status.cell} ({status.done} of {status.total} done)"


def _masked(model: nn.Module, cut: Cut, settings: Settings) -> Masked:
    """The mask that a study's cut stands for."""
    mask = mask_of(cut.criterion) or ""
    weights = (weight.numel() for _, weight in single_weights(Network.of(model)))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rate = cut.budget.masked(sum(weights), parameters)
    return Masked(model, mask, rate, settings.initial(mask))


@dataclass(frozen=True)
class _Cutter:
    """Makes the slim networks of a study, and times them."""

    name: str
    dense: Candidate
    settings: Settings
    timer: _Timer
    watch: Progress

    def __call__(self, cut: Cut) -> Candidate:
        self.watch(f"{self.name}: cutting and timing {cut}", 0.0)
        model, example = self.dense.model, self.dense.example
        if mask_of(cut.criterion) is not None:
            masked = _masked(model, cut, self.settings)
            copy = copied(Network.of(model))
            slim = replace(masked_candidate(copy, masked, self.dense.facts.macs), example=example)
        else:
            slim = slim_candidate(self.settings.cut(model, example, cut))
        return replace(slim, facts=replace(slim.facts, latency=self.timer.slim(slim.model)))


def _dense_candidate(
    model: nn.Module,
    example: tuple[Any, ...],
    task: Task,
    study: Study,
    directory: Path,
    timer: _Timer,
) -> Candidate:
    """The dense network, timed unless the folder holds its record already."""
    dense = cost(model, example)
    finished = STORES[timer.settings.store](directory).read(
        cells(study, model, task, timer.settings.history)[0]
    )
    latency = timer.dense() if finished is None else finished.facts.latency
    return Candidate(
        model, Facts(dense.macs, dense.params, latency=latency), WHOLE, example=example
    )


class _Timer:
    """Exports the dense network once, and times each slim one against it."""

    def __init__(
        self, model: nn.Module, example: tuple[Any, ...], settings: Settings, folder: Path
    ) -> None:
        self.model = model
        self.example = example
        self.settings = settings
        self.folder = folder

    def dense(self) -> LatencyFacts | None:
        """The dense network alone."""
        return self._facts("dense", {"dense": self.model})

    def slim(self, model: nn.Module) -> LatencyFacts | None:
        """A slim network, interleaved with the dense one."""
        return self._facts("slim", {"dense": self.model, "slim": model})

    def _facts(self, name: str, models: Mapping[str, nn.Module]) -> LatencyFacts | None:
        if not self.settings.timed:
            return None
        files = {name: self._exported(name, model) for name, model in models.items()}
        latency = measure_latency(
            files,
            self.example,
            batch=self.settings.batch,
            threads=self.settings.threads,
        )
        facts = replace(latency_facts(latency, name), conditions=latency.conditions())
        return replace(facts, layers=self._layers(files[name]))

    def _layers(self, file: Path) -> dict[str, float]:
        """Where the milliseconds go."""
        inputs = random_inputs(self.example, self.settings.batch, 0)
        return by_layer(file, inputs, threads=self.settings.threads or torch.get_num_threads())

    def _exported(self, name: str, model: nn.Module) -> Path:
        path = self.folder / f"{name}.onnx"
        if name != "dense" or not path.exists():
            export_onnx(model, self.example, path, outputs=self.settings.prune.get("outputs", ()))
        return path


def write_comparison(
    directory: Path, title: str, command: str, networks: Sequence[NetworkReport]
) -> Path:
    """Write ``results.json`` and ``report.html``; gives the page's path."""
    measured = [
        "Metrics: on the whole test split, of the last epoch; mean and standard deviation over "
        "seeds.",
        "Cost: one MAC is one multiply-add of a convolution or linear layer, for one sample.",
    ]
    if conditions := conditions_of(networks):
        measured.append(f"Latency: {conditions}.")
    measured.append(_used(networks))
    networks = [_placed(network, directory) for network in networks]
    write_json(
        directory / "results.json",
        {n.name: sealed_json(results_json(n.results)) for n in networks if n.results},
    )
    report = Report(title, command, networks, versions(), measured)
    return write_html(directory / "report.html", report)


def _used(networks: Sequence[NetworkReport]) -> str:
    """What is known of memory and energy."""
    records = [one for network in networks if network.results for one in network.results.records]
    read = any(one.used.energy is not None for one in records)
    energy = (
        "energy is what all processors took meanwhile, by their counters"
        if read
        else "energy is not measurable here: no counters of processors can be read"
    )
    return f"Memory: the most that a process held while it trained; {energy}."


def _placed(network: NetworkReport, directory: Path) -> NetworkReport:
    """What is kept named as seen from ``directory``."""
    if network.results is None or network.folder is None:
        return network
    way = PurePosixPath(Path(os.path.relpath(network.folder, directory)).as_posix())
    kept = [
        replace(one, file=str(way / one.file), onnx=one.onnx and str(way / one.onnx))
        for one in network.results.kept
    ]
    return replace(network, results=replace(network.results, kept=tuple(kept)))


def conditions_of(networks: Sequence[NetworkReport]) -> str:
    """How the latencies were measured, in words; nothing where they were not."""
    slim = [slim.facts.latency for network in networks for slim in network.slim]
    measured = [latency.conditions for latency in slim if latency is not None]
    return (measured[-1] or "") if measured else ""


def versions() -> dict[str, str]:
    """What was used."""
    used = {name: version(name) for name in ("torch", "onnx", "onnxruntime")}
    return {"slimnet": __version__, **used}
