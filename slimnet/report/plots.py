"""The pictures of reports: which points they show, and what is said of each."""

from __future__ import annotations

from collections.abc import Sequence

from slimnet.report import chart, words
from slimnet.report.chart import COLOURS, Bar, Mark, Series
from slimnet.study import LatencyFacts, Results, Row
from slimnet.study.curves import Curve, Sensitivity


def metric_plot(results: Results) -> str:
    """The metric that counts against the MACs that remain: a series per criterion and regime."""
    rows, metric = results.summary(), results.metric
    digits, names = results.digits(metric), _series(rows)
    criteria = list(dict.fromkeys(criterion for criterion, _ in names))
    regimes = list(dict.fromkeys(regime for _, regime in names))
    series = [Series("dense", (_mark(rows[0], 0.0, digits),), symbol=3)]
    for number, (criterion, regime) in enumerate(names):
        chosen = [row for row in rows if (row.criterion, row.regime) == (criterion, regime)]
        # side by side, or their bars would hide one another
        shift = 0.6 * (number - (len(names) - 1) / 2)
        ordered = sorted(chosen, key=lambda row: row.macs_ratio)
        series.append(
            Series(
                f"{criterion or 'dense'}, {words.retraining(chosen[0])}",
                tuple(_mark(row, shift, digits) for row in ordered),
                regimes.index(regime),
                criteria.index(criterion),
            )
        )
    dense = results.dense.metrics[metric.name]
    return chart.lines(series, "MACs remaining, % of the dense network", words.label(metric), dense)


def _series(rows: Sequence[Row]) -> list[tuple[str | None, str]]:
    """Each criterion with each regime, as they first appear."""
    return list(dict.fromkeys((row.criterion, row.regime) for row in rows if row.regime))


def _mark(row: Row, shift: float, digits: int) -> Mark:
    left = 100 * row.macs_ratio
    runs = f" ({row.n} runs)" if row.n > 1 else ""
    said = f"{left:.1f} % of the MACs: {words.spread(row.first, digits)}{runs}"
    return Mark(left + shift, row.first.mean, said, row.first.std or 0.0)


def latency_plot(measured: Sequence[tuple[str, LatencyFacts]]) -> str:
    """A bar per network with its median, and the spread where it is known."""
    rows = []
    for name, latency in measured:
        low = latency.median_ms if latency.low_ms is None else latency.low_ms
        high = latency.median_ms if latency.high_ms is None else latency.high_ms
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
