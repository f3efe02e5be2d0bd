"""What a study consists of: one cell per ratio, criterion, regime and seed.

A cell's id is a digest of everything that decides its outcome, so that a finished one is never run
again and a changed setting never meets an old result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from slimnet.digest import weights_digest
from slimnet.errors import InputError
from slimnet.rewinding import Rewinds
from slimnet.task import Task, fingerprint_of
from slimnet.train import REGIMES, Schedule, budget
from slimnet.train.masks import MASKS
from slimnet.version import __version__

UNSTRUCTURED = "unstructured"
"""Stands among the criteria and cuts nothing: single weights are masked, the smallest of them."""


def mask_of(criterion: str | None) -> str | None:
    """The mask criterion that ``unstructured-NAME`` stands for; None of one that cuts."""
    if criterion is None or not f"{criterion}-".startswith(f"{UNSTRUCTURED}-"):
        return None
    name = criterion.removeprefix(UNSTRUCTURED).removeprefix("-") or "large-final"
    MASKS[name]
    return name


@dataclass(frozen=True)
class Study:
    """Every ratio with every criterion, regime and seed, beside the dense network.

    ``base`` is the schedule that the regimes stretch. ``dense_regimes`` are also run on the dense
    network, to tell what retraining alone does. ``dense_compute`` is what training the dense
    network took, in MACs x images (None: unknown, e.g. a downloaded checkpoint). ``settings`` is
    whatever else decides the slim networks (alignment, scope, …), JSON-able. Raises ``InputError``.
    """

    ratios: tuple[float, ...]
    criteria: tuple[str, ...]
    regimes: tuple[str, ...]
    seeds: tuple[int, ...]
    base: Schedule
    dense_regimes: tuple[str, ...] = ()
    dense_compute: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("ratios", "criteria", "regimes", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(f"a study needs {name}, at least one and each once: {values}")
        for ratio in self.ratios:
            if not 0 <= ratio < 1:
                raise InputError(
                    f"a ratio is the part of the channels to remove, in [0, 1): {ratio}"
                )
        for regime in self._all:
            budget(REGIMES[regime], self.base, 1.0)
        for criterion in self.criteria:
            if not self.regimes_of(criterion):
                raise InputError(_nothing_left(criterion))

    @property
    def _all(self) -> tuple[str, ...]:
        return (*self.regimes, *self.dense_regimes)

    @property
    def starts(self) -> set[str]:
        """Which weights its regimes start from."""
        return {REGIMES[regime].start for regime in self._all}

    def regimes_of(self, criterion: str) -> tuple[str, ...]:
        """Those that fit: what is masked has nothing to repair, what is cut nothing to hold."""
        if mask_of(criterion) is None:
            return tuple(x for x in self.regimes if not REGIMES[x].masked)
        return tuple(x for x in self.regimes if REGIMES[x].start != "repaired")

    def epochs_read(self, criterion: str | None, regime: str | None) -> frozenset[int]:
        """Of which epochs of the dense training such a cell reads the weights."""
        mask, row = mask_of(criterion), None if regime is None else REGIMES[regime]
        first = mask is not None and (MASKS[mask].reads_initial or (row and row.masked))
        back = {row.rewind or 0} if row is not None and row.goes_back else set()
        return frozenset(back | ({0} if first else set()))

    def epochs_needed(self) -> Mapping[int, str]:
        """Of which epochs it reads the dense network's weights, and what does."""
        pairs: list[tuple[str | None, str]] = [(None, regime) for regime in self.dense_regimes]
        pairs += [(name, regime) for name in self.criteria for regime in self.regimes_of(name)]
        return {
            epoch: regime if epoch in self.epochs_read(None, regime) else str(criterion)
            for criterion, regime in reversed(pairs)
            for epoch in self.epochs_read(criterion, regime)
        }

    def to_json(self) -> dict[str, Any]:
        """Every field; ``Study.from_json`` reads it back."""
        return {**asdict(self), "base": self.base.to_json(), "settings": dict(self.settings)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Study:
        """Read what ``to_json`` gave."""
        lists = ("ratios", "criteria", "regimes", "seeds", "dense_regimes")
        tuples = {name: tuple(fields[name]) for name in lists}
        return cls(**{**fields, **tuples, "base": Schedule.from_json(fields["base"])})


def _nothing_left(criterion: str) -> str:
    if mask_of(criterion) is not None:
        return (
            f"{criterion} cuts nothing, so there is nothing to repair: leave it out, or add a "
            "regime that starts from other weights"
        )
    return (
        f"{criterion} cuts channels, and these regimes say at what masked weights are held: add "
        f"another one, or take the criterion {UNSTRUCTURED}"
    )


@dataclass(frozen=True)
class Cell:
    """One training of one network."""

    criterion: str | None  # None: the dense network
    ratio: float
    regime: str | None  # None: as it was handed over, not retrained
    seed: int
    context: str  # digest of what it shares with others: schedule, data, weights, settings
    version: str = __version__  # of slimnet: another may train, cut or repair otherwise

    @property
    def id(self) -> str:
        """16 hexadecimal digits, the same in every process."""
        return _digest(asdict(self))

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Cell:
        """Read what ``asdict`` gave; the first cells did not know their version."""
        return cls(**{"version": "0.1.0 or earlier", **fields})

    @property
    def is_baseline(self) -> bool:
        """Whether it is the dense network as it was handed over."""
        return self.criterion is None and self.regime is None

    def network(self, baseline: Cell) -> Cell:
        """The cell of its network as it was cut; ``baseline`` is the study's dense one."""
        return replace(baseline, criterion=self.criterion, ratio=self.ratio)

    def __str__(self) -> str:
        what = "dense" if self.criterion is None else f"{self.criterion}, ratio {self.ratio:g}"
        return what if self.regime is None else f"{what}, {self.regime}, seed {self.seed}"


def cells(
    study: Study, dense: nn.Module, task: Task, history: Rewinds | None = None
) -> tuple[Cell, ...]:
    """Every cell of a study: the dense network first, then network by network.

    ``history`` holds the earlier weights of the dense network that a regime goes back to.
    """
    check_history(study, history)
    shared = {
        "data": fingerprint_of(task),
        "weights": weights_digest(dense),
        "settings": dict(study.settings),
    }
    stamps = {epoch: history.stamp(epoch) for epoch in study.epochs_needed()} if history else {}
    return tuple(_cells(study, shared, stamps))


def check_history(study: Study, history: Rewinds | None) -> None:
    """Raise ``InputError`` where a regime goes back to weights that nobody kept."""
    for epoch, reader in study.epochs_needed().items():
        if history is None:
            raise InputError(
                f"{reader} goes back to epoch {epoch} of the dense network's training: give the "
                f"folder where slimnet train --snapshots {epoch} kept it, with --history"
            )
        history.state(epoch)


def _cells(study: Study, shared: Mapping[str, Any], stamps: Mapping[int, str]) -> Iterator[Cell]:
    yield Cell(None, 0.0, None, 0, _digest(shared))
    for regime in study.dense_regimes:
        for seed in study.seeds:
            yield Cell(None, 0.0, regime, seed, _context(study, shared, (None, regime), stamps))
    for criterion in study.criteria:
        for ratio in study.ratios:
            for regime in study.regimes_of(criterion):
                for seed in study.seeds:
                    context = _context(study, shared, (criterion, regime), stamps)
                    yield Cell(criterion, ratio, regime, seed, context)


def _context(
    study: Study,
    shared: Mapping[str, Any],
    row: tuple[str | None, str],
    stamps: Mapping[int, str],
) -> str:
    own: dict[str, Any] = {"base": study.base.to_json(), "regime": REGIMES[row[1]].to_json()}
    if read := study.epochs_read(*row):
        own["earlier"] = {str(epoch): stamps[epoch] for epoch in sorted(read)}
    return _digest({**shared, **own})


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
