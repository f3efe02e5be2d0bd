"""What a cut came to: what was asked for, what was achieved, and why the two differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from slimnet.costs.quantity import COSTS, share_left
from slimnet.plan.outcome import GroupCut
from slimnet.plan.plan import Plan
from slimnet.planning.budget import alignment
from slimnet.planning.shortfall import FINER

MANY = 60
"""Of more groups than this, those with the same numbers and reasons are told together."""


def rows(groups: Sequence[GroupCut]) -> list[list[GroupCut]]:
    """Each group by itself; of very many those that lost the same for the same reason together."""
    if len(groups) <= MANY:
        return [[cut] for cut in groups]
    alike: dict[tuple[object, ...], list[GroupCut]] = {}
    for cut in groups:
        alike.setdefault((cut.before, cut.after, cut.asked, cut.why), []).append(cut)
    return list(alike.values())


def asked_and_achieved(plan: Plan) -> Iterator[str]:
    """Sentences: what was asked for, what came out, and why they differ."""
    asked = plan.asked or {}
    by_name = plan.blocks or asked.get("widths")
    if by_name and asked.get("ratio") == 0:  # nothing but what was named
        yield from plan.notes
        return
    wanted, achieved = _budget(plan)
    yield f"asked for: {wanted}; achieved: {achieved}"
    if abs(_removed(plan) - asked.get("ratio", _removed(plan))) > 0.005:
        yield "they differ because " + _causes(plan)
    if asked.get("align") == "auto" and not any(note.startswith(FINER) for note in plan.notes):
        yield (
            "widths are multiples of 16 (of less in groups of fewer than 128 channels"
            f"{_unaligned(plan)}), which runtimes like: unaligned slim networks can run slower "
            "than dense; --align off turns it off"
        )
    yield from plan.notes


def _unaligned(plan: Plan) -> str:
    """How many groups have another width: of one whose channels leave in unequal numbers, say."""
    cut = (group for group in plan.groups if group.after < group.before)
    number = sum(1 for group in cut if group.after % alignment(group.before, "auto"))
    return f"; not in {number} group{'s' * (number > 1)}" if number else ""


def refusal(plan: Plan, why: str) -> str:
    """The sentence where what was asked for cannot be had: what can, why, and what to do."""
    wanted, achieved = _budget(plan)
    return (
        f"what was asked for ({wanted}) cannot be met, the nearest is {achieved}: {why}; ask for "
        "that, loosen what holds it (slimnet inspect says what holds each layer), or take it with "
        "--best-effort (best_effort=True)"
    )


def _budget(plan: Plan) -> tuple[str, str]:
    """What was asked for, and what came out."""
    asked, before, after = plan.asked or {}, plan.before or {}, plan.after or {}
    if "ratio" in asked:
        return f"{_percent(asked['ratio'])} of the channels removed", f"{_removed(plan):.1%}"
    name = next(name for name in asked if name in COSTS)
    quantity, value = COSTS[name], asked[name]
    if quantity.budget == "amount":
        return f"at most {quantity.written(value)} {quantity.label}", quantity.written(after[name])
    return f"{_percent(value)} of the {quantity.label} left", share_left(before, after, name)


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"


def _removed(plan: Plan) -> float:
    before = sum(cut.before for cut in plan.groups)
    return 1 - sum(cut.after for cut in plan.groups) / before if before else 0.0


def _causes(plan: Plan) -> str:
    """The reasons of the groups, the most frequent first."""
    reasons = Counter(cut.why for cut in plan.groups if cut.why).most_common()
    if not reasons:
        return "whole channels leave, some of them several at a time"
    groups = [f"{n} group{'s' * (n != 1)}: {why}" for why, n in reasons]
    return "not every group could lose what was asked of it (" + "; ".join(groups) + ")"
