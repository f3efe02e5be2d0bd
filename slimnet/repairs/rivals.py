"""Blocks that compete with channels, by what is left of the damage after a repair.

A budget of a cost can be met by narrower layers, by whole residual blocks that leave, or by both.
What that does to the outputs cannot be read off weights: a repair makes up for much of the one and
of the other. So it is measured. Blocks are ranked by the change of the outputs that each makes when
it leaves alone, for the cost that it saves. Then networks without none, some and many of the first
are cut to the budget, repaired in short form, and compared on images that neither read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from slimnet.errors import SlimnetError
from slimnet.network import Network
from slimnet.plan.plan import Plan
from slimnet.progress import Progress
from slimnet.repairs import reestimated, repair
from slimnet.repairs.output_error import check_targets, output_error
from slimnet.samples import Samples
from slimnet.statistics.batches import fitting
from slimnet.statistics.moments import batch_of
from slimnet.statistics.outputs import output_rows

IMAGES = 256
"""At most so many are read for a short repair, and as many others to compare."""
RANKED = 96
"""At most so many of either are read to rank blocks."""
FIRST = 5
"""Numbers of blocks that are tried over the whole range, ends included."""

Cut: TypeAlias = Callable[[Sequence[str]], tuple[Network, Plan]]
"""The network without these blocks, cut to the budget."""


@dataclass(frozen=True)
class Rival:
    """A block that may leave: the network without it, unproven, and the cost that it saves."""

    name: str
    without: Network
    saved: float


@dataclass(frozen=True)
class Contest:
    """The blocks that leave, and the error of the outputs by how many were tried."""

    blocks: tuple[str, ...]
    errors: Mapping[int, float]

    def __str__(self) -> str:
        tried = ", ".join(f"{n}: {100 * error:.2g}%" for n, error in sorted(self.errors.items()))
        return (
            f"blocks competed with channels, {len(self.blocks)} leave: change of the outputs after "
            f"a short repair, by the number of blocks without which the budget was met, {tried}"
        )


def contest(
    network: Network,
    rivals: Sequence[Rival],
    excess: float,
    cut: Cut,
    samples: Samples,
    *,
    read: Sequence[str] = (),
    seed: int = 0,
    watch: Progress,
) -> Contest:
    """Find how many blocks, and which, leave for a budget to be met with the least damage.

    Args:
        network: the original.
        rivals: the blocks that may leave.
        excess: so much of the cost must be saved: more blocks than that takes do not leave.
        cut: what meets the budget without some of them.
        samples: any inputs, without labels; half of them is compared on.
        read: the outputs that count; all by default.
        seed: of the repairs.
        watch: told how far it is.

    Raises what ``cut`` raises where the budget cannot be met with any number of blocks.
    """
    judged, fitted = samples.split(min(len(samples) // 2, IMAGES))
    fitted = fitted.first(IMAGES)
    judged = fitting(network, judged)
    judge = _Judge(network, judged, read)
    ranked = _ranked(
        _Judge(network, judged.first(RANKED), read), rivals, fitted.first(RANKED), watch
    )
    trials = _Trials(network, ranked, cut, judge, fitted, seed, watch)
    for number in _spread(_most(ranked, {rival.name: rival.saved for rival in rivals}, excess)):
        trials.attempt(number)
    errors = trials.errors
    for number in _beside(errors):
        trials.attempt(number)
    if not errors:
        raise trials.failed[0]
    best = min(errors, key=lambda n: (errors[n], n))
    return Contest(tuple(ranked[:best]), errors)


@dataclass(frozen=True, eq=False)
class _Trials:
    """Networks without the first blocks of a ranking, and the error of each."""

    network: Network
    ranked: Sequence[str]
    cut: Cut
    judge: _Judge
    samples: Samples  # that a repair reads
    seed: int
    watch: Progress
    errors: dict[int, float] = field(default_factory=dict)  # by the number of blocks
    failed: dict[int, SlimnetError] = field(default_factory=dict)

    def attempt(self, number: int) -> None:
        """One more; of some numbers no cut meets the budget, which is not tried again."""
        if number in self.errors or number in self.failed:
            return
        tried = len(self.errors) + len(self.failed)
        self.watch("letting blocks compete with channels", tried / (FIRST + 2))
        try:
            slim, plan = self.cut(self.ranked[:number])
            made, _ = repair(self.network, slim, plan, self.samples, seed=self.seed, refine=False)
            self.errors[number] = self.judge.error(Network.of(made))
        except SlimnetError as error:
            self.failed[number] = error


class _Judge:
    """Compares networks with the original on the same images."""

    def __init__(self, network: Network, samples: Samples, read: Sequence[str]) -> None:
        self._samples, self._read = samples, read
        self._batch = batch_of(samples)
        self._targets = output_rows(network, samples, self._batch, read)
        check_targets(self._targets, network.name)

    def error(self, network: Network) -> float:
        """Of the outputs, in parts of their variance."""
        rows = output_rows(network, self._samples, self._batch, self._read)
        return output_error(self._targets, rows)


def _ranked(judge: _Judge, rivals: Sequence[Rival], samples: Samples, watch: Progress) -> list[str]:
    """Names, first of the block whose leaving changes least for what it saves."""
    harms: dict[str, float] = {}
    for number, rival in enumerate(rivals):
        watch("ranking blocks", number / len(rivals))
        again = reestimated(rival.without, samples, batch_of(samples))
        harm = min(judge.error(rival.without), judge.error(again))
        harms[rival.name] = harm / max(rival.saved, math.ulp(0.0))
    return sorted(harms, key=harms.__getitem__)


def _most(ranked: Sequence[str], saved: Mapping[str, float], excess: float) -> int:
    """So many blocks save as much as must be saved, or all of them."""
    for number, name in enumerate(ranked):
        if excess <= 0:
            return number
        excess -= saved[name]
    return len(ranked)


def _spread(last: int) -> list[int]:
    """Numbers over 0..last, both included."""
    return sorted({round(last * n / (FIRST - 1)) for n in range(FIRST)})


def _beside(errors: Mapping[int, float]) -> list[int]:
    """The numbers half-way from the best to its neighbours that were tried."""
    if not errors:
        return []
    tried = sorted(errors)
    at = tried.index(min(tried, key=errors.__getitem__))
    around = (tried[max(at - 1, 0)], tried[min(at + 1, len(tried) - 1)])
    return sorted({(tried[at] + other) // 2 for other in around})
