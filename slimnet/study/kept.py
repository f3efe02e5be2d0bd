"""The networks that a study trained, kept beside its results: each a slim network with its ONNX.

Who runs a cell leaves its network in ``DIR/trained/<id>.pt``. Once all cells are there, those that
were asked for become ``DIR/kept/<network>-<regime>-seed<n>-<id>.pt``, with plan and proof as
``slimnet retrain`` writes them, an ``.onnx`` that was compared with PyTorch, and a ``.json`` that
says how near it comes. The weights are those of the last epoch. All others leave.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TypeAlias

from torch import nn

from slimnet.digest import sealed_json, unsealed
from slimnet.errors import InputError, SlimnetError
from slimnet.export import export_onnx, metadata_of
from slimnet.files.artifact import Artifact, read_artifact, reweighted, write_artifact
from slimnet.network import Network
from slimnet.output import make_folder, write_json
from slimnet.progress import remark
from slimnet.registry import Registry
from slimnet.study.cells import Cell
from slimnet.study.networks import Networks
from slimnet.study.results import CellResult, Kept, Results
from slimnet.study.store import Store, turn
from slimnet.task import Metric
from slimnet.text import count, first_line

Choice: TypeAlias = Callable[[Results], Iterable[Cell]]
"""Which of a study's networks are kept."""

KEEP: Registry[Choice] = Registry("choice of networks to keep")
KEEP.add("none", lambda results: ())
KEEP.add("all", lambda results: (record.cell for record in results.records))


@KEEP.register("best")
def best(results: Results) -> Iterable[Cell]:
    """Of each row the seed whose metric is best after the last epoch; of equal ones the first."""
    for records in results.groups().values():
        yield reduce(lambda one, other: _better(one, other, results.metric), records).cell


def _better(one: CellResult, other: CellResult, metric: Metric) -> CellResult:
    return other if metric.is_better(*(x.metrics[metric.name] for x in (other, one))) else one


def keep_networks(results: Results, choice: str, files: KeptNetworks, store: Store) -> Results:
    """Keep those that were chosen; gives the results with what is kept.

    What was kept before stays, whatever is chosen now.
    """
    kept: list[Kept | None] = []
    chosen = list(KEEP[choice](results))
    if chosen:
        with turn(store, "kept"):
            kept = [files.read(cell) or files.make(cell) for cell in chosen]
    for record in results.records:
        files.clear(record.cell)
    with suppress(OSError):  # none, or trainings of another study stand there
        files.trained.rmdir()
    if missing := kept.count(None):
        remark(
            f"{count(missing, 'network')} cannot be kept: the cells were run before, and their "
            f"networks were not kept then, or are damaged; another folder trains them again"
        )
    return replace(results, kept=tuple(one for one in kept if one is not None))


@dataclass(frozen=True)
class KeptNetworks:
    """The files of the networks that are kept; ``networks`` are those of the study as cut."""

    folder: Path  # of the study
    networks: Networks
    baseline: Cell  # of the dense network as it was handed over

    def left(self, cell: Cell) -> Path:
        """Where who ran a cell leaves its network; the dense one lies there from the start."""
        if cell.is_baseline:
            return self.networks.path(cell)
        return self.trained / f"{cell.id}.pt"

    @property
    def trained(self) -> Path:
        """The folder of what is being trained; gone once all is through."""
        return self.folder / "trained"

    def snapshot(self, cell: Cell) -> Path:
        """Where the training of a cell stands until its result is kept."""
        return self.trained / f"{cell.id}.training"

    def file(self, cell: Cell) -> Path:
        """Where it is kept."""
        stem = self.networks.path(cell).stem.removesuffix(f"-{cell.id}")
        how = "" if cell.regime is None else f"-{cell.regime}-seed{cell.seed}"
        return self.folder / "kept" / f"{stem}{how}-{cell.id}.pt"

    def leave(self, cell: Cell, artifact: Artifact, model: nn.Module) -> None:
        """Leave the network of a finished cell; ``artifact`` is of how it was cut."""
        make_folder(self.trained)
        write_artifact(reweighted(artifact, model, embed=False), self.left(cell))

    def read(self, cell: Cell) -> Kept | None:
        """What is kept of a cell; None where a file is missing, or damaged."""
        file = self.file(cell)
        try:
            fields = unsealed(json.loads(file.with_suffix(".json").read_text(encoding="utf-8")))
            kept = Kept(cell, f"kept/{file.name}", fields["onnx"], str(fields["said"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        present = file.exists() and (kept.onnx is None or (self.folder / kept.onnx).exists())
        return kept if present else None

    def make(self, cell: Cell) -> Kept | None:
        """Keep what was left of a cell; None where nothing was."""
        left, file = self.left(cell), self.file(cell)
        source = left if left.exists() else file
        try:
            cut = read_artifact(source)
        except InputError:
            return None
        make_folder(file.parent)
        model = self._model(cell, cut)
        artifact = reweighted(cut, model, trained=cell.regime is not None)
        write_artifact(artifact, file)
        onnx, said = _exported(model, artifact, file.with_suffix(".onnx"))
        said = said if artifact.caveat is None else f"{said}; {artifact.caveat}"
        kept = Kept(cell, f"kept/{file.name}", f"kept/{onnx.name}" if onnx else None, said)
        write_json(file.with_suffix(".json"), sealed_json({"onnx": kept.onnx, "said": said}))
        return kept

    def clear(self, cell: Cell) -> None:
        """Remove what was left of a cell; nothing that is kept."""
        if not cell.is_baseline:
            self.left(cell).unlink(missing_ok=True)

    def _model(self, cell: Cell, artifact: Artifact) -> nn.Module:
        if cell.criterion is None:
            return self.networks.dense(artifact)
        dense = self.networks.dense(self.networks.get(self.baseline).artifact)
        return artifact.model(Network.of(dense))


def _exported(model: nn.Module, artifact: Artifact, path: Path) -> tuple[Path | None, str]:
    """The ONNX file, and how near it comes to PyTorch; or why there is none."""
    try:
        exported = export_onnx(
            model,
            artifact.example,
            path,
            outputs=artifact.plan.outputs,
            extra=metadata_of(artifact.plan, artifact.certificate, trained=artifact.trained),
        )
    except SlimnetError as error:
        return None, f"no ONNX: {first_line(error)}"
    return path, exported.parity.sentence("onnxruntime") if exported.parity else "not compared"
