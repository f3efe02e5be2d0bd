"""Retraining regimes: each one row (which weights to start from, how long, how fast).

All of them run the same loop. A regime stretches the base schedule, the one that the dense network
was trained with, so that what is compared is the regime and not the tuning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

from torch import nn

from slimnet.errors import InputError
from slimnet.registry import Registry
from slimnet.train.init import reinitialise
from slimnet.train.schedule import Schedule

WORDING = ("title", "meaning")


@dataclass(frozen=True)
class Regime:
    """How a slim network is retrained."""

    title: str
    meaning: str
    start: str  # a name of STARTS
    epochs: float = 1.0  # times the base schedule's; 0: not trained at all
    lr: float = 1.0  # times the base schedule's
    equal_compute: bool = False  # as many MACs as the dense network's training took

    def to_json(self) -> dict[str, Any]:
        """What decides its outcome, its wording aside."""
        return {name: value for name, value in asdict(self).items() if name not in WORDING}


Repairer: TypeAlias = Callable[[nn.Module, int], None]
"""Writes into a slim network the weights of a repair, on images that the seed draws."""
Start: TypeAlias = Callable[[nn.Module, int, "Repairer | None"], None]
"""Prepares the slim network, in place, from a seed, and from a repairer where it has one."""


def _repaired(model: nn.Module, seed: int, repair: Repairer | None) -> None:
    if repair is None:
        raise InputError("nothing was cut from it, so there is nothing to repair")
    repair(model, seed)


STARTS: Registry[Start] = Registry("start", "slimnet.starts")
STARTS.add("surviving", lambda model, seed, repair: None)  # the weights that the cut left
STARTS.add("fresh", lambda model, seed, repair: reinitialise(model, seed))
STARTS.add("repaired", _repaired)

REGIMES: Registry[Regime] = Registry("regime", "slimnet.regimes")
# A quarter of the base's epochs, as Liu et al. (40 of 160), but from a tenth of its learning rate,
# falling as the base's does: their constant 1e-3, a hundredth, costs fine-tuning 0.4 to 0.6 points
# of accuracy and would make the scratch regimes look better than they are.
_FINETUNE = Regime(
    title="fine-tuned",
    meaning="the surviving weights trained on, for a quarter of the epochs",
    start="surviving",
    epochs=0.25,
    lr=0.1,
)
REGIMES.add("finetune", _FINETUNE)
REGIMES.add(
    "repair",
    Regime(
        title="repaired",
        meaning="new weights by least squares and a few passes over some images, without labels",
        start="repaired",
        epochs=0.0,
    ),
)
REGIMES.add(
    "repair-finetune",
    replace(
        _FINETUNE,
        title="repaired, then fine-tuned",
        meaning="the repaired weights trained on, as finetune trains the surviving ones",
        start="repaired",
    ),
)
REGIMES.add(
    "scratch-e",
    Regime(
        title="from scratch, same epochs",
        meaning="fresh weights, as many epochs as the dense network",
        start="fresh",
    ),
)
REGIMES.add(
    "scratch-b",
    Regime(
        title="from scratch, same compute",
        meaning="fresh weights, as many MACs of training as the dense network",
        start="fresh",
        equal_compute=True,
    ),
)


def budget(regime: Regime, base: Schedule, macs_ratio: float) -> Schedule:
    """The schedule of ``regime``, which trains; ``macs_ratio`` is MACs(dense) / MACs(slim).

    At equal compute the epochs grow by exactly this ratio, without a cap, and the milestones with
    them (Scratch-B of Liu et al.). Whole epochs: the nearest, at least one.
    """
    if not (macs_ratio > 0 and math.isfinite(macs_ratio)):
        raise InputError(f"MACs(dense) / MACs(slim) must be greater than 0, not {macs_ratio}")
    times = regime.epochs * (macs_ratio if regime.equal_compute else 1.0)
    return replace(base.stretched(times), lr=base.lr * regime.lr)


def start(regime: Regime, model: nn.Module, seed: int, repair: Repairer | None = None) -> None:
    """Give ``model``, which the caller owns, the weights that ``regime`` starts from.

    Raises ``InputError`` where it starts from repaired weights and there is no ``repair``.
    """
    STARTS[regime.start](model, seed, repair)
