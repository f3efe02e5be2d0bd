"""Why a budget was not met, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from slimnet.blocks.blocks import few
from slimnet.costs.quantity import COSTS
from slimnet.costs.widths import Widths
from slimnet.coupling.groups import Group
from slimnet.planning.budget import Budget, Limits
from slimnet.planning.ladder import Ladder
from slimnet.planning.search import WITHIN
from slimnet.text import count


def shortfall(
    widths: Widths,
    ladders: Mapping[int, Ladder],
    fixed: Mapping[int, float | None],
    limits: Limits,
    budget: Budget,
    cost: Callable[[Widths], float],
    grows: bool = True,
) -> list[str]:
    """Nothing where the budget is met within 1 % from below; else the nearest feasible and why.

    ``cost`` is that of the budget, and ``grows`` says that it never falls where a group grows.
    """
    dense = cost({number: x.group.size for number, x in ladders.items()})
    quantity = COSTS[budget.kind]

    def share(widths: Widths) -> float:
        return cost(widths) / (dense or 1)

    asked, achieved = budget.remains(dense), share(widths)
    if not budget.is_share and budget.value >= dense:
        has = f"the network has {quantity.written(dense)} {quantity.label}"
        return [f"{has} as it is: nothing has to go"]
    over = exceeds(achieved, asked)
    if not over and asked - achieved <= WITHIN * asked:
        return []
    unit = f"of the {quantity.label}"
    if over and not grows:
        return [f"{achieved:.1%} {unit} is the least that was found"]
    if over:
        nothing = share(dict.fromkeys(ladders, 0))
        why = ", ".join(_floors(nothing, unit, ladders, fixed, limits))
        return [f"{achieved:.1%} {unit} is the least that can remain: {why}"]
    ups = [(number, x.up(widths[number])) for number, x in ladders.items() if fixed[number] is None]
    above = [(share({**widths, n: rung}), n, rung) for n, rung in ups if rung is not None]
    sure = "is" if grows else "was found"
    text = f"{achieved:.1%} {unit} is the nearest that {sure} within the budget"
    if not above:
        return [f"{text}: the ratios that names prescribe leave no more"]
    more, number, rung = min(above)
    group = ladders[number].group
    step = count((rung - widths[number]) * group.width // group.size, "channel")
    return [f"{text}: the next step up, {step} of {group.layers[0]}, leaves {more:.1%}"]


def exceeds(spent: float, amount: float) -> bool:
    """Whether something is over a budget by more than what floating point rounds."""
    return spent > amount * (1 + 1e-9)


def finer_note(limits: Limits, groups: Iterable[Group]) -> list[str]:
    """That widths are rounded to less than was asked for, so that the budget is met."""
    if limits.finer == 1:
        return []
    usual, used = (
        max(x.multiple(group.width) for group in groups) for x in (replace(limits, finer=1), limits)
    )
    return [f"{FINER} {usual}: widths are multiples of {used}, or of less in narrower groups"]


FINER = "the budget is too small for widths that are multiples of"


def channels_short(
    ratio: float,
    goal: float,
    widths: Widths,
    ladders: Mapping[int, Ladder],
    why: Mapping[int, str],
) -> str:
    """Why a ratio is missed: nothing leaves, or more stays than a step of each group; else empty.

    ``goal`` are the channels that the scope would leave.
    """
    stay = sum(x.group.channels_of(widths[n]) for n, x in ladders.items())
    whole = sum(x.group.width for x in ladders.values())
    slack = sum(x.group.channels_of(x.step) for x in ladders.values())
    if ratio == 0 or not whole or (stay - goal <= slack and stay < whole):
        return ""
    most = 1 - stay / whole
    return f"only {most:.1%} of the channels would leave: {_held(widths, ladders, why)}"


def _held(widths: Widths, ladders: Mapping[int, Ladder], why: Mapping[int, str]) -> str:
    """The reasons of the groups, each with the layers that it holds."""
    layers: dict[str, list[str]] = {}
    for number, x in ladders.items():
        least = f"at least {x.group.channels_of(x.least)} channels"
        reason = why.get(number) or (least if widths[number] == x.least else "")
        if reason:
            layers.setdefault(reason, []).append(x.group.layers[0])
    parts = [f"{few(names)} ({reason})" for reason, names in layers.items()]
    return ", ".join(parts) or "its groups are too narrow for less"


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
    multiples = {limits.multiple(x.group.width) for x in ladders.values()} - {1}
    if multiples:
        yield f"every group keeps one step of {' or '.join(map(str, sorted(multiples)))} channels"
    elif limits.min_channels is None:
        yield "every group keeps at least one channel"
