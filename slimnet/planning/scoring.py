"""Scores of a network, and what they need, read as often as a plan asks.

A :class:`Scorer` holds what was asked for (criterion, calibration samples, initial weights); it
scores the dense network first, and in later rounds the network as already cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from slimnet.capture.modules import in_single
from slimnet.coupling.groups import Group
from slimnet.criteria import Choice, Scores, comparable, score
from slimnet.network import Network
from slimnet.progress import Progress
from slimnet.samples import Samples
from slimnet.statistics.gather import gather
from slimnet.statistics.statistics import Gathered


@dataclass(frozen=True, eq=False)
class Scorer:
    """A criterion with all that it reads beside the weights."""

    choice: Choice
    samples: Samples | None
    init: Mapping[str, Tensor] | None
    seed: int
    watch: Progress

    def gather(
        self,
        network: Network,
        groups: Sequence[Group],
        init: Mapping[str, Tensor] | None = None,
    ) -> Gathered:
        """What the criterion needs, from this network; ``init`` in place of the initial weights."""
        given = self.init if init is None else init
        needs = self.choice.needs
        return gather(network, groups, needs, samples=self.samples, init=given, watch=self.watch)

    def scores(
        self, tensors: Mapping[str, Tensor], groups: Sequence[Group], gathered: Gathered
    ) -> dict[int, Scores]:
        """Scores [atoms] of every group that the criterion can judge, comparable across groups."""
        found = score(
            groups,
            {name: in_single(tensor) for name, tensor in tensors.items()},
            self.choice.criterion,
            seed=self.seed,
            gathered=gathered,
            reduce=self.choice.reduce,
        )
        return {
            number: comparable(values, self.choice.criterion, self.choice.across)
            for number, values in found.items()
        }
