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

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from slimnet.output import write_text
from slimnet.report import columns, plots, words
from slimnet.report.templates import filled
from slimnet.study import Record, Results
from slimnet.train import describe


@dataclass(frozen=True)
class Slim:
    """A pruned network: its cost, its proof, its groups, its speed.

    ``certificate`` is ``Certificate.to_json()``; ``groups`` are ``{layers, before, after}``;
    ``latency`` is ``study.latency_facts(…)``; ``remarks`` are sentences, e.g. what was asked for,
    what was achieved, and why they differ.
    """

    name: str
    macs: int
    params: int
    channels_removed: float | None = None
    certificate: Mapping[str, Any] | None = None
    groups: Sequence[Mapping[str, Any]] = ()
    latency: Mapping[str, Any] | None = None
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Network:
    """A dense network, the slim ones made from it, and how they compare."""

    name: str
    macs: int
    params: int
    slim: Sequence[Slim] = ()
    latency: Mapping[str, Any] | None = None
    results: Results | None = None


@dataclass(frozen=True)
class Report:
    """A page: what was done, how it was measured, the networks, and what this cannot say."""

    title: str
    command: str
    networks: Sequence[Network]
    versions: Mapping[str, str] = field(default_factory=dict)
    measured: Sequence[str] = ()  # sentences: how latency and accuracy were measured
    limits: Sequence[str] = ()  # beside those that follow from each study


def slim_networks(results: Results) -> tuple[Slim, ...]:
    """What a study's records know of each slim network; ``achieved`` may hold groups, remarks."""
    found: dict[tuple[str, float], Slim] = {}
    for record in results.records:
        if record.cell.criterion is not None:
            key = (record.cell.criterion, record.cell.ratio)
            found.setdefault(key, _slim(record))
    return tuple(found.values())


def write_html(path: Path | str, report: Report) -> Path:
    """Write the page; raises ``InputError`` where the folder cannot be written."""
    written = Path(path)
    with suppress(OSError):  # what cannot be made cannot be written to
        written.parent.mkdir(parents=True, exist_ok=True)
    write_text(written, render(report))
    return written


def render(report: Report) -> str:
    """The page as text, about 5 MB: the plotting library is inside."""
    return filled(
        "template.html",
        report=report,
        words=words,
        describe=describe,
        columns=columns,
        accuracy_plot=lambda results: Markup(plots.accuracy_plot(results)),
        latency_plot=lambda network: Markup(plots.latency_plot(_latencies(network))),
        plotly=Markup(get_plotlyjs()),
    )


def _slim(record: Record) -> Slim:
    achieved = record.achieved or {}
    return Slim(
        name=f"{record.cell.criterion}, ratio {record.cell.ratio:g}",
        macs=record.macs,
        params=record.params,
        channels_removed=record.channels_removed,
        certificate=record.certificate,
        groups=achieved.get("groups", ()),
        latency=record.latency,
        remarks=achieved.get("remarks", ()),
    )


def _latencies(network: Network) -> list[tuple[str, Mapping[str, Any]]]:
    """The measured networks, the dense one first."""
    named = [("dense", network.latency), *((slim.name, slim.latency) for slim in network.slim)]
    return [(name, latency) for name, latency in named if latency is not None]
