"""What may be concluded from a study, in words: each row against its rivals, seed by seed.

Only the last epoch counts. The comparisons of one question are a family, and a verdict is for or
against a row where 5 % of such verdicts are expected to be false; else nothing can be told, and a
verdict of few seeds says how many could.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from slimnet.study.cells import Cell
from slimnet.study.paired import LEVEL, Paired, corrected, paired, seeds_needed
from slimnet.study.questions import QUESTIONS, Question, Rows, row_in_words, weights_in_words
from slimnet.study.results import CellResult, Results
from slimnet.task import Metric
from slimnet.text import count, decimal

Outcome: TypeAlias = Literal["better", "worse", "same", "open"]


@dataclass(frozen=True)
class Comparison:
    """Two rows on the seeds that both have; differences are row minus rival."""

    row: Cell
    rival: Cell
    differences: Mapping[int, float]  # of the metric that counts, by seed
    rates: tuple[int, int]  # learning rates that were tried for row and rival

    @property
    def differ(self) -> bool:
        """Whether they do in any seed; if not, there is nothing to test, nor to correct for."""
        return any(self.differences.values())

    @classmethod
    def of(cls, row: Cell, rival: Cell, rows: Rows, metric: str) -> Comparison:
        """The dense network as it was handed over is the same for every seed."""
        own, other = (_by_seed(rows.records[each], metric) for each in (row, rival))
        tried = rows.rates(row)
        if rival.is_baseline:  # how it was tuned is not known
            differences = {
                seed: value - one for one in other.values() for seed, value in own.items()
            }
            return cls(row, rival, differences, (tried, tried))
        differences = {seed: own[seed] - other[seed] for seed in own if seed in other}
        return cls(row, rival, differences, (tried, rows.rates(rival)))


@dataclass(frozen=True)
class Verdict:
    """What one comparison comes to."""

    question: Question
    comparison: Comparison
    paired: Paired
    p: float  # corrected for the comparisons of the question
    comparisons: int
    metric: Metric
    digits: int  # decimals that mean something

    @property
    def outcome(self) -> Outcome:
        """For the row, against it, exactly alike, or open."""
        if not self.comparison.differ:
            return "same"
        if self.p > LEVEL:
            return "open"
        return "better" if self.gain > 0 else "worse"

    @property
    def seeds(self) -> int:
        """How many both rows have."""
        return len(self.comparison.differences)

    @property
    def needed(self) -> int:
        """The least number of seeds that can decide it, where all are of one sign.

        As many as for one comparison alone, where the others of the question are clear, too.
        """
        return seeds_needed()

    @property
    def row(self) -> str:
        """The row in words."""
        return row_in_words(self.comparison.row)

    @property
    def rival(self) -> str:
        """The rival in words."""
        return self.question.rival(self.comparison.rival)

    @property
    def side(self) -> str:
        """What matters of the row to the question."""
        return self.question.side(self.comparison.row)

    @property
    def gain(self) -> float:
        """The mean difference, positive where the row is better."""
        return self.paired.mean if self.metric.best == "highest" else -self.paired.mean

    @property
    def unit(self) -> str:
        """Of a difference, with a space before it."""
        return " points" if self.metric.unit == "%" else f" {self.metric.unit}".rstrip()

    @property
    def interval(self) -> str:
        """The mean difference with its interval, as measured: ``+0.4 (0.1 to 0.7)``."""
        sign = "+" if self.paired.mean > 0 else ""
        return f"{sign}{self._range(1)}"

    def sentence(self) -> str:
        """The verdict in words, without the point at its end."""
        return f"{self.row}: {self._said()}{self._tuning()}"

    def to_json(self) -> dict[str, Any]:
        """Every number, flat, for those who only read."""
        return {
            "question": self.question.title,
            "row": self.row,
            "rival": self.rival,
            "outcome": self.outcome,
            "sentence": self.sentence(),
            "seeds": list(self.comparison.differences),
            **asdict(self.paired),
            "p_corrected": self.p,
            "comparisons": self.comparisons,
            "seeds_needed": self.needed,
            "learning_rates_tried": list(self.comparison.rates),
        }

    def _said(self) -> str:
        texts = {"rival": self.rival, "weights": weights_in_words(self.comparison.row)}
        if self.outcome == "same":
            return f"the same as {self.rival} in {_each(self.seeds)}"
        if self.outcome == "open":
            asked = self.question.open.format(**texts)
            few = f"; {self.needed} seeds at least could tell" if self.seeds < self.needed else ""
            return f"cannot tell from {count(self.seeds, 'seed')} whether {asked}: " + (
                f"{self.metric.name} {self.interval}{few}"
            )
        text = self.question.better if self.outcome == "better" else self.question.worse
        return text.format(**texts, by=self._range(-1 if self.paired.mean < 0 else 1))

    def _range(self, sign: int) -> str:
        """The mean and its interval, seen from one side."""
        mean = f"{decimal(sign * self.paired.mean, self.digits)}{self.unit}"
        if self.paired.low is None or self.paired.high is None:
            return mean
        low, high = sorted((sign * self.paired.low, sign * self.paired.high))
        return f"{mean} ({decimal(low, self.digits)} to {decimal(high, self.digits)})"

    def _tuning(self) -> str:
        """What is to be said where one side was tuned less."""
        own, other = self.comparison.rates
        if own == other:
            return ""
        less = "it" if own < other else self.rival
        tried = count(min(own, other), "learning rate")
        return f"; {less} was tuned less: {tried} tried against {max(own, other)}"


def conclude(results: Results) -> tuple[Verdict, ...]:
    """Every comparison of a study, question by question."""
    rows = Rows.of(results)
    return tuple(answer for question in QUESTIONS for answer in _answers(question, rows, results))


def _answers(question: Question, rows: Rows, results: Results) -> Iterator[Verdict]:
    """The verdicts of one family; rows without a common seed are not compared."""
    metric = results.metric
    compared = [Comparison.of(*pair, rows, metric.name) for pair in question.pairs(rows)]
    compared = [comparison for comparison in compared if comparison.differences]
    found = paired([list(comparison.differences.values()) for comparison in compared])
    pairs = list(zip(compared, found, strict=True))
    ps = corrected([one.p for comparison, one in pairs if comparison.differ])
    shared, left = (len(ps), metric, results.digits(metric)), iter(ps)
    for comparison, one in pairs:
        yield Verdict(question, comparison, one, next(left) if comparison.differ else 1.0, *shared)


def _by_seed(records: Sequence[CellResult], metric: str) -> dict[int, float]:
    return {record.cell.seed: record.metrics[metric] for record in records}


def _each(seeds: int) -> str:
    return "its only seed" if seeds == 1 else f"each of {seeds} seeds"
