"""Which rows of a study are compared, and what is asked of them: one row per question.

A row is a cell of any seed. Its rivals have the same budget, and differ in what is asked: in the
weights that they start from, in the criterion, or in not being cut at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from slimnet.study.cells import UNSTRUCTURED, Cell, Cut, mask_of
from slimnet.study.results import CellResult, Results
from slimnet.train import REGIMES
from slimnet.train.regimes import WORDING

BASELINES = ("random", "l1")
"""Criteria that the others are compared with; each of these with those before it."""
MASK_BASELINES = (f"{UNSTRUCTURED}-random", UNSTRUCTURED)
"""The same of those that mask single weights."""
UNIFORM = "local"
"""The scope that takes the same share of every group."""
INHERITED = ("surviving", "repaired", "earlier")
"""Starts that keep what the dense network learnt, or began with."""


@dataclass(frozen=True)
class Rows:
    """The results of a study by row."""

    records: Mapping[Cell, Sequence[CellResult]]
    dense: Mapping[str | None, Cell]  # by regime
    regimes: tuple[str, ...]

    @classmethod
    def of(cls, results: Results) -> Rows:
        """A row for each network and regime."""
        groups = results.groups().values()
        records = {replace(group[0].cell, seed=0, context=""): group for group in groups}
        dense = {row.regime: row for row in records if row.criterion is None}
        return cls(records, dense, results.study.regimes)

    def retrained(self, row: Cell, wanted: Callable[[str], bool]) -> Iterator[Cell]:
        """The same network under other regimes."""
        others = (replace(row, regime=name) for name in self.regimes if wanted(name))
        return (other for other in others if other in self.records and other != row)

    def other_cut(self, row: Cell, cut: Cut) -> Iterator[Cell]:
        """The row of another cut, unless both are one training."""
        other = replace(row, cut=cut)
        if other in self.records and not self.are_one_training(row, other):
            yield other

    def rates(self, row: Cell) -> int:
        """How many learning rates were tried for it."""
        return self.records[row][0].rates

    def are_one_training(self, row: Cell, other: Cell) -> bool:
        """Whether two networks from scratch have the same widths."""
        one, two = (self.records[each][0].facts for each in (row, other))
        fresh = row.regime is not None and REGIMES[row.regime].start == "fresh"
        return fresh and (one.macs, one.params, one.groups) == (two.macs, two.params, two.groups)


@dataclass(frozen=True)
class Question:
    """A family of comparisons: who meets whom, and how each outcome is said.

    The texts may name the ``{rival}``, the row's ``{weights}``, and say ``{by}`` how much.
    """

    title: str
    rivals: Callable[[Cell, Rows], Iterator[Cell]]
    side: Callable[[Cell], str]  # what matters of a row, in words
    rival: Callable[[Cell], str]  # in words
    better: str
    worse: str
    open: str

    def pairs(self, rows: Rows) -> Iterator[tuple[Cell, Cell]]:
        """Each row that was trained or repaired, with each of its rivals."""
        for row in rows.records:
            if _is_retrained(row):
                yield from ((row, rival) for rival in self.rivals(row, rows))


def row_in_words(row: Cell) -> str:
    """The network and how it was retrained: ``l1, ratio 0.5, fine-tuned``."""
    network = str(replace(row, regime=None))
    return network if row.regime is None else f"{network}, {_title(row)}"


def weights_in_words(row: Cell) -> str:
    """The weights that a retrained row starts from."""
    kept = row.regime is not None and REGIMES[row.regime].start in INHERITED
    return "inherited weights" if kept else "these weights"


def _is_retrained(row: Cell) -> bool:
    """Not what a mask makes of untrained weights."""
    regime = None if row.regime is None else REGIMES[row.regime]
    return regime is not None and (regime.epochs > 0 or regime.start == "repaired")


def _title(row: Cell) -> str:
    return "" if row.regime is None else REGIMES[row.regime].title


def _dense_in_words(row: Cell) -> str:
    return f"the dense network, {_title(row)}" if row.regime else "the dense network"


def _from_scratch(row: Cell, rows: Rows) -> Iterator[Cell]:
    if row.regime is None or REGIMES[row.regime].start == "fresh":
        return iter(())
    return rows.retrained(row, lambda name: REGIMES[name].start == "fresh")


def _dense(row: Cell, rows: Rows) -> Iterator[Cell]:
    """As it was handed over and, of a slim network, as it was retrained in the same way."""
    regimes = (None,) if row.criterion is None else (None, row.regime)
    return (rows.dense[regime] for regime in regimes if regime in rows.dense)


def _criteria(row: Cell, rows: Rows) -> Iterator[Cell]:
    if row.cut is None:
        return
    baselines = BASELINES if mask_of(row.criterion) is None else MASK_BASELINES
    for name in takewhile(lambda name: name != row.criterion, baselines):
        yield from rows.other_cut(row, replace(row.cut, criterion=name))


def _scopes(row: Cell, rows: Rows) -> Iterator[Cell]:
    """The same share of every group, against widths that a criterion found."""
    if row.cut is not None and row.cut.scope not in (None, UNIFORM):
        yield from rows.other_cut(row, replace(row.cut, scope=UNIFORM))


def _other_weights(row: Cell, rows: Rows) -> Iterator[Cell]:
    """The surviving or the earlier weights on the same schedule."""
    own = None if row.regime is None else REGIMES[row.regime]
    if own is None or own.start in ("surviving", "fresh"):
        return iter(())

    def meets(name: str) -> bool:
        other = REGIMES[name]
        known = other.start in ("surviving", "earlier") and not other.masked
        weights = {field: getattr(other, field) for field in (*WORDING, "start", "held")}
        return known and other.to_json() != own.to_json() and replace(own, **weights) == other

    return rows.retrained(row, meets)


_DIFFERENT = (
    "better than {rival} by {by}",
    "worse than {rival} by {by}",
    "it differs from {rival}",
)
QUESTIONS = (
    Question(
        "Do inherited weights help, against training the same network from scratch?",
        _from_scratch,
        _title,
        lambda rival: f"training {_title(rival)}",
        "{weights} helped by {by} against {rival}",
        "{rival}, did better by {by}",
        "{weights} help against {rival}",
    ),
    Question("Is it as good as the dense network?", _dense, _title, _dense_in_words, *_DIFFERENT),
    Question(
        "Does the criterion matter, at the same budget and with the same retraining?",
        _criteria,
        lambda row: str(row.criterion),
        lambda rival: str(rival.criterion),
        *_DIFFERENT,
    ),
    Question(
        "Do widths that were found do better than the same share everywhere?",
        _scopes,
        lambda row: f"scope {row.cut.scope}" if row.cut else "",
        lambda rival: "the same share everywhere",
        *_DIFFERENT,
    ),
    Question(
        "Would other weights do, on the same schedule?", _other_weights, _title, _title, *_DIFFERENT
    ),
)
