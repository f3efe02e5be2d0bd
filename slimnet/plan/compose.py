"""One plan for two cuts in a row, relative to the dense network.

Pruning a slim network again gives a plan relative to that slim network; a file must be provable
against the dense one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from slimnet.plan.plan import AttributeChange, Plan, Scale
from slimnet.plan.shortcut import Stub


def compose(first: Plan, second: Plan, shapes: Mapping[str, tuple[int, ...]]) -> Plan:
    """Both cuts as one; ``shapes`` are those of the network that ``first`` cut.

    What the first cut's blocks took with them may be missing from it.
    """
    removals = {name: first.of(name).then(second.of(name), shape) for name, shape in shapes.items()}
    both = Plan(
        removed={name: removal.axes for name, removal in removals.items() if removal.axes},
        grouped={name: removal.groups for name, removal in removals.items() if removal.groups > 1},
        changes=_chained(first.changes, second.changes),
        remapped=_after(first.remapped or {}, second.remapped or {}),
        scaled=_multiplied(first, second, shapes),
        blocks=(*first.blocks, *second.blocks),
        outputs=second.outputs or first.outputs,
        outcome=first.outcome.then(second.outcome),
    )
    return _without(both, second.stubs)


def _without(plan: Plan, stubs: Sequence[Stub]) -> Plan:
    """Blocks leave first: nothing is cut in what left with one."""

    def stays(name: str) -> bool:
        return not any(stub.drops(name) for stub in stubs)

    return replace(
        plan,
        removed={name: axes for name, axes in plan.removed.items() if stays(name)},
        grouped={name: groups for name, groups in plan.grouped.items() if stays(name)},
        changes=tuple(change for change in plan.changes if stays(f"{change.module}.")),
        remapped={name: table for name, table in plan.remapped.items() if stays(name)},
        scaled={name: scales for name, scales in plan.scaled.items() if stays(name)},
    )


def _multiplied(
    first: Plan, second: Plan, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[Scale, ...]]:
    """What both fold in, the second's indices counted in the dense network."""
    merged = dict(first.scaled)
    for name, shape in shapes.items():
        for scale in second.scaled.get(name, ()):
            kept = first.of(name).kept(scale.axis, shape)
            places = tuple(kept[list(scale.indices)].tolist())
            merged[name] = (*merged.get(name, ()), Scale(scale.axis, places, scale.factor))
    return merged


def _chained(
    first: tuple[AttributeChange, ...], second: tuple[AttributeChange, ...]
) -> tuple[AttributeChange, ...]:
    merged = {(c.module, c.attribute, c.path): c for c in first}
    for change in second:
        key = (change.module, change.attribute, change.path)
        old = merged[key].old if key in merged else change.old
        merged[key] = AttributeChange(*key, old, change.new)
    return tuple(merged.values())


def _after(
    first: Mapping[str, tuple[int, ...]], second: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Renumbering by two cuts: old place → place after both."""
    merged = dict(first)
    for name, table in second.items():
        merged[name] = tuple(table[i] for i in first[name]) if name in first else table
    return merged
