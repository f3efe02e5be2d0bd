"""One cell, from the files of its study to its result: a function of plain data.

:func:`run_cell` takes what every cell of a study reads (:class:`Setup`) and the cell. It pickles
small, reads its networks and its task from the study's folder (and holds the last that it read),
and depends on nothing else: not on the order of the cells, nor on what ran before in this process.
:func:`take_cell` shares the cells of a study between workers. A long training is snapshotted, and
goes on inside the cell when it was killed: ``DIR/trained/<id>.training`` lies there until the
result is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from torch import nn

from slimnet.errors import InputError
from slimnet.exclusive import exclusive
from slimnet.files.access import apply
from slimnet.network import Network
from slimnet.output import make_folder
from slimnet.rewinding import Rewinds
from slimnet.study.cells import Cell, mask_of
from slimnet.study.data import StudyData
from slimnet.study.epochs import EachEpoch
from slimnet.study.kept import KeptNetworks
from slimnet.study.masked import Masked
from slimnet.study.networks import Networks, StoredNetwork
from slimnet.study.recent import Recent
from slimnet.study.repaired import repaired, write_repaired
from slimnet.study.results import CellResult, check_finite
from slimnet.study.store import STORES, Store
from slimnet.task import Task
from slimnet.train import (
    REGIMES,
    Earlier,
    Regime,
    Repairer,
    Schedule,
    Sources,
    budget,
    measure,
    start,
    train,
)
from slimnet.train.checkpoint import Checkpoint
from slimnet.train.loop import History, place_of
from slimnet.train.masks import MASKS, Held
from slimnet.train.meter import Meter, Used
from slimnet.train.snapshot import Snapshot

Progress: TypeAlias = Callable[[float], None]
"""Told which part of a cell is done (0..1)."""


@dataclass(frozen=True)
class Setup:
    """What every cell of a study reads; pickles small."""

    folder: Path
    base: Schedule
    baseline: Cell  # of the dense network as it was handed over
    data: StudyData
    keep: bool = False  # whether the network of a finished cell is left in the folder
    samples: int = 1024  # images that a repair reads, others for each seed
    curves: bool = False  # whether a network is tested after each epoch, too
    device: str | None = None
    store: str = "folder"
    # the dense network's class, without values, where no name says what builds it
    skeleton: nn.Module | None = field(default=None, compare=False, repr=False)
    # the dense network and the one whose cells come one after the other
    recent: Recent[StoredNetwork] = field(
        default_factory=partial(Recent, 2), compare=False, repr=False
    )

    @property
    def networks(self) -> Networks:
        """The networks in the folder."""
        return Networks(self.folder / "networks", self.skeleton, self.recent)

    @property
    def kept(self) -> KeptNetworks:
        """What becomes of the networks that were trained."""
        return KeptNetworks(self.folder, self.networks, self.baseline)

    @property
    def history(self) -> Rewinds:
        """The dense network's weights before its last epoch, those that a regime goes back to."""
        return Rewinds(self.folder / "history")

    def open_store(self) -> Store:
        """The finished cells."""
        return STORES[self.store](self.folder)


def take_cell(setup: Setup, cell: Cell, progress: Progress) -> CellResult | None:
    """Run a cell and keep its result, unless it is kept already; None where another has it."""
    store = setup.open_store()
    with exclusive(), store.claim(cell.id) as mine:  # threads take turns
        if not mine:
            return None
        result = store.read(cell)
        if result is None:
            result = run_cell(setup, cell, progress)
            store.write(result)
        setup.kept.snapshot(cell).unlink(missing_ok=True)
        return result


def run_cell(setup: Setup, cell: Cell, progress: Progress = lambda part: None) -> CellResult:
    """Train and test one cell; raises ``InputError``, which names it."""
    progress(0.0)
    try:
        stored = setup.networks.get(cell.network(setup.baseline))
        watch = EachEpoch(setup.data.load(setup.folder)) if setup.curves else None
        model, history, used = _retrained(setup, cell, stored, progress, watch)
        if setup.keep and not cell.is_baseline:
            setup.kept.leave(cell, stored.artifact, model)
    except InputError as error:
        raise InputError(f"{cell}: {error}") from error
    curve, best = watch.ended(history.metrics) if watch and history.epochs else ((), None)
    return CellResult(
        cell,
        stored.facts,
        dict(stored.metrics),
        check_finite(history.metrics),
        history.epochs,
        history.samples,
        history.seconds,
        history.losses,
        curve,
        best,
        used=used,
    )


def _retrained(
    setup: Setup, cell: Cell, stored: StoredNetwork, progress: Progress, watch: EachEpoch | None
) -> tuple[nn.Module, History, Used]:
    baseline = setup.networks.get(setup.baseline)
    dense = setup.networks.dense(baseline.artifact)
    model = dense if cell.criterion is None else stored.artifact.model(Network.of(dense))
    if cell.regime is None:
        return model, _untrained(stored.metrics, 0.0), Used()
    regime, task = REGIMES[cell.regime], setup.data.load(setup.folder)
    began = time.perf_counter()
    start(
        regime,
        model,
        Sources(cell.seed, _repairer(setup, cell, stored, task), _earlier(setup, stored)),
    )
    held = _held(setup, cell, stored, dense, regime)
    if held is not None:
        held.apply(model)
    if not regime.epochs:
        seconds = time.perf_counter() - began
        return model, _untrained(measure(model, task, setup.device), seconds), Used()
    file = Checkpoint.of(setup.kept.snapshot(cell), model, {"cell": cell.id})
    snapshot = file.read()
    before = 0.0 if snapshot is None else float(snapshot.settled["seconds"])
    meter = Meter(place_of(setup.device))
    history = train(
        model,
        task,
        budget(regime, setup.base, baseline.facts.macs / stored.facts.macs),
        seed=cell.seed,
        device=setup.device,
        progress=lambda part: progress(min(part, 0.99)),  # 1: tested and kept
        callbacks=[callback for callback in (held, watch) if callback is not None],
        keep=_sparing(file, before),
        interval=INTERVAL,
        resume=snapshot,
    )
    used = meter.used()
    if snapshot is not None:  # what the killed run took was never read
        used = replace(used, energy=None)
    return model, replace(history, seconds=before + history.seconds), used


INTERVAL = 60.0  # seconds between two snapshots inside an epoch
SPARED = 10.0  # seconds of training that cost less than writing them down


def _sparing(file: Checkpoint, before: float) -> Callable[[Snapshot], None]:
    """Writes a snapshot where enough was done since the last, and the seconds that it all took."""
    began = last = time.perf_counter()

    def keep(snapshot: Snapshot) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= SPARED:
            last = now
            make_folder(file.path.parent)
            file.write(replace(snapshot, settled={"seconds": before + now - began}))

    return keep


def _untrained(metrics: Mapping[str, float], seconds: float) -> History:
    return History((), metrics, epochs=0, samples=0, seconds=seconds)


def _held(
    setup: Setup, cell: Cell, stored: StoredNetwork, dense: nn.Module, regime: Regime
) -> Held | None:
    """What holds the masked weights while they train; None of a network that has none."""
    mask = mask_of(cell.criterion)
    if mask is None or stored.masked is None:
        return None
    reads = MASKS[mask].reads_initial or regime.masked
    initial = setup.history.state(0) if reads else None
    return Masked(dense, mask, stored.masked, initial).held(regime.held)


def _earlier(setup: Setup, stored: StoredNetwork) -> Earlier:
    """Writes the weights that the dense network had, cut as this network is."""
    networks = setup.networks

    def write(model: nn.Module, epoch: int) -> None:
        dense = networks.dense(networks.get(setup.baseline).artifact)
        setup.history.write_into(dense, epoch)
        model.load_state_dict(apply(stored.artifact.plan, dense).state_dict())

    return write


def _repairer(setup: Setup, cell: Cell, stored: StoredNetwork, task: Task) -> Repairer | None:
    """Writes repaired weights; None for a network from which nothing was cut."""
    if not stored.is_cut or cell.criterion is None:
        return None
    networks = setup.networks

    def make(seed: int) -> nn.Module:
        dense = networks.dense(networks.get(setup.baseline).artifact)
        slim, plan = stored.artifact.model(Network.of(dense)), stored.artifact.plan
        place = place_of(setup.device)
        return repaired(dense, slim, plan, task, samples=setup.samples, seed=seed, place=place)

    def write(slim: nn.Module, seed: int) -> None:
        path = networks.path(cell.network(setup.baseline))
        file = path.with_name(f"{path.stem}-repaired-{seed}.pt")
        write_repaired(slim, file, setup.open_store(), lambda: make(seed))

    return write
