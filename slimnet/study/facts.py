"""What is known of one network: its cost, its speed, its proof, and how its cut went.

One value for whoever holds such facts: a candidate, a cell's result, a row, a report. In JSON it is
flat, and what was not measured is null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from slimnet.errors import InputError
from slimnet.export.latency import Latency
from slimnet.plan.plan import Plan
from slimnet.proof.certificate import Certificate
from slimnet.pruning import Pruned


@dataclass(frozen=True)
class LatencyFacts:
    """One network's milliseconds, and how much faster than the dense one it is, with the spread.

    Spreads are those from the 10th to the 90th percentile of the rounds; None where unknown.
    """

    median_ms: float
    low_ms: float | None = None
    high_ms: float | None = None
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    conditions: str | None = None  # how it was measured, in words
    verdict: str | None = None  # of a Speedup; None of the dense network, and of older files
    layers: Mapping[str, float] | None = None  # ms by layer, timed node by node

    def to_json(self) -> dict[str, Any]:
        """Every field that is known."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> LatencyFacts:
        """Read what ``to_json`` gave."""
        values: dict[str, Any] = {name: float(fields[name]) for name in _NUMBERS if name in fields}
        values |= {name: str(fields[name]) for name in _WORDS if fields.get(name) is not None}
        if (layers := fields.get("layers")) is not None:
            values["layers"] = {str(name): float(ms) for name, ms in layers.items()}
        return cls(**values)


_NUMBERS = ("median_ms", "low_ms", "high_ms", "speedup", "speedup_low", "speedup_high")
_WORDS = ("conditions", "verdict")


@dataclass(frozen=True)
class Facts:
    """What is known of a network; raises ``InputError`` for costs that no network has.

    ``achieved`` says what was asked of the cut and what came of it, and may hold ``groups``
    (``{layers, before, after}``) and ``remarks`` for the report; it is JSON-able (``TypeError``
    otherwise, before hours of training are lost to it).
    """

    macs: int  # of one image
    params: int
    channels_removed: float | None = None  # of all channels that could have been, 0..1
    latency: LatencyFacts | None = None
    certificate: Certificate | None = None
    achieved: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.macs < 1 or self.params < 1:
            raise InputError(f"a network of {self.macs} MACs and {self.params} parameters is none")
        json.dumps(self.achieved, allow_nan=False)

    @property
    def groups(self) -> Sequence[Mapping[str, Any]]:
        """Which layers lost channels together: ``{layers, before, after}``."""
        groups: Sequence[Mapping[str, Any]] = (self.achieved or {}).get("groups", ())
        return groups

    @property
    def remarks(self) -> Sequence[str]:
        """Sentences: what was asked for, what was achieved, and why they differ."""
        remarks: Sequence[str] = (self.achieved or {}).get("remarks", ())
        return remarks

    def to_json(self) -> dict[str, Any]:
        """Every field; ``Facts.from_json`` reads it back."""
        return {
            "macs": self.macs,
            "params": self.params,
            "channels_removed": self.channels_removed,
            "latency": None if self.latency is None else self.latency.to_json(),
            "certificate": None if self.certificate is None else self.certificate.to_json(),
            "achieved": None if self.achieved is None else dict(self.achieved),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Facts:
        """Read what ``to_json`` gave, whatever stands beside it."""
        latency, certificate = fields.get("latency"), fields.get("certificate")
        return cls(
            macs=fields["macs"],
            params=fields["params"],
            channels_removed=fields["channels_removed"],
            latency=None if latency is None else LatencyFacts.from_json(latency),
            certificate=None if certificate is None else Certificate.from_json(certificate),
            achieved=fields.get("achieved"),
        )


def facts_of(pruned: Pruned, latency: LatencyFacts | None = None) -> Facts:
    """What a cut says of its slim network; the example that it was cut with is one image."""
    before, after = _costs(pruned.plan)
    return Facts(
        macs=int(after["macs"]),
        params=int(after["params"]),
        channels_removed=channels_removed(pruned.plan),
        latency=latency,
        certificate=pruned.certificate,
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
    )


def channels_removed(plan: Plan) -> float:
    """The part of the prunable channels that left, each group's counted once, 0..1."""
    before = sum(cut.before for cut in plan.groups)
    return 1 - sum(cut.after for cut in plan.groups) / before if before else 0.0


def latency_facts(latency: Latency, name: str) -> LatencyFacts:
    """One candidate's milliseconds, and its speed-up over the first with the spread of both."""
    timing = latency.timing(name)
    facts = LatencyFacts(timing.median_ms, timing.low_ms, timing.high_ms)
    if name == latency.timings[0].name:
        return replace(facts, speedup=1.0)
    speedup = next(speedup for speedup in latency.speedups if speedup.name == name)
    return replace(
        facts,
        speedup=speedup.median,
        speedup_low=speedup.low,
        speedup_high=speedup.high,
        verdict=speedup.verdict,
    )


def _costs(plan: Plan) -> tuple[Mapping[str, float], Mapping[str, float]]:
    if plan.before is None or plan.after is None:
        raise InputError("this plan does not say what the network costs: prune again")
    return plan.before, plan.after
