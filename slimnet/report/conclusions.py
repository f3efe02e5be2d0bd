"""What may be concluded, as a person reads it: the same in the terminal and in the HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from slimnet.study import Results, Verdict, conclude
from slimnet.study.paired import LEVEL, coverage, seeds_needed
from slimnet.text import decimal

FEW = 8  # verdicts of a question that are read one by one
SHOWN = 150  # verdicts of a question in the page; results.json has every one


@dataclass(frozen=True)
class Answer:
    """A question, the verdicts on it, and where they are many what they come to."""

    title: str
    verdicts: Sequence[Verdict]

    @property
    def summary(self) -> list[str]:
        """A sentence for each side and rival; nothing where verdicts are few."""
        if len(self.verdicts) <= FEW:
            return []
        groups: dict[tuple[str, str], list[Verdict]] = {}
        for verdict in self.verdicts:
            groups.setdefault((verdict.side, verdict.rival), []).append(verdict)
        return [f"{one} against {two}: {_summed_up(group)}" for (one, two), group in groups.items()]


@dataclass(frozen=True)
class Conclusions:
    """The answers of one study, and how they were found."""

    answers: Sequence[Answer]
    method: Sequence[str]


def conclusions(results: Results) -> Conclusions:
    """Question by question."""
    found = conclude(results)
    groups = groupby(found, key=lambda verdict: verdict.question.title)
    return Conclusions([Answer(title, list(group)) for title, group in groups], _method(found))


def _summed_up(verdicts: Sequence[Verdict]) -> str:
    """How often which outcome, and by how much: ``better in 7 of 9 (by 0.3 to 0.6 points)``."""
    said: list[str] = []
    for outcome, text in _OUTCOMES.items():
        if of := [verdict for verdict in verdicts if verdict.outcome == outcome]:
            among = "" if said else f" of {len(verdicts)}"
            said.append(f"{text} in {len(of)}{among}{_by(of) if outcome in _DECIDED else ''}")
    return ", ".join(said)


_OUTCOMES = {"better": "better", "worse": "worse", "same": "the same", "open": "cannot tell"}
_DECIDED = ("better", "worse")


def _by(verdicts: Sequence[Verdict]) -> str:
    """From the least to the greatest difference."""
    one = verdicts[0]
    sizes = sorted({decimal(abs(verdict.gain), one.digits) for verdict in verdicts}, key=float)
    return f" (by {' to '.join(dict.fromkeys((sizes[0], sizes[-1])))}{one.unit})"


def numbers(verdict: Verdict) -> tuple[str, ...]:
    """What stands behind a verdict: row, rival, outcome, difference, p-values, seeds."""
    alone, corrected = f"{verdict.paired.p:.3g}", f"{verdict.p:.3g}"
    outcome = _OUTCOMES[verdict.outcome]
    who = verdict.row, verdict.rival
    return *who, outcome, verdict.interval, alone, corrected, str(verdict.seeds)


HEADINGS = (
    "row",
    "against",
    "verdict",
    "difference\n(95 % interval)",
    "p\nalone",
    "p\ncorrected",
    "seeds",
)


def _method(found: Sequence[Verdict]) -> tuple[str, ...]:
    """How verdicts came about, and what so many seeds can tell."""
    if not found:
        return ()
    metric, seeds = found[0].metric.name, max(verdict.seeds for verdict in found)
    how = (
        f"Rows are compared seed by seed, by {metric} after the last epoch. In brackets stands the "
        "95 % interval of the mean difference (BCa bootstrap). A verdict is given where the "
        f"sign-flip test has p ≤ {LEVEL:g}, corrected for all comparisons under its question: of "
        "the verdicts given, 5 % are expected to be false at most (Benjamini-Hochberg)."
    )
    most = max(verdict.comparisons for verdict in found)
    return (how, _few(seeds, most)) if seeds < seeds_needed(most) else (how,)


def _few(seeds: int, comparisons: int) -> str:
    """What so few seeds cannot decide, and how many could."""
    alone, needed = seeds_needed(), seeds_needed(comparisons)
    single = f"one that is clear among {comparisons} that are not takes {needed}"
    if seeds >= alone:
        return f"{seeds} seeds tell differences where most comparisons are clear; {single}."
    if seeds == 1:
        return f"One seed can never decide: {alone} at least could, and {single}."
    return (
        f"{seeds} seeds can never reach 5 %: if all agree, p is {2 / 2**seeds:.2g}. {alone} could, "
        f"and {single}. The interval lies between the least and the greatest difference, and over "
        f"{seeds} seeds holds the true one in {100 * coverage(seeds):.0f} % of all cases at best, "
        "not in 95 %."
    )


def verdict_lines(results: Results) -> list[str]:
    """For a terminal, below the table: each question, the verdicts on it, how they were found."""
    found = conclusions(results)
    said: list[str] = []
    for answer in found.answers:
        sentences = answer.summary or [verdict.sentence() for verdict in answer.verdicts]
        said += [answer.title, *(f"  {sentence}." for sentence in sentences), ""]
    return [*said, *found.method]
