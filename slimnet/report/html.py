"""One HTML page that needs nothing else: no network, no file beside it.

``Report`` says what the page holds, in plain values, so that a demo and a comparison both fill it;
``template.html`` says how it looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimnet.output import write_text
from slimnet.report import columns, plots, words
from slimnet.report.chart import COLOURS
from slimnet.report.conclusions import HEADINGS, SHOWN, conclusions, numbers
from slimnet.report.layers import LayerTimes, layer_times
from slimnet.report.templates import filled
from slimnet.study import Facts, LatencyFacts, Results
from slimnet.study.cells import Cut


@dataclass(frozen=True)
class Slim:
    """A pruned network: its cost, its proof, its groups, its speed."""

    name: str
    facts: Facts


@dataclass(frozen=True)
class NetworkReport:
    """A dense network, the slim ones made from it, and how they compare."""

    name: str
    facts: Facts
    slim: Sequence[Slim] = ()
    results: Results | None = None
    folder: Path | None = None  # where the study lies, with the networks that it keeps


@dataclass(frozen=True)
class Report:
    """A page: what was done, how it was measured, the networks, and what this cannot say."""

    title: str
    command: str
    networks: Sequence[NetworkReport]
    versions: Mapping[str, str] = field(default_factory=dict)
    measured: Sequence[str] = ()  # sentences: how latency and metrics were measured
    limits: Sequence[str] = ()  # beside those that follow from each study


def slim_networks(results: Results) -> tuple[Slim, ...]:
    """What a study's results say of each slim network."""
    slim: dict[Cut, Slim] = {}
    for result in results.records:
        if (cut := result.cell.cut) is not None:
            slim.setdefault(cut, Slim(str(cut), result.facts))
    return tuple(slim.values())


def write_html(path: Path | str, report: Report) -> Path:
    """Write the page; raises ``InputError`` where the folder cannot be written."""
    written = Path(path)
    with suppress(OSError):  # what cannot be made cannot be written to
        written.parent.mkdir(parents=True, exist_ok=True)
    write_text(written, render(report))
    return written


def render(report: Report) -> str:
    """The page as text."""
    return filled(
        "template.html",
        report=report,
        words=words,
        columns=columns,
        colours=COLOURS,
        conclusions=conclusions,
        most=SHOWN,
        headings=HEADINGS,
        numbers=numbers,
        pictures=_pictures,
        curves=_curves,
        curves_note=plots.curves_note,
        series_note=plots.series_note,
        groups_of=_groups,
        widths_of=_widths,
        widths_plot=lambda network: plots.widths_plot(_groups(network)),
        latency_plot=lambda network: plots.latency_plot(_latencies(network)),
        layer_times=_layer_times,
    )


def _pictures(results: Results) -> list[str]:
    """The metric that counts against each cost."""
    return [drawn for view in plots.VIEWS if (drawn := plots.metric_plot(results, view))]


def _curves(results: Results) -> list[str]:
    return [drawn for of in ("curve", "losses") if (drawn := plots.curves_plot(results, of))]


def _groups(network: NetworkReport) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    """The cut networks and their groups of layers; more than the first are not told apart."""
    cuts = [(slim.name, slim.facts.groups) for slim in network.slim if slim.facts.groups]
    return cuts[: plots.MOST_LINES]


def _widths(network: NetworkReport) -> list[dict[str, Any]]:
    """Each group of layers: how many channels it had, and has in each cut network."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    cuts = _groups(network)
    for number, (_, groups) in enumerate(cuts):
        for group in groups:
            layers = tuple(group["layers"])
            row = {"layers": layers, "before": group["before"], "after": [None] * len(cuts)}
            found.setdefault(layers, row)["after"][number] = group["after"]
    return list(found.values())


def _latencies(network: NetworkReport) -> list[tuple[str, LatencyFacts]]:
    """The measured networks, the dense one first."""
    named = [("dense", network.facts), *((slim.name, slim.facts) for slim in network.slim)]
    return [(name, facts.latency) for name, facts in named if facts.latency is not None]


def _layer_times(network: NetworkReport) -> LayerTimes | None:
    """Where the milliseconds go, of the dense network and the first slim ones; None: unknown."""
    facts = {"dense": network.facts, **{slim.name: slim.facts for slim in network.slim[:_COLUMNS]}}
    known = {
        name: one.latency.layers
        for name, one in facts.items()
        if one.latency is not None and one.latency.layers
    }
    return layer_times(known) if "dense" in known else None


_COLUMNS = 8
