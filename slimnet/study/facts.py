"""From a cut and a measurement to what a study and its report keep of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimnet.errors import InputError
from slimnet.export.latency import Latency
from slimnet.planning.plan import Plan
from slimnet.prune import Pruned
from slimnet.study.run import Candidate
from slimnet.train import Repairer


def slim_candidate(
    pruned: Pruned, latency: Mapping[str, Any] | None = None, repair: Repairer | None = None
) -> Candidate:
    """The slim network of ``slimnet.prune`` as a study's candidate.

    The example that it was cut with must be one image: MACs are counted on it. ``repair``: for
    regimes that start from repaired weights.
    """
    before, after = _costs(pruned.plan)
    return Candidate(
        model=pruned.model,
        macs=after["macs"],
        params=after["params"],
        channels_removed=channels_removed(pruned.plan),
        latency=latency,
        certificate=None if pruned.certificate is None else pruned.certificate.to_json(),
        achieved={
            "asked": dict(pruned.plan.asked or {}),
            "before": dict(before),
            "after": dict(after),
            "groups": [
                {"layers": list(cut.layers), "before": cut.before, "after": cut.after}
                for cut in pruned.plan.groups
            ],
            "remarks": list(pruned.plan.notes),
        },
        repair=repair,
    )


def channels_removed(plan: Plan) -> float:
    """The part of the prunable channels that left, each group's counted once, 0..1."""
    before = sum(cut.before for cut in plan.groups)
    return 1 - sum(cut.after for cut in plan.groups) / before if before else 0.0


def latency_facts(latency: Latency, name: str) -> dict[str, Any]:
    """One candidate's milliseconds, and its speed-up over the first with the spread of both."""
    timing = latency.timing(name)
    milliseconds = {
        "median_ms": timing.median_ms,
        "low_ms": timing.low_ms,
        "high_ms": timing.high_ms,
    }
    if name == latency.timings[0].name:
        return {**milliseconds, "speedup": 1.0}
    speedup = next(found for found in latency.speedups if found.name == name)
    return {
        **milliseconds,
        "speedup": speedup.median,
        "speedup_low": speedup.low,
        "speedup_high": speedup.high,
    }


def _costs(plan: Plan) -> tuple[Mapping[str, int], Mapping[str, int]]:
    if plan.before is None or plan.after is None:
        raise InputError("this plan does not say what the network costs: prune again")
    return plan.before, plan.after
