"""What the command line shows of results: networks, cuts, proofs, files, trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from slimnet.blocks.blocks import blocks_line, few
from slimnet.cli.console import note, say, show, shown, written
from slimnet.costs.cost import Cost
from slimnet.costs.quantity import quantities, share_left
from slimnet.coupling.groups import Group, LayerReport
from slimnet.inspection import Inspection, outputs_line
from slimnet.plan.outcome import GroupCut
from slimnet.plan.plan import Plan
from slimnet.planning.outcome import asked_and_achieved, rows
from slimnet.proof.certificate import Certificate
from slimnet.text import count

if TYPE_CHECKING:  # the comparison imports runtimes and data sets
    from slimnet.demo import DemoResult
    from slimnet.repairs import Repair
    from slimnet.retraining import Retrained
    from slimnet.rewinding import TrainedDense
    from slimnet.sparsity.training import Sparse
    from slimnet.task import Metric


def show_inspection(inspection: Inspection) -> None:
    """Every layer, why some stay, and which lose channels together."""
    show(_layers(inspection.layers))
    for layers, reasons in _alike(inspection.layers):
        _show_why(layers, reasons)
    if inspection.groups:
        show(_groups(inspection.groups))
    for group in inspection.groups:
        if group.approximate:
            say(f"group {group.number}: a cut is approximate")
            _show_reasons([str(reason) for reason in group.approximate])
            say()
    prunable = sum(layer.prunable > 0 for layer in inspection.layers)
    say(
        f"{prunable} of {count(len(inspection.layers), 'layer')} can be pruned, "
        f"in {count(len(inspection.groups), 'group')}; {', '.join(_amounts(inspection.cost))}"
    )
    for line in (*blocks_line(inspection.blocks), *outputs_line(inspection.outputs)):
        say(line)


def _amounts(cost: Cost) -> Iterator[str]:
    """What fits into one line."""
    for name, quantity in quantities(cost.amounts).items():
        if quantity.brief:
            yield f"{quantity.written(cost.amounts[name])} {quantity.label}"


def _layers(layers: Sequence[LayerReport]) -> Table:
    table = _table("layer", "kind", "channels", "prunable", "group")
    for layer in layers:
        table.add_row(
            shown(layer.name),
            shown(layer.kind),
            str(layer.channels),
            str(layer.prunable) if layer.prunable else "[yellow]0[/yellow]",
            " ".join(map(str, layer.groups)) or "–",
        )
    return table


def _alike(layers: Sequence[LayerReport]) -> Iterator[tuple[list[LayerReport], tuple[str, ...]]]:
    """Layers that keep channels, those with the same reasons (and the same share) together."""
    together: dict[tuple[bool, tuple[str, ...]], list[LayerReport]] = {}
    for layer in layers:
        if layer.reasons:
            together.setdefault((layer.prunable > 0, layer.reasons), []).append(layer)
    for (_, reasons), alike in together.items():
        yield alike, reasons


def _show_why(layers: Sequence[LayerReport], reasons: Sequence[str]) -> None:
    if layers[0].prunable:
        kept = ", ".join(f"{x.name} ({x.channels - x.prunable} of {x.channels})" for x in layers)
        say(f"some channels cannot be pruned: {kept}")
    else:
        names = ", ".join(f"{x.name} ({x.channels} channels)" for x in layers)
        say(f"{names} cannot be pruned")
    _show_reasons(reasons)
    say()


def _show_reasons(reasons: Sequence[str]) -> None:
    for reason in reasons[:3]:
        say(f"  because: {reason}")
    if len(reasons) > 3:
        say(f"  and {count(len(reasons) - 3, 'more reason')}: --json lists all")
    if any("no rule" in reason for reason in reasons):
        say(
            '  to do:   register one with @slimnet.rule (README, "Add an operator"), or leave the '
            "layer as it is"
        )


def _groups(groups: Sequence[Group]) -> Table:
    table = _table("group", "channels", "leave", "layers that lose them together")
    for group in groups:
        names = ", ".join(group.layers[:4])
        more = f" and {len(group.layers) - 4} more" if len(group.layers) > 4 else ""
        step = f"{group.at_a_time} at a time" if group.at_a_time != "1" else "singly"
        table.add_row(str(group.number), str(group.width), step, shown(names + more))
    return table


def show_cut(plan: Plan) -> None:
    """Channels before and after, cost, and why both are what they are."""
    alike = rows(plan.groups)
    show(_cut(alike[:_ROWS]))
    if len(alike) > _ROWS:
        say(f"and {count(len(alike) - _ROWS, 'more row')} of groups: --json lists all")
        say()
    show(_cost(plan.before or {}, plan.after or {}))
    if plan.blocks:
        names = few([block.name for block in plan.blocks])
        say(f"{count(len(plan.blocks), 'block')} replaced by the shortcut: {names}")
    for line in asked_and_achieved(plan):
        say(line)
    if plan.scaled:
        say(
            f"{count(len(plan.scaled), 'weight')} multiplied to make up for a number that code "
            "computes from a width, such as the 1/√d of attention"
        )
    if plan.untouched:
        say(f"{count(len(plan.untouched), 'layer')} left alone: slimnet inspect says why")


_ROWS = 60  # of the table of groups


def _cut(alike: Sequence[Sequence[GroupCut]]) -> Table:
    """Every group before and after; what was asked of it, where it lost another share, and why."""
    differ = any(same[0].why for same in alike)
    table = _table("channels", "after", "removed", *(("asked", "why") if differ else ()), "layers")
    for same in alike:
        cut = same[0]
        more = f" ({len(same)} groups alike)" if len(same) > 1 else ""
        asked = f"{cut.asked:.0%}" if cut.why and cut.asked is not None else ""
        table.add_row(
            str(cut.before),
            str(cut.after),
            f"{1 - cut.after / cut.before:.0%}",
            *((asked, shown(cut.why)) if differ else ()),
            shown(_few(cut.layers) + more),
        )
    return table


def _cost(before: Mapping[str, float], after: Mapping[str, float]) -> Table:
    table = _table("", "before", "after", "remains")
    for name, quantity in quantities(before).items():
        amounts = (quantity.written(costs[name]) for costs in (before, after))
        table.add_row(quantity.label, *amounts, share_left(before, after, name))
    return table


def show_proof(certificate: Certificate | None, *, trained: bool = False) -> None:
    """What was proven, and where the cut changes a statistic."""
    if certificate is None:
        say("proof: none, it was switched off")
        return
    if trained and certificate.changed:
        say(
            f"its weights were changed after the cut ({count(len(certificate.changed), 'tensor')} "
            "of other numbers), so they no longer equal the dense network's: only the structure is "
            "proven, with random weights in both"
        )
    elif trained:
        say("it says that its weights were trained after the cut, and all of them are the cut's")
    say(f"proof: {certificate}")
    for row in certificate.approximate:
        say(f"  approximate in {_few(row['layers'])}: {_few(row['reasons'], 1, '; ')}")


def show_repair(done: Repair) -> None:
    """How far the outputs were from the original's, and are now."""
    refined = sum(layer.refined for layer in done.layers)
    how = f"{len(done.layers)} layers solved"
    how += f", {refined} of them with those before" if refined else ""
    how += ", then all together" if done.ahead else ""
    how += f", on {done.images} images"
    how += "" if done.solved else ", which measured no better and was not kept"
    how += "; batch norms re-estimated" if done.reestimated else ""
    say(
        f"repaired without labels: on {count(done.held_out, 'image')} that were held back the "
        f"outputs differ from the original's by {done.after:.1%} of their variance, before by "
        f"{done.before:.1%} ({how})"
    )


def _few(texts: Sequence[str], number: int = 3, between: str = ", ") -> str:
    """The first of many; all of them are in the file and in --json."""
    rest = len(texts) - number
    return between.join(texts[:number]) + (f" and {rest} more" if rest > 0 else "")


def show_retrained(trained: Retrained, metrics: Sequence[Metric]) -> None:
    """Each metric before and after, and how it was trained."""
    history = trained.history
    show(_before_and_after(metrics, trained.before, history.metrics))
    say(
        f"{count(history.epochs, 'epoch')} in {history.seconds:.0f} s, the last loss "
        f"{history.losses[-1]:.4g}; {trained.trial or f'trained in {trained.execution}'}"
    )
    for line in _taken_up(trained.resumed):
        say(line)


def _before_and_after(
    metrics: Sequence[Metric], before: Mapping[str, float], after: Mapping[str, float]
) -> Table:
    """Each metric of a training."""
    table = _table("", "before", "after")
    for metric in metrics:
        form = ".2f" if metric.unit == "%" else ".4g"
        values = before[metric.name], after[metric.name]
        table.add_row(metric.name, *(f"{value:{form}}{metric.unit}" for value in values))
    return table


def show_sparse(sparse: Sparse, metrics: Sequence[Metric]) -> None:
    """Metrics, what became zero, and what to do with it."""
    table = _before_and_after(metrics, sparse.metrics, sparse.history.metrics)
    for name, label in _SPARSE.items():
        before, after = getattr(sparse.before, name), getattr(sparse.after, name)
        if after.all:
            table.add_row(label, str(before), str(after))
    show(table)
    for line in _what_next(sparse):
        say(line)


def show_trained(trained: TrainedDense, metrics: Sequence[Metric]) -> None:
    """Metrics before and after."""
    show(_before_and_after(metrics, trained.before, trained.history.metrics))
    for line in _taken_up(trained.resumed):
        say(line)


def _taken_up(epochs: int) -> Iterator[str]:
    if epochs:
        yield f"taken up after {count(epochs, 'epoch')} of an earlier run"


_SPARSE = {
    "scales": "scales of batch norms under 0.001",
    "filters": "filters that are zero",
    "blocks": "residual branches that add nothing",
    "weights": "weights of convolutions and linear layers that are zero",
}


def _what_next(sparse: Sparse) -> Iterator[str]:
    yield from _taken_up(sparse.resumed)
    if sparse.cut:
        yield f"to cut it: slimnet prune with {sparse.cut}"
        return
    weights = sparse.after.weights
    yield (
        f"{weights.all - weights.some:,} of {weights.all:,} weights remain; every tensor keeps its "
        "shape, so MACs and latency are those of the dense network"
    )


def show_demo(result: DemoResult, folder: Path) -> None:
    """Tables, proofs and speeds of the demo's networks."""
    from slimnet.report import table, words

    for network in result.networks:
        if network.results is not None:
            show(table(network.results, network.name))
        for slim in network.slim:
            if slim.facts.certificate is not None:
                show_proof(slim.facts.certificate)
            say(words.speed_sentence(slim.facts.latency))
            say()
    if result.conditions:
        note(f"ms: {result.conditions}")
    written(folder, "holds report.html, results.json, slim.pt, dense.onnx and slim.onnx")


_NUMBERS = ("channels", "prunable", "after", "removed", "asked", "before", "remains")


def show_measured(rows: Sequence[Sequence[str]]) -> None:
    """Rows of what was measured, a name first; the headings are the first row."""
    headings, *others = rows
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(shown(heading), justify="right" if number else "left")
    for row in others:
        table.add_row(*map(shown, row))
    show(table)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        justify = "right" if column in _NUMBERS else "left"
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table
