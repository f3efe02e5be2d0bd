"""Run a study: first its networks, each made and written once, then its cells.

How a slim network is made and measured comes in as ``make_slim``, which only the first stage calls.
The cells read files (:mod:`.work`), in whatever order and processes the engine runs them; several
processes may run one study in one folder. What was finished before is read, not run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from slimnet.capture.modules import clone
from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.networks.arch import Arch
from slimnet.output import make_folder
from slimnet.progress import remark
from slimnet.rewinding import Rewinds
from slimnet.study.candidate import Candidate
from slimnet.study.cells import Cell, Cut, Study, cells
from slimnet.study.data import keep_data
from slimnet.study.engine import ENGINES, Engine, Run
from slimnet.study.kept import KEEP, KeptNetworks, keep_networks
from slimnet.study.networks import Networks, StoredNetwork, arch_of_cuts, artifact_of
from slimnet.study.results import CellResult, Results, check_finite
from slimnet.study.store import PAUSE, STORES, Store, turn
from slimnet.study.work import Setup, take_cell
from slimnet.task import Task, facts_of
from slimnet.tasks.data import DataSpec
from slimnet.train import measure

MakeSlim: TypeAlias = Callable[[Cut], Candidate]
"""Makes a network that was cut from the dense one."""


@dataclass(frozen=True)
class Status:
    """How far a study is: ``cell`` is ``part`` (0..1) done, ``done`` of ``total`` are finished."""

    cell: Cell
    part: float
    done: int
    total: int
    share: float  # of the whole study, what runs beside this cell included (0..1)


def run_study(
    study: Study,
    make_slim: MakeSlim,
    dense: Candidate,
    task: Task,
    directory: Path | str,
    *,
    arch: Arch | None = None,
    spec: DataSpec | None = None,
    samples: int = 1024,
    engine: str = "local",
    workers: int | None = None,
    store: str = "folder",
    keep: str = "none",
    curves: bool = False,
    history: Rewinds | None = None,
    progress: Callable[[Status], None] | None = None,
    device: torch.device | str | None = None,
    threads: int | None = None,
) -> Results:
    """Run every cell of ``study`` that ``directory`` does not hold yet, and give all results.

    The models of ``dense`` and of what ``make_slim`` gives stay as they are. A network is made once
    for all its regimes and seeds, and lies in the folder from then on.

    Args:
        study, make_slim, dense, task: what to run, on which networks and data.
        directory: where results, networks and data are kept.
        arch: what builds the dense network; without it, its class must be known to who runs cells.
        spec: what loads ``task`` in another process; labelled images in memory need none.
        samples: images that a repair reads, others for each seed.
        engine: where the cells run, a name of ``ENGINES``.
        workers: of an engine that has several; None leaves it to the engine.
        store: where the results are kept, a name of ``STORES``.
        keep: which of the trained networks are kept as files, a name of ``KEEP``.
        curves: whether networks are tested after each epoch, too: to look at, never compared.
        history: the dense network's weights of earlier epochs, for regimes that go back to them.
        progress: told how far it is.
        device: where networks are trained; the GPU where there is one.
        threads: of each worker of an engine that has several.
    """
    run_all, folder, _ = ENGINES[engine], Path(directory), KEEP[keep]
    planned = cells(study, dense.model, task, history)
    opened = STORES[store](folder)
    results = _finished(opened, planned)
    pending = [cell for cell in planned if cell not in results]
    skeleton = _skeleton(dense.model) if arch is None else None
    if pending:
        make_folder(folder)
        _say_versions(opened, pending, folder)
        data, place = keep_data(task, spec, folder), None if device is None else str(device)
        shared = folder, study.base, planned[0], data, keep != "none", samples, curves, place, store
        setup = Setup(*shared, skeleton)
        _make_networks(setup, opened, pending, _Maker(make_slim, dense, arch))
        if history is not None:
            _keep_history(setup, study, history)
        run = Run(partial(take_cell, setup), workers=workers, threads=threads)
        results = _run_all(planned, opened, run_all, run, progress)
    records = tuple(results[cell] for cell in planned)
    found = Results(study, facts_of(task), records, tuple(task.metrics))
    files = KeptNetworks(folder, Networks(folder / "networks", skeleton), planned[0])
    return keep_networks(found, keep, files, opened)


def _say_versions(store: Store, pending: Sequence[Cell], folder: Path) -> None:
    """Numbers of two versions are not set side by side: what another has finished is run again."""
    wanted = {replace(cell, version="") for cell in pending}
    versions = Counter(x.version for x in store.finished() if replace(x, version="") in wanted)
    for version, number in versions.items():
        remark(
            f"{number} of the cells were finished by slimnet {version} and are run again: numbers "
            f"of two versions are not compared. They stay in {folder}: that version goes on with "
            "them"
        )


def _skeleton(model: nn.Module) -> nn.Module:
    """The classes of a network, without its values."""
    return clone(Network.of(model), lambda name, tensor: torch.empty_like(tensor, device="meta"))


@dataclass(frozen=True)
class _Maker:
    """Makes the networks of a study."""

    make_slim: MakeSlim
    dense: Candidate
    arch: Arch | None

    def network(self, cell: Cell, setup: Setup) -> StoredNetwork:
        """The network of a cell, tested as its files give it."""
        candidate, arch = self.dense, self.arch
        if cell.cut is not None:
            candidate = self.make_slim(cell.cut)
            arch = arch_of_cuts(self.dense, self.arch)
        artifact, networks = artifact_of(candidate, arch), setup.networks
        if cell.criterion is None:
            model = networks.dense(artifact)
        else:
            dense = networks.dense(networks.get(setup.baseline).artifact)
            model = artifact.model(Network.of(dense))
        metrics = check_finite(measure(model, setup.data.load(setup.folder), setup.device))
        return StoredNetwork(artifact, candidate.facts, metrics, candidate.masked)


def _make_networks(setup: Setup, store: Store, pending: Sequence[Cell], maker: _Maker) -> None:
    """Write the networks that pending cells read; one process does, the others wait."""
    networks = setup.networks
    read = dict.fromkeys([setup.baseline, *(cell.network(setup.baseline) for cell in pending)])
    with turn(store, "networks"):
        for cell in read:
            if networks.read(cell) is None:
                networks.write(cell, _named(cell, setup, maker))


def _keep_history(setup: Setup, study: Study, history: Rewinds) -> None:
    """Copy the weights that regimes go back to, so that the study's folder is all that is read."""
    networks = setup.networks
    for epoch in study.epochs_needed():
        dense = networks.dense(networks.get(setup.baseline).artifact)
        history.write_into(dense, epoch)
        setup.history.keep(dense, epoch)


def _named(cell: Cell, setup: Setup, maker: _Maker) -> StoredNetwork:
    try:
        return maker.network(cell, setup)
    except InputError as error:
        raise InputError(f"{cell}: {error}") from error


def _run_all(
    planned: Sequence[Cell],
    store: Store,
    engine: Engine,
    run: Run,
    progress: Callable[[Status], None] | None,
) -> dict[Cell, CellResult]:
    """Round by round, until all are there: other workers may have some, or die over them."""
    while len(results := _finished(store, planned)) < len(planned):
        pending = [cell for cell in planned if cell not in results]
        tell = _Reporter(progress, len(results), len(planned)).tell
        pairs = zip(pending, engine(pending, replace(run, tell=tell)), strict=True)
        if not any(result is not None for _, result in pairs):
            time.sleep(PAUSE)
    return results


def _finished(store: Store, planned: Sequence[Cell]) -> dict[Cell, CellResult]:
    return {cell: result for cell in planned if (result := store.read(cell)) is not None}


@dataclass
class _Reporter:
    """Counts the finished cells for who watches."""

    progress: Callable[[Status], None] | None
    done: int
    total: int
    running: dict[Cell, float] = field(default_factory=dict)

    def tell(self, cell: Cell, part: float) -> None:
        """A cell is so far."""
        self.running[cell] = part
        if part == 1.0:
            self.done += 1
            del self.running[cell]
        if self.progress is not None:
            share = (self.done + sum(self.running.values())) / self.total
            self.progress(Status(cell, part, self.done, self.total, share))
