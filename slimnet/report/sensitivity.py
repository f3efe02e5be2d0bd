"""Sensitivity as a table in the terminal, and as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from slimnet.output import write_text
from slimnet.report.chart import COLOURS
from slimnet.report.plots import sensitivity_plot
from slimnet.report.templates import filled
from slimnet.study.curves import Curve, Point, Sensitivity
from slimnet.text import decimal, legible


def sensitivity_table(measured: Sensitivity) -> Table:
    """A row per group, a column per share: accuracy with labelled images, else output error."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("channels", justify="right")
    for share in measured.shares:
        table.add_column(f"−{share:.0%}", justify="right")
    for title in time_titles(measured):
        table.add_column(title, justify="right")
    table.add_column("layers", overflow="fold")
    for curve in measured.curves:
        cells = [value_of(_at(curve, share)) for share in measured.shares]
        cells += time_cells(measured, curve)
        table.add_row(str(curve.width), *cells, Text(legible(_named(curve))))
    return table


def time_titles(measured: Sensitivity) -> tuple[str, ...]:
    """Of the columns that say what is saved; none where time was not asked for."""
    return () if measured.ms is None else (f"ms saved at −{measured.shares[-1]:.0%}", "lost per ms")


def time_cells(measured: Sensitivity, curve: Curve) -> tuple[str, ...]:
    """One for each of :func:`time_titles`."""
    if measured.ms is None:
        return ()
    last = _at(curve, measured.shares[-1])
    saved = None if last is None else measured.saved(last)
    price = measured.price(curve)
    return tuple("–" if x is None else _figures(x) for x in (saved, price))


def _figures(number: float) -> str:
    """Three of them, and a true minus."""
    digits = 0 if abs(number) >= 100 else 1 if abs(number) >= 10 else 3
    return decimal(number, digits)


def cheapest_sentence(measured: Sensitivity) -> str:
    """Which groups lose least for what they save, the first three; empty without times."""
    if measured.ms is None:
        return ""
    priced = [(measured.price(curve), curve) for curve in measured.curves]
    known = sorted(
        ((price, curve) for price, curve in priced if price is not None), key=lambda pair: pair[0]
    )
    ms = f"a run takes {measured.ms:.3g} ms as it is"
    if not known:
        return f"{ms}; no group saves any of it by itself"
    listed = "; ".join(f"{_named(curve)} ({_figures(price)})" for price, curve in known[:3])
    unit = "change of the outputs" if measured.accuracy is None else "points of accuracy"
    return f"{ms}; least {unit} lost for each ms saved, at the cheapest width: {listed}"


def measured_sentence(measured: Sensitivity) -> str:
    """What the numbers are, and what they were measured on."""
    on = "on the example" if measured.images is None else f"on {measured.images:,} images"
    cut = f"each group cut alone, the channels that {measured.criterion} ranks lowest"
    if measured.accuracy is None:
        return f"relative change of the outputs {on}; {cut}"
    return f"accuracy in percent {on}, dense {measured.accuracy:.2f}; {cut}"


def value_of(point: Point | None) -> str:
    """Accuracy where it is known, else the error."""
    if point is None:
        return "–"
    return f"{point.error:.3f}" if point.accuracy is None else f"{point.accuracy:.2f}"


def write_sensitivity(
    path: Path, measured: Sensitivity, title: str, versions: Mapping[str, str]
) -> None:
    """Write the page; raises :class:`InputError` where it cannot be written."""
    text = filled(
        "sensitivity.html.jinja",
        title=title,
        measured=measured,
        colours=COLOURS,
        sentence=measured_sentence(measured),
        plot=sensitivity_plot(measured),
        rows=[
            (
                curve,
                [value_of(_at(curve, share)) for share in measured.shares],
                time_cells(measured, curve),
            )
            for curve in measured.curves
        ],
        time_titles=time_titles(measured),
        cheapest=cheapest_sentence(measured),
        versions=versions,
    )
    write_text(path, text)


def _at(curve: Curve, share: float) -> Point | None:
    """The point that was measured for a share: the nearest, as widths are whole numbers."""
    return min(curve.points, key=lambda point: abs(point.removed - share), default=None)


def _named(curve: Curve) -> str:
    rest = len(curve.layers) - 2
    return ", ".join(curve.layers[:2]) + (f" and {rest} more" if rest > 0 else "")
