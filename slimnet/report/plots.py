"""The pictures of reports: which points they show, and what is said of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeAlias

from slimnet.report import chart, words
from slimnet.report.chart import COLOURS, Bar, Mark, Series
from slimnet.study import LatencyFacts, Results, Row
from slimnet.study.cells import Cut
from slimnet.study.curves import Curve, Sensitivity
from slimnet.study.questions import row_in_words
from slimnet.train import REGIMES

MOST_LINES = 30  # of a picture: more are not told apart


def curves_note(results: Results) -> str:
    """What a line of the curves is, and how many there is no room for."""
    rows = sum(any(record.losses for record in group) for group in results.groups().values())
    return f"Each line is the mean over the seeds; its end is what is compared.{_left_out(rows)}"


def series_note(results: Results) -> str:
    """How many lines there is no room for in the pictures against costs."""
    return _left_out(len({(_way(row.cut), row.regime) for row in results.summary()}) - 1)


def _left_out(lines: int) -> str:
    return f" Of {lines} lines the first {MOST_LINES} are drawn." if lines > MOST_LINES else ""


@dataclass(frozen=True)
class View:
    """What the metric that counts is drawn against; a row without a value is left out."""

    title: str
    of: Callable[[Row, Results], float | None]
    said: str  # of one value
    log: bool = False
    spread: Callable[[Row], tuple[float, float] | None] = lambda row: None


VIEWS = {
    "macs": View(
        "MACs remaining, % of the dense network",
        lambda row, results: 100 * row.macs_ratio,
        "{:.1f} % of the MACs",
    ),
    "params": View(
        "compression, times fewer parameters",
        lambda row, results: 1 / row.params_ratio,
        "{:.3g} times fewer parameters",
        log=True,
    ),
    "latency": View(
        "ms per run, measured",
        lambda row, results: row.latency_ms,
        "{:.3g} ms",
        spread=lambda row: _milliseconds(row.facts.latency),
    ),
    "compute": View(
        "training in all, MACs x samples",
        lambda row, results: results.whole_compute(row),
        "{:.3g} MACs x samples",
        log=True,
    ),
}


APART = 24.0  # from the first to the last series, of a picture 720 wide


def metric_plot(results: Results, view: str) -> str | None:
    """The metric that counts against a view: a series per criterion and regime.

    None where nothing slim has a place in it.
    """
    shown, metric = VIEWS[view], results.metric
    places = [(row, shown.of(row, results)) for row in results.summary()]
    placed = [(row, x) for row, x in places if x]
    names = list(dict.fromkeys((_way(row.cut), row.regime) for row, _ in placed))
    names = names[: MOST_LINES + 1]  # the dense network is the first
    retrained = [name for name in names if name != (None, None)]
    if not any(criterion for criterion, _ in retrained):
        return None
    series = []
    for number, name in enumerate(names):
        points = [(row, x) for row, x in placed if (_way(row.cut), row.regime) == name]
        points.sort(key=lambda point: point[1])
        marks = tuple(_mark(row, x, shown, results.digits(metric)) for row, x in points)
        # side by side, or their bars would hide one another
        shift = 0.0 if name == (None, None) else APART * (number / len(names) - 0.5)
        series.append(Series(_series_name(name), marks, *_look(name, retrained), shift=shift))
    dense = results.dense.metrics[metric.name]
    return chart.lines(series, shown.title, words.label(metric), dense, log=shown.log)


Name: TypeAlias = tuple[str | None, str | None]
"""Criterion (and scope, where several are compared) and regime; the dense network has none."""


def _series_name(name: Name) -> str:
    criterion, regime = name
    return ", ".join([criterion or "dense", *([REGIMES[regime].title] if regime else [])])


def _way(cut: Cut | None) -> str | None:
    return None if cut is None else cut.way


def _look(name: Name, names: Sequence[Name]) -> tuple[int | None, int]:
    """A colour for the regime and a symbol for the criterion; the dense network has no colour."""
    if name == (None, None):
        return None, 3
    criteria, regimes = (list(dict.fromkeys(each[side] for each in names)) for side in (0, 1))
    return regimes.index(name[1]), criteria.index(name[0])


def _mark(row: Row, x: float, view: View, digits: int) -> Mark:
    runs = f" ({row.n} runs)" if row.n > 1 else ""
    said = f"{view.said.format(x)}: {words.spread(row.first, digits)}{runs}"
    return Mark(x, row.first.mean, said, row.first.std or 0.0, view.spread(row))


def _milliseconds(latency: LatencyFacts | None) -> tuple[float, float] | None:
    """From where to where the measured times went."""
    if latency is None or latency.low_ms is None or latency.high_ms is None:
        return None
    return latency.low_ms, latency.high_ms


def curves_plot(results: Results, of: str) -> str | None:
    """``losses`` or ``curve``, epoch by epoch, the mean over the seeds: a line per row.

    None where nobody kept them.
    """
    groups = [group for group in results.groups().values() if all(getattr(x, of) for x in group)]
    rows = [(group[0].cell, [getattr(x, of) for x in group]) for group in groups[:MOST_LINES]]
    if not rows:
        return None
    names = list(dict.fromkeys((_way(cell.cut), cell.regime) for cell, _ in rows))
    series = []
    for cell, values in rows:
        name = row_in_words(cell)
        look = _look((_way(cell.cut), cell.regime), names)
        series.append(Series(name, tuple(_epochs(values)), *look))
    title = "loss of the training samples" if of == "losses" else words.label(results.metric)
    return chart.lines(series, "epochs", title)


POINTS = 60  # of a curve, or a long training would fill the page


def _epochs(values: Sequence[Sequence[float]]) -> Iterator[Mark]:
    """Points of a mean curve; only the last has a symbol."""
    means = [fmean(each) for each in zip(*values, strict=False)]
    step = max(1, math.ceil(len(means) / POINTS))
    for epoch in sorted({*range(0, len(means), step), len(means) - 1}):
        last = epoch == len(means) - 1
        yield Mark(epoch + 1, means[epoch], f"epoch {epoch + 1}: {means[epoch]:.4g}", shown=last)


def widths_plot(named: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> str | None:
    """Channels of each group of layers, in the order of the network: a line per slim network."""
    first = next((groups for _, groups in named if groups), None)
    if first is None:
        return None
    places = {tuple(group["layers"]): place for place, group in enumerate(first, start=1)}
    lines = [("dense", first, "before"), *((name, groups, "after") for name, groups in named)]
    series = []
    for number, (name, groups, side) in enumerate(lines):
        marks = tuple(
            Mark(
                places[tuple(group["layers"])],
                group[side],
                f"{group['layers'][0]}: {group['before']} → {group[side]}",
            )
            for group in groups
            if tuple(group["layers"]) in places
        )
        if marks:
            look = (number - 1, (number - 1) // COLOURS) if number else (None, 3)
            series.append(Series(name, marks, *look))
    return chart.lines(series, "groups of layers, first to last", "channels")


def latency_plot(measured: Sequence[tuple[str, LatencyFacts]]) -> str:
    """A bar per network with its median, and the spread where it is known."""
    rows = []
    for name, latency in measured:
        low, high = _milliseconds(latency) or (latency.median_ms, latency.median_ms)
        spread = f" ({low:.3g} to {high:.3g})" if high > low else ""
        said = f"{words.milliseconds(latency.median_ms)} ms{spread}"
        rows.append(Bar(name, latency.median_ms, low, high, said, plain=name == "dense"))
    return chart.bars(rows, "ms per run, shorter is better")


def sensitivity_plot(measured: Sensitivity) -> str:
    """A line per group: accuracy (else the outputs' relative change) against channels removed."""
    title = "relative change of the outputs" if measured.accuracy is None else "accuracy %"
    series = [
        Series(curve.layers[0], _curve(curve, measured.accuracy), number, number // COLOURS)
        for number, curve in enumerate(measured.curves)
    ]
    return chart.lines(series, "channels of the group removed, %", title)


def _curve(curve: Curve, accuracy: float | None) -> tuple[Mark, ...]:
    whole = 0.0 if accuracy is None else accuracy
    points = [(0.0, curve.width, whole)]
    for point in curve.points:
        value = point.error if point.accuracy is None else point.accuracy
        points.append((100 * point.removed, point.channels, value))
    return tuple(Mark(x, y, f"{channels} channels: {y:.4g}") for x, channels, y in points)
