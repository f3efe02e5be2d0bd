"""What the command line shows: tables on a terminal, plain lines elsewhere, progress in both."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from slimnet.plan import Plan
from slimnet.prune import Inspection
from slimnet.report import words
from slimnet.workflow import Watch

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def layers_table(inspection: Inspection) -> Table:
    """One row per layer: what can be cut, and if nothing, why."""
    table = _table("layer", "channels", "prunable", "group", "why not")
    for layer in inspection.layers:
        table.add_row(
            f"{layer.name} [dim]{layer.kind}[/dim]",
            str(layer.channels),
            str(layer.prunable) if layer.prunable else "[yellow]0[/yellow]",
            " ".join(map(str, layer.groups)),
            "; ".join(layer.reasons[:2]),
        )
    return table


def groups_table(inspection: Inspection) -> Table:
    """One row per group: which layers lose channels together."""
    table = _table("group", "channels", "layers that lose them together", "note")
    for group in inspection.groups:
        names = ", ".join(group.layers[:4]) + (" …" if len(group.layers) > 4 else "")
        note = f"approximate: {group.approximate[0].text}" if group.approximate else ""
        if group.channels_per_atom > 1:
            note = f"{group.channels_per_atom} leave at a time {note}".strip()
        table.add_row(str(group.number), str(group.width), names, note)
    return table


def cut_table(plan: Plan) -> Table:
    """One row per group of layers: channels before and after."""
    table = _table("layers", "channels", "after", "removed")
    for cut in plan.groups:
        names = ", ".join(cut.layers[:3]) + (" …" if len(cut.layers) > 3 else "")
        table.add_row(names, str(cut.before), str(cut.after), f"{1 - cut.after / cut.before:.0%}")
    return table


def cost_table(before: Mapping[str, int], after: Mapping[str, int]) -> Table:
    """Dense against slim: MACs, parameters, bytes."""
    table = _table("", "dense", "slim", "remains")
    for name, label in (("macs", "MACs"), ("params", "parameters"), ("bytes", "bytes")):
        table.add_row(
            label,
            words.amount(before[name]),
            words.amount(after[name]),
            f"{after[name] / max(before[name], 1):.1%}",
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, column in enumerate(columns):
        number = column in ("channels", "prunable", "after", "removed", "dense", "slim", "remains")
        table.add_column(column, justify="right" if number else "left", overflow="fold")
        if place == 0:
            table.columns[0].no_wrap = False
    return table


def asked_and_achieved(plan: Plan) -> Iterator[str]:
    """Sentences: what was asked for, what came out, and why they differ."""
    asked, before, after = plan.asked or {}, plan.before or {}, plan.after or {}
    channels = sum(cut.before for cut in plan.groups)
    left = sum(cut.after for cut in plan.groups)
    removed = 1 - left / channels if channels else 0.0
    if "ratio" in asked:
        yield f"asked for: {asked['ratio']:.0%} of the channels removed; achieved: {removed:.1%}"
        gap = abs(removed - asked["ratio"])
    else:
        name = "macs" if "macs" in asked else "params"
        remains = after[name] / max(before[name], 1)
        yield f"asked for: {asked[name]:.0%} of the {name} left; achieved: {remains:.1%}"
        gap = abs(remains - asked[name])
    if gap > 0.005:
        yield "they differ because " + _causes(plan)
    if asked.get("align") == "auto":
        yield (
            "widths are multiples of 16 (of 8 in groups of 16 to 31 channels), which runtimes "
            "like: unaligned slim networks can run slower than dense; --align off turns it off"
        )
    yield from plan.notes


def _causes(plan: Plan) -> str:
    asked = plan.asked or {}
    causes = []
    if asked.get("align") is not None:
        causes.append(f"widths are aligned ({asked['align']})")
    if asked.get("keep") or asked.get("layer_ratio"):
        causes.append("some layers have a ratio of their own")
    causes.append("whole channels leave, some of them several at a time")
    return ", ".join(causes)


@contextmanager
def watching(*, quiet: bool = False) -> Iterator[Watch]:
    """Progress: a bar on a terminal, a plain line every few seconds elsewhere, on stderr."""
    if quiet:
        yield lambda text, part: None
    elif err.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24))
        with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as progress:
            task = progress.add_task("", total=1.0)
            yield lambda text, part: progress.update(task, description=text, completed=part)
    else:
        yield _Lines().say


class _Lines:
    """Plain progress for logs: a new line for new work, at most one every few seconds."""

    def __init__(self, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self.last = 0.0

    def say(self, text: str, part: float) -> None:
        """Print unless something was printed a moment ago."""
        now = time.monotonic()
        if now - self.last >= self.seconds:
            self.last = now
            err.print(f"{text} {part:.0%}")


def note(lines: Sequence[str]) -> None:
    """Remarks, one a line."""
    for line in lines:
        out.print(f"[dim]{line}[/dim]" if out.is_terminal else line)
