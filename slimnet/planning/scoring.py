"""Scores of a network's channels, as often as a plan asks for them.

:class:`ScoringInputs` holds what a user gives for scores: the criterion's options, calibration
samples, initial weights. With it the dense network is scored first, and in later rounds the
network as it was cut by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from slimnet.capture.modules import in_single
from slimnet.coupling.groups import Group
from slimnet.criteria import CriterionOptions, Scores, normalized, score
from slimnet.network import Network
from slimnet.progress import Progress
from slimnet.samples import Samples
from slimnet.statistics.gather import gather
from slimnet.statistics.statistics import Statistics


@dataclass(frozen=True, eq=False)
class ScoringInputs:
    """A criterion, and what it reads beside the weights of the network."""

    options: CriterionOptions
    samples: Samples | None
    init: Mapping[str, Tensor] | None
    seed: int
    watch: Progress

    def gather(
        self,
        network: Network,
        groups: Sequence[Group],
        init: Mapping[str, Tensor] | None = None,
    ) -> Statistics:
        """What the criterion needs, from this network; ``init`` in place of the initial weights."""
        return gather(
            network,
            groups,
            self.options.needs,
            samples=self.samples,
            init=self.init if init is None else init,
            watch=self.watch,
        )

    def scores(
        self, tensors: Mapping[str, Tensor], groups: Sequence[Group], statistics: Statistics
    ) -> dict[int, Scores]:
        """Scores [atoms] of every group that the criterion can judge, comparable across groups."""
        scores = score(
            groups,
            {name: in_single(tensor) for name, tensor in tensors.items()},
            self.options.criterion,
            seed=self.seed,
            statistics=statistics,
            reduce=self.options.reduce,
        )
        return {
            number: normalized(values, self.options.criterion, self.options.across)
            for number, values in scores.items()
        }
