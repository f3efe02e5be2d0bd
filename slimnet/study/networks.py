"""The networks of a study as files, each cut, proven, timed and tested once.

``DIR/networks/<criterion>-<budget>-<id>.pt`` is a slim network as ``slimnet prune`` writes it (the
dense one is a network from which nothing is removed), the ``.json`` beside it holds what is known
of it. Both carry digests; a pair that is damaged is set aside and made again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from slimnet.digest import digest, sealed_json, unsealed
from slimnet.errors import InputError
from slimnet.files.artifact import Artifact, make_artifact, read_artifact, write_artifact
from slimnet.network import Network
from slimnet.networks.arch import Arch
from slimnet.output import make_folder, set_aside, write_json
from slimnet.progress import remark
from slimnet.study.candidate import Candidate
from slimnet.study.cells import Cell
from slimnet.study.facts import Facts
from slimnet.study.recent import Recent
from slimnet.study.results import metrics_from


@dataclass(frozen=True, eq=False)
class StoredNetwork:
    """What the files of one network hold."""

    artifact: Artifact
    facts: Facts
    metrics: Mapping[str, float]  # of the task, as it was cut
    masked: float | None  # the share of single weights that are held at zero

    @property
    def is_cut(self) -> bool:
        """Whether a cut made it, be it one that nothing was asked of."""
        return self.artifact.plan.asked is not None

    def to_json(self) -> dict[str, Any]:
        """What is known of the network, and which numbers it has."""
        return {
            **self.facts.to_json(),
            "metrics": dict(self.metrics),
            "masked": self.masked,
            "tensors": digest(dict(self.artifact.tensors)),
        }


@dataclass(frozen=True)
class Networks:
    """The networks in a study's folder; ``skeleton`` is the dense one's class where no name is.

    A cell stands for its network: its cut, as it was made.
    """

    directory: Path
    skeleton: nn.Module | None = None  # without values
    recent: Recent[StoredNetwork] = field(
        default_factory=partial(Recent, 1), compare=False, repr=False
    )

    def read(self, cell: Cell) -> StoredNetwork | None:
        """The network of a cell; None where there is none, or one that is damaged."""
        path, facts = self.path(cell), self._facts(cell)
        if not (path.exists() and facts.exists()):
            return None
        try:
            versions = path, _stamp(path), _stamp(facts)
            return self.recent.get(versions, lambda: _stored(path, facts))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            aside = set_aside(path, "damaged")
            set_aside(facts, "damaged")
            remark(f"{path} is damaged: it is kept as {aside.name}, and the network is made again")
            return None

    def get(self, cell: Cell) -> StoredNetwork:
        """The network of a cell; raises ``InputError`` where it is not there, or damaged."""
        stored = self.read(cell)
        if stored is None:
            raise InputError(
                f"{self.path(cell)} is missing or damaged: start the study again, which makes it"
            )
        return stored

    def write(self, cell: Cell, stored: StoredNetwork) -> None:
        """Keep a network: its facts last, so that they never stand there alone."""
        make_folder(self.directory)
        write_artifact(stored.artifact, self.path(cell))
        write_json(self._facts(cell), sealed_json(stored.to_json()))

    def dense(self, artifact: Artifact) -> nn.Module:
        """The dense network, of its own class, with weights of its own."""
        if self.skeleton is not None:
            return artifact.model(Network.of(self.skeleton))
        return artifact.model(None if artifact.arch is None else Network.of(artifact.arch.build()))

    def path(self, cell: Cell) -> Path:
        """The file of a cell's network."""
        name = "dense" if cell.cut is None else cell.cut.label.replace(", ", "-").replace(" ", "-")
        return self.directory / f"{re.sub(r'[^A-Za-z0-9.-]', '_', name)}-{cell.id}.pt"

    def _facts(self, cell: Cell) -> Path:
        return self.path(cell).with_suffix(".json")


def _stamp(path: Path) -> tuple[int, ...]:
    """What a file that is written anew has another of."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _stored(path: Path, facts: Path) -> StoredNetwork:
    """What the two files hold."""
    fields: Mapping[str, Any] = unsealed(json.loads(facts.read_text(encoding="utf-8")))
    artifact = read_artifact(path)
    if digest(dict(artifact.tensors)) != fields["tensors"]:
        raise InputError(f"{path} holds another network than {facts} is of")
    masked = fields["masked"]
    return StoredNetwork(
        artifact,
        Facts.from_json(fields),
        metrics_from(fields),
        None if masked is None else float(masked),
    )


def artifact_of(candidate: Candidate, arch: Arch | None) -> Artifact:
    """What a file holds of a candidate; ``arch`` builds what its plan is relative to."""
    return make_artifact(
        candidate.model,
        candidate.plan,
        candidate.facts.certificate,
        candidate.example,
        arch,
        embed=False,
    )


def arch_of_cuts(dense: Candidate, arch: Arch | None) -> Arch | None:
    """What builds the network that a cut of ``dense`` is relative to, where a name does."""
    return None if dense.plan.removed or dense.plan.blocks else arch
