"""The page of the whole way: a verdict, each step with its file and its command, what was cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimnet.costs.quantity import quantities, share_left
from slimnet.output import write_text
from slimnet.report.chart import COLOURS, Mark, Series, lines
from slimnet.report.layers import layer_times
from slimnet.report.templates import filled
from slimnet.task import Metric


@dataclass(frozen=True)
class Page:
    """What stays the same while the steps are done."""

    title: str
    command: str
    metrics: Sequence[Metric]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class StepRow:
    """One step that ended; files are relative to the page."""

    name: str
    what: str
    sentence: str
    seconds: float
    files: Sequence[str]
    command: str
    metrics: Mapping[str, float]
    record: Mapping[str, Any]


def write_way(path: Path, page: Page, steps: Sequence[StepRow], stopped: str = "") -> None:
    """Write the page; ``stopped`` says why it is not the whole way."""
    by_name = {step.name: step for step in steps}
    plan = by_name["prune"].record["plan"] if "prune" in by_name else None
    latency = by_name["latency"].record if "latency" in by_name else None
    text = filled(
        "way.html.jinja",
        page=page,
        steps=steps,
        measured=[step for step in steps if step.metrics],
        stopped=stopped,
        verdict=_verdict(page, by_name),
        plan=plan,
        costs=[] if plan is None else list(_costs(plan)),
        proof="" if plan is None else by_name["prune"].record["proof"],
        sentences=[] if plan is None else by_name["prune"].record["sentences"],
        curve="" if "retrain" not in by_name else _loss_curve(by_name["retrain"].record),
        layers=None if latency is None else layer_times(latency.get("layers", {})),
        latency=latency,
        colours=COLOURS,
    )
    write_text(path, text)


def _loss_curve(record: Mapping[str, Any]) -> str:
    """The mean loss of each epoch as a chart; nothing of fewer than two."""
    losses = record.get("history", {}).get("losses", ())
    marks = [Mark(n, loss, f"epoch {n}: {loss:.4g}") for n, loss in enumerate(losses, 1)]
    return lines([Series("loss", tuple(marks), 0)], "epoch", "mean loss") if len(marks) > 1 else ""


def _verdict(page: Page, steps: Mapping[str, StepRow]) -> str:
    """What it came to, in one sentence."""
    if "latency" not in steps:
        return ""
    metric = page.metrics[0]
    made = "retrain" if steps["export"].record["of"] == "tuned.pt" else "repair"
    before, after = (steps[name].metrics[metric.name] for name in ("inspect", made))
    plan = steps["prune"].record["plan"]
    return (
        f"{share_left(plan['before'], plan['after'], 'macs')} of the MACs and "
        f"{share_left(plan['before'], plan['after'], 'params')} of the parameters are left; "
        f"{metric.name} {after:.4g}{metric.unit}, dense {before:.4g}{metric.unit}. "
        f"{steps['latency'].sentence}."
    )


def _costs(plan: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    before, after = plan["before"], plan["after"]
    for name, quantity in quantities(before).items():
        written = (quantity.written(costs[name]) for costs in (before, after))
        yield (quantity.label, *written, share_left(before, after, name))
