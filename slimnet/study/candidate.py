"""A network to be retrained, in memory: what the first stage of a study writes as files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from slimnet.plan.plan import Plan
from slimnet.pruning import Pruned
from slimnet.study.facts import Facts, LatencyFacts, facts_of

WHOLE = Plan(removed={})
"""The plan of a network that was not cut."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network and what is known of it.

    ``plan`` says how a slim network was cut from the dense one, and of the dense one how it was cut
    from what its architecture builds. ``masked``: the share of the single weights that are zero,
    and stay so in every retraining. ``example`` is what the network was recorded with.
    """

    model: nn.Module
    facts: Facts
    plan: Plan = WHOLE
    masked: float | None = None
    example: tuple[Any, ...] = ()


def slim_candidate(pruned: Pruned, latency: LatencyFacts | None = None) -> Candidate:
    """The slim network of ``slimnet.prune`` as a study's candidate.

    The example that it was cut with must be one image: MACs are counted on it.
    """
    facts = facts_of(pruned, latency)
    return Candidate(pruned.model, facts, pruned.plan, example=pruned.example)
