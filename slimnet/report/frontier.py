"""A frontier as a table in the terminal, and as one HTML page: the metric against measured ms.

Takes plain values, also of a frontier that is not at its end yet: then nothing is timed, and the
page has no chart and no verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from slimnet.output import write_text
from slimnet.report import words
from slimnet.report.chart import COLOURS, Mark, Series, lines
from slimnet.report.templates import filled
from slimnet.task import Metric
from slimnet.text import count, legible

DENSE = "dense"
NEAR = 0.01
"""A metric that is worse by no more than this part of the dense network's is called near."""


@dataclass(frozen=True)
class Time:
    """Milliseconds of one run, and how many times as fast as the dense network that is."""

    ms: float
    low: float  # 10th percentile of the rounds
    high: float  # 90th percentile
    speed: float = 1.0
    speed_low: float = 1.0
    speed_high: float = 1.0
    verdict: str = ""  # faster, slower or undecided


@dataclass(frozen=True)
class Point:
    """One target, and what came of it."""

    target: str  # 0.8x, 4ms
    macs: float = 1.0  # share that is left
    params: float = 1.0
    repaired: Mapping[str, float] = field(default_factory=dict)  # metrics; empty: not to be had
    trained: Mapping[str, float] = field(default_factory=dict)
    why: str = ""  # it could not be had, or was not trained

    @property
    def lacking(self) -> str:
        """The target, and why it could not be had or was not trained."""
        if self.repaired:
            return f"{self.target} was not trained: {self.why}"
        return self.why if self.why.startswith(self.target) else f"{self.target}: {self.why}"

    @property
    def slim(self) -> str:
        """The repaired network's files, without their endings."""
        return f"slim-{self.target}"

    @property
    def tuned(self) -> str:
        """Those of the trained one."""
        return f"tuned-{self.target}"


@dataclass(frozen=True)
class Frontier:
    """A dense network, and the points below its time."""

    title: str
    command: str
    metric: Metric
    dense: Mapping[str, float]
    points: Sequence[Point]
    trains: bool = False
    times: Mapping[str, Time] = field(default_factory=dict)  # by a file's name without its ending
    conditions: str = ""  # how it was timed
    remarks: Sequence[str] = ()  # what disturbed that
    tested: int | None = None  # samples that the metric is of
    commands: Sequence[str] = ()  # that repeat the steps
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def had(self) -> Sequence[Point]:
        """The points with a network, the slowest first where they are timed."""
        had = [point for point in self.points if point.repaired]
        return sorted(had, key=lambda point: -self.times[point.slim].ms) if self.times else had

    @property
    def missing(self) -> Sequence[Point]:
        """Those without one."""
        return [point for point in self.points if not point.repaired]

    @property
    def whole(self) -> float:
        """The metric of the dense network."""
        return self.dense[self.metric.name]

    def number(self, value: float) -> str:
        """The metric without its unit: percentages with two decimals, others with four digits."""
        return f"{value:.2f}" if self.metric.unit == "%" else f"{value:.4g}"

    def written(self, value: float) -> str:
        """The metric with its unit."""
        return f"{self.number(value)} {self.metric.unit}".strip()

    def loss(self, value: float) -> float:
        """How much worse than the dense network's, as a part of it; below 0: better."""
        worse = self.whole - value if self.metric.best == "highest" else value - self.whole
        return worse / (abs(self.whole) or 1.0)


def write_frontier(path: Path, frontier: Frontier, stopped: str = "") -> None:
    """Write the page; ``stopped`` says why it is not the whole frontier."""
    text = filled(
        "frontier.html.jinja",
        frontier=frontier,
        stopped=stopped,
        verdict=verdict(frontier),
        chart=_chart(frontier) if frontier.times else "",
        headings=_headings(frontier),
        rows=list(_rows(frontier)),
        notes=list(_notes(frontier)),
        colours=COLOURS,
    )
    write_text(path, text)


def frontier_table(frontier: Frontier) -> Table:
    """A row per network, the dense one first; in the end the targets that could not be had."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, heading in enumerate(_headings(frontier, short=True)):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for cells in _rows(frontier):
        table.add_row(*(Text(legible(cell)) for cell in cells))
    for point in frontier.missing:
        table.add_row(point.target, words.NOTHING, "cannot be had")
    return table


def verdict(frontier: Frontier) -> str:
    """What to take, in a few sentences; nothing before all is timed."""
    if not frontier.times:
        return ""
    missing, targets = len(frontier.missing), count(len(frontier.points), "target")
    if not frontier.had:
        return f"None of {targets} could be had; the table says why."
    lacks = f" {missing} of {targets} could not be had." if missing else ""
    return _recommended(frontier) + lacks


def _recommended(frontier: Frontier) -> str:
    """The fastest that is near the dense network, else the nearest; and the fastest of all."""
    best = [_best(frontier, point) for point in frontier.had]
    faster = [one for one in best if frontier.times[one[0]].verdict == "faster"]
    if not faster:
        return "None of the slim networks is measurably faster than the dense one."
    quickest = _quickest(frontier, faster)
    near = [one for one in faster if frontier.loss(one[1]) <= NEAR]
    name, dense = frontier.metric.name, frontier.written(frontier.whole)
    if near:
        chosen = _quickest(frontier, near)
        kept = f"The fastest that keeps the {name} of the dense network ({dense}) within {NEAR:.0%}"
    else:
        chosen = min(faster, key=lambda one: frontier.loss(one[1]))
        kept = f"No faster network keeps the {name} of the dense one ({dense}) within {NEAR:.0%}"
        kept = f"{kept}; the nearest"
    said = f"{kept} is {_said(frontier, chosen)}"
    if quickest != chosen:
        said += f" The fastest of all is {_said(frontier, quickest)}"
    return said if near or frontier.trains else f"{said} {_TRAIN}"


_TRAIN = "None was trained on yet: the same command with --epochs or --minutes does."


def _quickest(frontier: Frontier, networks: Sequence[tuple[str, float]]) -> tuple[str, float]:
    return min(networks, key=lambda one: frontier.times[one[0]].ms)


def _best(frontier: Frontier, point: Point) -> tuple[str, float]:
    """The better of a point's networks: its file's name, and its metric."""
    name = frontier.metric.name
    repaired = point.slim, point.repaired[name]
    if not point.trained or frontier.metric.is_better(repaired[1], point.trained[name]):
        return repaired
    return point.tuned, point.trained[name]


def _said(frontier: Frontier, one: tuple[str, float]) -> str:
    name, value = one
    time, dense = frontier.times[name], frontier.times[DENSE]
    return (
        f"{name}: {frontier.written(value)}, {words.milliseconds(time.ms)} ms instead of "
        f"{words.milliseconds(dense.ms)} ({words.times(time.speed)})."
    )


def _chart(frontier: Frontier) -> str:
    """The metric against ms; the dense network is a mark of its own, and a level."""
    name, had = frontier.metric.name, frontier.had
    repaired = [_mark(frontier, point.slim, point.repaired[name]) for point in had]
    trained = [_mark(frontier, point.tuned, point.trained[name]) for point in had if point.trained]
    series = (
        Series(DENSE, (_mark(frontier, DENSE, frontier.whole),), symbol=3),
        Series("repaired", tuple(repaired), 0),
        Series("trained", tuple(trained), 1, 1),
    )
    shown = [one for one in series if one.marks]
    return lines(shown, "ms of one run, measured", words.label(frontier.metric), frontier.whole)


def _mark(frontier: Frontier, name: str, value: float) -> Mark:
    time = frontier.times[name]
    said = f"{name}: {words.milliseconds(time.ms)} ms, {frontier.written(value)}"
    return Mark(time.ms, value, said)


def _headings(frontier: Frontier, *, short: bool = False) -> list[str]:
    label = words.label(frontier.metric, short=short)
    trained = [f"{label}\ntrained", "ms\ntrained"] if frontier.trains else []
    return ["target", "ms", "speed", "MACs\nleft", "params\nleft", f"{label}\nrepaired", *trained]


def _rows(frontier: Frontier) -> Iterator[list[str]]:
    """The dense network, then every point that could be had."""
    if not frontier.dense:
        return
    whole, rest = words.part(1.0), [words.NOTHING] * (2 if frontier.trains else 0)
    dense = frontier.number(frontier.whole)
    yield [DENSE, _ms(frontier, DENSE), words.NOTHING, whole, whole, dense, *rest]
    for point in frontier.had:
        yield [
            point.target,
            _ms(frontier, point.slim),
            _speed(frontier.times.get(point.slim)),
            words.part(point.macs),
            words.part(point.params),
            frontier.number(point.repaired[frontier.metric.name]),
            *(_trained(frontier, point) if frontier.trains else []),
        ]


def _trained(frontier: Frontier, point: Point) -> list[str]:
    if not point.trained:
        return [words.NOTHING, words.NOTHING]
    return [frontier.number(point.trained[frontier.metric.name]), _ms(frontier, point.tuned)]


def _ms(frontier: Frontier, name: str) -> str:
    time = frontier.times.get(name)
    return words.milliseconds(None if time is None else time.ms)


def _speed(time: Time | None) -> str:
    """With its spread, and a word where it is not faster."""
    if time is None:
        return words.NOTHING
    spread = f"{words.times(time.speed)} ({time.speed_low:.2f}–{time.speed_high:.2f})"
    return f"{spread}{_WORDS.get(time.verdict, '')}"


_WORDS = {"slower": " slower", "undecided": " within the noise"}


def _notes(frontier: Frontier) -> Iterator[str]:
    name, best = frontier.metric.name, frontier.metric.best
    yield (
        f"{name[:1].upper()}{name[1:]} ({best} is best) on {_tested(frontier)}; which network is "
        "named first was chosen on the same data."
    )
    yield (
        "A target with an x is that part of the dense network's time, measured when the cut was "
        "made; ms and speed are of all files timed together afterwards, so the two may differ."
    )
    if frontier.trains:
        yield "A trained network is as wide as the repaired one: what their ms differ by is noise."
    for sentence in filter(None, (frontier.conditions, *frontier.remarks)):
        yield f"{sentence[:1].upper()}{sentence[1:]}."


def _tested(frontier: Frontier) -> str:
    number = frontier.tested
    if number is None:
        return "the test data"
    one = f", each of which is {100 / number:.2g} points" if frontier.metric.unit == "%" else ""
    return f"{number:,} test samples{one}"
