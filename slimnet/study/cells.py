"""What a study consists of: one cell per cut (criterion, budget, scope), regime and seed.

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
from slimnet.planning.request import CutRequest
from slimnet.rewinding import Rewinds
from slimnet.signature import check_option
from slimnet.study.budget import Budget
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
    """Every criterion with every budget, scope, regime and seed, beside the dense network.

    ``base`` is the schedule that the regimes stretch. ``dense_regimes`` are also run on the dense
    network, to tell what retraining alone does. ``dense_compute`` is what training the dense
    network took, in MACs x images (None: unknown, e.g. a downloaded checkpoint). ``settings`` is
    whatever else decides the slim networks (alignment, scope, …), JSON-able. Raises ``InputError``.
    """

    budgets: tuple[Budget, ...]
    criteria: tuple[str, ...]
    regimes: tuple[str, ...]
    seeds: tuple[int, ...]
    base: Schedule
    scopes: tuple[str | None, ...] = (None,)  # None: that of the settings
    dense_regimes: tuple[str, ...] = ()
    dense_compute: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("budgets", "criteria", "scopes", "regimes", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                listed = ", ".join(map(str, values)) or "none"
                raise InputError(f"a study needs {name}, at least one and each once: {listed}")
        for scope in self.scopes:
            check_option(CutRequest, "scope", scope)
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

    @property
    def is_timed(self) -> bool:
        """Whether one of its budgets is a time."""
        return any(budget_.is_time for budget_ in self.budgets)

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
        lists = ("criteria", "regimes", "seeds", "dense_regimes")
        tuples = {name: tuple(fields[name]) for name in lists}
        read = {name: value for name, value in fields.items() if name != "ratios"}
        budgets = map(Budget.from_json, fields.get("budgets", fields.get("ratios")) or ())
        scopes = tuple(fields.get("scopes", (None,)))
        tuples |= {"budgets": tuple(budgets), "scopes": scopes}
        return cls(**{**read, **tuples, "base": Schedule.from_json(fields["base"])})

    def cuts(self) -> Iterator[Cut]:
        """Every way in which a network is made smaller; masks have no scope but their own."""
        for criterion in self.criteria:
            scopes = self.scopes if mask_of(criterion) is None else (None,)
            for budget_ in self.budgets:
                yield from (Cut(criterion, budget_, scope) for scope in scopes)


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
class Cut:
    """How a network is made smaller."""

    criterion: str
    budget: Budget
    scope: str | None = None  # None: that of the study's settings

    def to_json(self) -> dict[str, Any]:
        """As the first studies wrote it, where that says all: they knew ratios alone."""
        budget_ = self.budget
        asked = {"ratio": budget_.amount} if budget_.is_share else {"budget": budget_.to_json()}
        scope = {} if self.scope is None else {"scope": self.scope}
        return {"criterion": self.criterion, **asked, **scope}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Cut | None:
        """Read what ``to_json`` gave; None for the dense network."""
        if fields["criterion"] is None:
            return None
        asked = fields["ratio"] if "ratio" in fields else fields["budget"]
        return cls(fields["criterion"], Budget.from_json(asked), fields.get("scope"))

    @property
    def way(self) -> str:
        """How channels are chosen, whatever the budget."""
        return self._with_scope(self.criterion)

    @property
    def label(self) -> str:
        """For a narrow table."""
        return self._with_scope(f"{self.criterion} {self.budget.label}")

    def _with_scope(self, text: str) -> str:
        return text if self.scope is None else f"{text}, {self.scope}"

    def __str__(self) -> str:
        return self._with_scope(f"{self.criterion}, {self.budget}")


def cut_json(cut: Cut | None) -> dict[str, Any]:
    """Also of the dense network."""
    return {"criterion": None, "ratio": 0.0} if cut is None else cut.to_json()


@dataclass(frozen=True)
class Cell:
    """One training of one network."""

    cut: Cut | None  # None: the dense network
    regime: str | None  # None: as it was handed over, not retrained
    seed: int
    context: str  # digest of what it shares with others: schedule, data, weights, settings
    version: str = __version__  # of slimnet: another may train, cut or repair otherwise

    @property
    def id(self) -> str:
        """16 hexadecimal digits, the same in every process."""
        return _digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Every field, flat; ``from_json`` reads it back."""
        rest = {name: value for name, value in vars(self).items() if name != "cut"}
        return {**cut_json(self.cut), **rest}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Cell:
        """Read what ``to_json`` gave; the first cells did not know their version."""
        own = {name: fields[name] for name in ("regime", "seed", "context")}
        version = fields.get("version", "0.1.0 or earlier")
        return cls(cut=Cut.from_json(fields), version=version, **own)

    @property
    def criterion(self) -> str | None:
        """What ranked its channels; None of the dense network."""
        return None if self.cut is None else self.cut.criterion

    @property
    def is_baseline(self) -> bool:
        """Whether it is the dense network as it was handed over."""
        return self.cut is None and self.regime is None

    def network(self, baseline: Cell) -> Cell:
        """The cell of its network as it was cut; ``baseline`` is the study's dense one."""
        return replace(baseline, cut=self.cut)

    def __str__(self) -> str:
        what = "dense" if self.cut is None else str(self.cut)
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
    yield Cell(None, None, 0, _digest(shared))
    for regime in study.dense_regimes:
        for seed in study.seeds:
            yield Cell(None, regime, seed, _context(study, shared, (None, regime), stamps))
    for cut in study.cuts():
        for regime in study.regimes_of(cut.criterion):
            context = _context(study, shared, (cut.criterion, regime), stamps)
            for seed in study.seeds:
                yield Cell(cut, regime, seed, context)


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
