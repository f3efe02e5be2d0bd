"""Charts as SVG and HTML that a page needs nothing else for: no library, no file beside it.

Takes values, gives a fragment for a page that holds ``chart.css`` and ``chart.js``. Colours are the
page's, so that they fit a dark one; texts grow on a narrow screen, where the picture shrinks.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

from markupsafe import Markup

from slimnet.report.templates import filled

WIDTH, HEIGHT = 720.0, 420.0
LEFT, RIGHT, TOP, BOTTOM = 84.0, 16.0, 14.0, 72.0  # room for ticks and titles
BAR = 52.0  # high: a line of text, and the bar below it
COLOURS = 6  # classes c0 to c5 of chart.css
SYMBOLS = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "M-4.5 -4.5h9v9h-9z",
    "M0 -5.5L5.5 4.5H-5.5z",
    "M0 -6.5L5 0L0 6.5L-5 0z",
    "M-5 -3L-3 -5L0 -2L3 -5L5 -3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0z",
    "M0 -6L1.5 -2H6L2.5 1L4 6L0 3L-4 6L-2.5 1L-6 -2H-1.5z",
)


@dataclass(frozen=True)
class Mark:
    """One point: what is said of it, and how far it spreads to both sides of ``y``."""

    x: float
    y: float
    said: str
    spread: float = 0.0
    across: tuple[float, float] | None = None  # from where to where ``x`` spreads
    shown: bool = True  # else the line passes through it


@dataclass(frozen=True)
class Series:
    """Points of one name, joined by a line; without a colour in that of the text."""

    name: str
    marks: tuple[Mark, ...]
    colour: int | None = None
    symbol: int = 0
    shift: float = 0.0  # to the right, so that it hides no other

    @property
    def kind(self) -> str:
        """Its class in chart.css."""
        return "ink" if self.colour is None else f"c{self.colour % COLOURS}"

    @property
    def shape(self) -> str:
        """Its symbol, as a path around 0."""
        return SYMBOLS[self.symbol % len(SYMBOLS)]


@dataclass(frozen=True)
class Bar:
    """A length from 0, and where it spreads from and to."""

    name: str
    value: float
    low: float
    high: float
    said: str
    plain: bool = False  # in the colour of the text


@dataclass(frozen=True)
class Axis:
    """Values to places: ``low`` lies at ``start``, ``high`` at ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False  # equal factors, not equal steps, lie equally far apart

    def at(self, value: float) -> float:
        """The place of a value."""
        scale = math.log if self.log else float
        low, high, here = map(scale, (self.low, self.high, value))
        return round(self.start + (here - low) / (high - low) * (self.end - self.start), 2)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Places and texts of round values, about five."""
        for value in self._factors() if self.log else self._steps():
            yield self.at(value), f"{value:.6g}".replace("-", "−")

    def _factors(self) -> list[float]:
        """Powers of ten, with twice and five times each where these alone are few."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for parts in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
            values = [part * 10.0**power for power in powers for part in parts]
            values = [value for value in values if self.low <= value <= self.high]
            if len(values) >= 3:
                return values
        return values

    def _steps(self) -> Iterator[float]:
        step = _round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        return takewhile(lambda v: v <= self.high + 1e-9 * step, (n * step for n in count(first)))


def lines(
    series: Sequence[Series],
    x_title: str,
    y_title: str,
    level: float | None = None,
    *,
    log: bool = False,
) -> str:
    """Lines with points, each with its spread; ``level`` is a dotted line across.

    With ``log``, which needs positive ones, equal factors of ``x`` lie equally far apart.
    """
    marks = [mark for one in series for mark in one.marks]
    ends = [mark.y + side * mark.spread for mark in marks for side in (-1, 1)]
    x = _axis([x for mark in marks for x in (mark.x, *(mark.across or ()))], *_ACROSS, log=log)
    y = _axis([*ends, *([] if level is None else [level])], HEIGHT - BOTTOM, TOP)
    return Markup(
        filled(
            "chart.html.jinja",
            series=series,
            x=x,
            y=y,
            x_title=x_title,
            y_title=y_title,
            level=level,
            size=(WIDTH, HEIGHT),
            box=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
            table=_csv(series, x_title, y_title),
        )
    )


_ACROSS = LEFT, WIDTH - RIGHT


def bars(rows: Sequence[Bar], title: str) -> str:
    """A bar for each row, all from 0."""
    x = Axis(0.0, max(max(row.value, row.high) for row in rows), 0.0, WIDTH)
    table = _text(
        [[title, "value", "low", "high"], *([r.name, r.value, r.low, r.high] for r in rows)]
    )
    size = WIDTH, BAR * len(rows)
    return Markup(
        filled("bars.html.jinja", rows=rows, title=title, x=x, size=size, step=BAR, table=table)
    )


def _csv(series: Sequence[Series], x_title: str, y_title: str) -> str:
    """Every value of a chart, for programs."""
    lines: list[list[Any]] = [["series", x_title, y_title, "spread"]]
    lines += [[one.name, mark.x, mark.y, mark.spread] for one in series for mark in one.marks]
    return _text(lines)


def _text(lines: Sequence[Sequence[Any]]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(lines)
    return written.getvalue()


def _axis(values: Sequence[float], start: float, end: float, *, log: bool = False) -> Axis:
    """From the least to the greatest, with some room at both ends."""
    low, high = min(values), max(values)
    if log:
        room = (high / low) ** 0.06 if high > low else 1.5
        return Axis(low / room, high * room, start, end, log=True)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return Axis(low - room, high + room, start, end)


def _round_step(least: float) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= least * (1 - 1e-9))
