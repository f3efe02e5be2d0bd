"""The columns of a comparison: narrow ones for a terminal, full ones for a page.

What belongs to a network and not to one of its retrainings stands in its first row only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from slimnet.report import words
from slimnet.study import Results, Row
from slimnet.task import Metric
from slimnet.text import decimal
from slimnet.train.reporting import duration


@dataclass(frozen=True)
class Column:
    """One column: its heading, and what stands in a row."""

    heading: str
    cell: Callable[[Row], str]
    of_network: bool = True
    left: bool = False


@dataclass(frozen=True)
class Line:
    """One printed row; ``first`` and ``last`` of its network."""

    cells: tuple[str, ...]
    first: bool
    last: bool


def narrow(results: Results) -> tuple[Column, ...]:
    """For 80 characters: shares, and the dense network's amounts to take them from."""
    digits, name = results.digits(results.metric), words.label(results.metric, short=True)
    return (
        Column("network", lambda row: words.network(row, short=True), left=True),
        Column("channels\nremoved", lambda row: words.part(row.facts.channels_removed)),
        Column("MACs\nleft", lambda row: _left(row, row.facts.macs, row.macs_ratio)),
        Column("params\nleft", lambda row: _left(row, row.facts.params, row.params_ratio)),
        *_latency(results, "ms"),
        Column(f"{name}\nafter\nthe cut", lambda row: _cut(row, digits)),
        Column("then", lambda row: row.regime or words.NOTHING, of_network=False, left=True),
        Column(name, lambda row: words.spread(row.first, digits, "±"), of_network=False),
        Column("vs\ndense", lambda row: words.difference(row, digits), of_network=False),
    )


def full(results: Results) -> tuple[Column, ...]:
    """For a page: amounts, shares, every metric, epochs and compute."""
    digits, name = results.digits(results.metric), words.label(results.metric)
    return (
        Column("network", words.network, left=True),
        Column("channels\nremoved", lambda row: words.part(row.facts.channels_removed)),
        Column("MACs\n(left)", lambda row: _amount(row.facts.macs, row.macs_ratio)),
        Column("parameters\n(left)", lambda row: _amount(row.facts.params, row.params_ratio)),
        *_latency(results, "latency\nms"),
        Column(f"{name}\nafter the cut", lambda row: _cut(row, digits)),
        Column("then", words.retraining, of_network=False, left=True),
        Column(name, lambda row: words.spread(row.first, digits), of_network=False),
        Column("vs\ndense", lambda row: words.difference(row, digits), of_network=False),
        *(_other(results, metric) for metric in results.metrics[1:]),
        Column("epochs", lambda row: str(row.epochs or words.NOTHING), of_network=False),
        Column("compute", lambda row: _compute(row.compute), of_network=False),
        Column("time", lambda row: _time(row.seconds), of_network=False),
        Column("in\ntotal", lambda row: _compute(row.total_compute), of_network=False),
        *_used(results),
    )


def _used(results: Results) -> Iterator[Column]:
    """What trainings took beside time, where it could be measured."""
    rows = results.summary()
    if any(row.used.memory is not None for row in rows):
        yield Column("memory\nMB", lambda row: _scaled(row.used.memory, 1e6), of_network=False)
    if any(row.used.energy is not None for row in rows):
        yield Column("energy\nkJ", lambda row: _scaled(row.used.energy, 1e3), of_network=False)


def _scaled(value: float | None, unit: float) -> str:
    return words.NOTHING if value is None else f"{value / unit:,.3g}"


def _other(results: Results, metric: Metric) -> Column:
    """A metric beside the one that counts."""
    digits = results.digits(metric)
    return Column(
        words.label(metric),
        lambda row: words.spread(row.metrics[metric.name], digits),
        of_network=False,
    )


def lines(columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[Line]:
    """What is printed, row by row."""
    names = [words.network(row) for row in rows]
    for number, row in enumerate(rows):
        first = number == 0 or names[number - 1] != names[number]
        last = number + 1 == len(rows) or names[number + 1] != names[number]
        shown = (column.cell(row) if first or not column.of_network else "" for column in columns)
        yield Line(tuple(shown), first, last)


def caption(results: Results) -> str:
    """What the columns mean, in one paragraph."""
    seeds = len(results.study.seeds)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    regimes = dict.fromkeys((*results.study.regimes, *results.study.dense_regimes))
    meanings = "; ".join(f"{regime}: {words.meaning(regime)}" for regime in regimes)
    metric, sample, count = results.metric, words.sample(results), results.tested
    name, better = metric.name, " (lower is better)" if metric.best == "lowest" else ""
    on = "the test split" if count is None else f"{count} test {sample}s"
    return (
        f"{name[:1].upper()}{name[1:]}{better} on {on}, {spread}, of the last epoch. "
        f"MACs: multiply-adds of one {sample}. {meanings[:1].upper()}{meanings[1:]}."
    )


def _latency(results: Results, heading: str) -> tuple[Column, ...]:
    if all(row.latency_ms is None for row in results.summary()):
        return ()
    return (
        Column(heading, lambda row: words.milliseconds(row.latency_ms)),
        Column("speed", lambda row: words.times(row.speedup)),
    )


def _left(row: Row, value: int, ratio: float) -> str:
    return words.amount(value) if row.criterion is None else words.part(ratio)


def _amount(value: int, ratio: float) -> str:
    left = "" if ratio == 1 else f" ({words.part(ratio)})"
    return f"{words.amount(value)}{left}"


def _cut(row: Row, digits: int) -> str:
    return words.NOTHING if row.criterion is None else decimal(row.first.cut, digits)


def _time(seconds: float) -> str:
    return duration(seconds) if seconds else words.NOTHING


def _compute(value: float | None) -> str:
    return words.amount(value) if value else words.NOTHING
