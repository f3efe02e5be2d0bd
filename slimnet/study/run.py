"""Run a study: make each slim network, retrain it in each regime with each seed, test it.

How a slim network is made and measured comes in as ``make_slim``: a study knows about training and
counting, not about pruning. What was finished before is read, not run.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimnet.errors import InputError
from slimnet.exclusive import exclusive
from slimnet.study.cells import Cell, Study, cells
from slimnet.study.engines import ENGINES
from slimnet.study.results import Record, Results
from slimnet.study.store import Store
from slimnet.train import REGIMES, Callback, Dataset, Repairer, budget, evaluate, start, train
from slimnet.watch import remark


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network to be retrained, and what is known of it.

    ``macs`` of one image. ``latency`` is ``latency_facts(…)``, ``certificate`` is
    ``Certificate.to_json()``, ``achieved`` may hold ``groups`` and ``remarks`` for the report; all
    are JSON-able (``TypeError`` otherwise, before hours of training are lost to it).
    """

    model: nn.Module
    macs: int
    params: int
    channels_removed: float | None = None
    latency: Mapping[str, Any] | None = None
    certificate: Mapping[str, Any] | None = None
    achieved: Mapping[str, Any] | None = None
    callbacks: Callable[[], Sequence[Callback]] = tuple  # new ones, for each retraining
    repair: Repairer | None = None  # what regimes that start from repaired weights call

    def __post_init__(self) -> None:
        if self.macs < 1 or self.params < 1:
            raise InputError(f"a network of {self.macs} MACs and {self.params} parameters is none")
        json.dumps(self.facts(), allow_nan=False)

    def facts(self) -> dict[str, Any]:
        """Everything but the model and what acts on it, as a record's fields."""
        return {
            "macs": self.macs,
            "params": self.params,
            "channels_removed": self.channels_removed,
            "latency": self.latency,
            "certificate": self.certificate,
            "achieved": self.achieved,
        }


MakeSlim = Callable[[str, float], Candidate]  # (criterion, ratio)
Clone = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Status:
    """How far a study is: ``cell`` is ``part`` (0..1) done, ``done`` of ``total`` are finished."""

    cell: Cell
    part: float
    done: int
    total: int


def run_study(
    study: Study,
    make_slim: MakeSlim,
    dense: Candidate,
    dataset: Dataset,
    directory: Path | str,
    *,
    engine: str = "local",
    progress: Callable[[Status], None] | None = None,
    clone: Clone = copy.deepcopy,
    device: torch.device | str | None = None,
) -> Results:
    """Run every cell of ``study`` that ``directory`` does not hold yet, and give all records.

    The models of ``dense`` and of what ``make_slim`` gives stay as they are: each cell trains a
    ``clone``. A network is made once for all its regimes and seeds.
    """
    run_all = ENGINES[engine]
    store = Store(Path(directory))
    planned = cells(study, dense.model, dataset)
    known = {cell: record for cell in planned if (record := store.read(cell)) is not None}
    report = _reporter(progress, len(known), len(planned))
    bench = _Bench(study, make_slim, dense, dataset, store, clone, device, report)
    pending = [cell for cell in planned if cell not in known]
    _say_versions(store, pending)
    known.update(zip(pending, run_all(pending, bench.run), strict=True))
    return Results(study, dataset.facts(), tuple(known[cell] for cell in planned))


def _say_versions(store: Store, pending: Sequence[Cell]) -> None:
    """Numbers of two versions are not set side by side: what another has finished is run again."""
    for version, number in store.other_versions(pending).items():
        remark(
            f"{number} of the cells were finished by slimnet {version} and are run again: numbers "
            f"of two versions are not compared. They stay in {store.directory}: that version goes "
            "on with them"
        )


@dataclass
class _Bench:
    """Runs cells; keeps the slim network at hand, for its cells come one after the other."""

    study: Study
    make_slim: MakeSlim
    dense: Candidate
    dataset: Dataset
    store: Store
    clone: Clone
    device: torch.device | str | None
    report: Callable[[Cell, float], None]
    _at_hand: dict[tuple[str | None, float], tuple[Candidate, float]] = field(default_factory=dict)

    def run(self, cell: Cell) -> Record:
        """Train and test one cell, and keep its record."""
        with exclusive():  # an engine may call this from several threads
            return self._run(cell)

    def _run(self, cell: Cell) -> Record:
        self.report(cell, 0.0)
        try:
            candidate, accuracy_cut = self._candidate(cell.criterion, cell.ratio)
            trained = self._retrained(cell, candidate, accuracy_cut)
        except InputError as error:
            raise InputError(f"{cell}: {error}") from error
        record = Record(cell=cell, accuracy_cut=accuracy_cut, **trained, **candidate.facts())
        self.store.write(record)
        self.report(cell, 1.0)
        return record

    def _candidate(self, criterion: str | None, ratio: float) -> tuple[Candidate, float]:
        """A network and its accuracy before retraining."""
        key = (criterion, ratio)
        if key not in self._at_hand:
            made = self.dense if criterion is None else self.make_slim(criterion, ratio)
            accuracy = evaluate(self.clone(made.model), self.dataset, self.device)
            self._at_hand = {key: (made, accuracy)}
        return self._at_hand[key]

    def _retrained(self, cell: Cell, candidate: Candidate, accuracy: float) -> dict[str, Any]:
        if cell.regime is None:
            return _untrained(accuracy, 0.0)
        regime = REGIMES[cell.regime]
        model = self.clone(candidate.model)
        began = time.perf_counter()
        start(regime, model, cell.seed, candidate.repair)
        if not regime.epochs:
            seconds = time.perf_counter() - began
            return _untrained(evaluate(model, self.dataset, self.device), seconds)
        history = train(
            model,
            self.dataset,
            budget(regime, self.study.base, self.dense.macs / candidate.macs),
            seed=cell.seed,
            device=self.device,
            progress=lambda part: self.report(cell, min(part, 0.99)),  # 1: tested and kept
            callbacks=candidate.callbacks(),
        )
        return {
            "accuracy": history.accuracy,
            "epochs": history.epochs,
            "samples": history.samples,
            "seconds": history.seconds,
        }


def _untrained(accuracy: float, seconds: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "epochs": 0, "samples": 0, "seconds": seconds}


def _reporter(
    progress: Callable[[Status], None] | None, done: int, total: int
) -> Callable[[Cell, float], None]:
    """Count the finished cells for who watches."""
    finished = done

    def report(cell: Cell, part: float) -> None:
        nonlocal finished
        finished += part == 1.0
        if progress is not None:
            progress(Status(cell, part, finished, total))

    return report
