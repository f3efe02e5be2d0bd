"""Why a budget was not met, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from slimnet.measuring.cost import Cost
from slimnet.measuring.widths import Survivors
from slimnet.planning.budget import Budget, Limits, alignment
from slimnet.planning.ladder import Ladder

WITHIN = 0.01
"""A budget counts as met within this part of it."""

UNITS = {"macs": "MACs", "params": "parameters", "bytes": "bytes"}


def shortfall(
    found: Survivors,
    ladders: Mapping[int, Ladder],
    fixed: Mapping[int, float | None],
    limits: Limits,
    budget: Budget,
    cost: Callable[[Survivors], Cost],
) -> list[str]:
    """Nothing where the budget is met within 1 % from below; else the nearest feasible and why."""
    dense = cost({number: x.group.size for number, x in ladders.items()})
    total = max(getattr(dense, budget.kind), 1)

    def share(survivors: Survivors) -> float:
        return float(getattr(cost(survivors), budget.kind) / total)

    asked, achieved = budget.remains(dense), share(found)
    if budget.kind == "bytes" and budget.value >= dense.bytes:
        return [f"the network has {dense.bytes:,} bytes as it is: nothing has to go"]
    over = achieved > asked * (1 + 1e-9)  # more than float rounding
    if not over and asked - achieved <= WITHIN * asked:
        return []
    unit = f"of the {UNITS[budget.kind]}"
    if over:
        nothing = share(dict.fromkeys(ladders, 0))
        why = ", ".join(_floors(nothing, unit, ladders, fixed, limits))
        return [f"{achieved:.1%} {unit} is the least that can remain: {why}"]
    ups = [(number, x.up(found[number])) for number, x in ladders.items() if fixed[number] is None]
    above = [(share({**found, n: rung}), n, rung) for n, rung in ups if rung is not None]
    text = f"{achieved:.1%} {unit} is the nearest that is within the budget"
    if not above:
        return [f"{text}: the ratios that names prescribe leave no more"]
    more, number, rung = min(above)
    group = ladders[number].group
    step = (rung - found[number]) * group.width // group.size
    return [f"{text}: the next step up, {step} channels of {group.layers[0]}, leaves {more:.1%}"]


def _floors(
    nothing: float,
    unit: str,
    ladders: Mapping[int, Ladder],
    fixed: Mapping[int, float | None],
    limits: Limits,
) -> Iterator[str]:
    """What keeps a network from being smaller still."""
    if nothing >= 0.0005:
        yield f"{nothing:.1%} {unit} is in what cannot be cut"
    named = sum(ratio is not None for ratio in fixed.values())
    if named:
        yield f"names prescribe the width of {named} of {len(fixed)} groups"
    if limits.min_channels is not None:
        yield f"every group keeps at least {limits.min_channels} channels"
    multiples = {alignment(x.group.width, limits.align) for x in ladders.values()} - {1}
    if multiples:
        yield f"every group keeps one step of {' or '.join(map(str, sorted(multiples)))} channels"
    elif limits.min_channels is None:
        yield "every group keeps at least one channel"
