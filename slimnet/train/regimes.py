"""Retraining regimes: each one row (which weights to start from, how long, how fast).

All of them run the same loop. A regime stretches the base schedule, the one that the dense network
was trained with, so that what is compared is the regime and not the tuning; one that rewinds takes
up that schedule at an epoch, ``weight-rewind@10``, and trains to its end (Renda et al. 2020). A
lottery ticket goes back to the first weights (Frankle & Carbin 2019). Those of single weights only
may hold what the masks take elsewhere than at zero, keep nothing but signs, or are not trained at
all: a supermask (Zhou et al. 2019).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from slimnet.errors import InputError
from slimnet.registry import Registry
from slimnet.train.schedule import Schedule
from slimnet.train.starts import STARTS, Sources

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
    rewind: int | None = None  # the epoch of the base's weights, or schedule, that it goes back to
    held: str = "zero"  # what masked weights are held at, a name of HOLDS

    @property
    def goes_back(self) -> bool:
        """Whether it reads weights that the dense network had before its last epoch."""
        return self.rewind is not None and self.start != "surviving"

    @property
    def masked(self) -> bool:
        """Whether it is about single weights only, which have a place where they are held."""
        return self.held != "zero"

    def to_json(self) -> dict[str, Any]:
        """What decides its outcome, its wording aside.

        A field that came later is left out at its default: digests of older regimes stay.
        """
        later = {"rewind": None, "held": "zero"}
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in WORDING and (name not in later or value != later[name])
        }


class Regimes(Registry[Regime]):
    """Regimes by name; ``NAME@N`` is one that goes back to epoch N of the dense training."""

    def get(self, name: str) -> Regime | None:
        """The row of a name, at its epoch; None where there is none."""
        plain, at, text = name.partition("@")
        row = super().get(plain)
        if row is None or not at:
            return row
        if row.rewind is None:
            raise InputError(f"{plain} goes back to no epoch: leave out @{text}")
        if not text.isdecimal():
            raise InputError(f"{name}: after @ stands an epoch, from 0 on: {plain}@10")
        return replace(row, rewind=int(text), title=f"{row.title} to epoch {int(text)}")


REGIMES = Regimes("regime", "slimnet.regimes")
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
REGIMES.add(
    "lr-rewind",
    Regime(
        title="learning rate rewound",
        meaning="the surviving weights trained by the base's schedule from an epoch on, the first "
        "unless it is named",
        start="surviving",
        rewind=0,
    ),
)
_REWIND = Regime(
    title="weights rewound",
    meaning="the weights of an epoch of the dense training, and its schedule from there on",
    start="earlier",
    rewind=0,
)
REGIMES.add("weight-rewind", _REWIND)
REGIMES.add(
    "ticket",
    replace(
        _REWIND,
        title="lottery ticket",
        meaning="the dense network's own initial weights, trained as the dense network was",
    ),
)
REGIMES.add(
    "ticket-shuffled",
    replace(
        _REWIND,
        title="ticket, shuffled",
        meaning="the initial weights of each layer in another order, trained as the dense network",
        start="shuffled",
    ),
)
REGIMES.add(
    "ticket-signs",
    replace(
        _REWIND,
        title="ticket, signs only",
        meaning="of the initial weights the signs, one magnitude for each layer, then trained",
        start="signs",
    ),
)
REGIMES.add(
    "ticket-fresh-signs",
    replace(
        _REWIND,
        title="fresh weights, ticket's signs",
        meaning="fresh magnitudes under the signs of the initial weights, then trained",
        start="fresh-signs",
    ),
)
REGIMES.add(
    "ticket-frozen",
    replace(
        _REWIND,
        title="ticket, the rest frozen",
        meaning="as ticket, and masked weights are held at what they were, not at zero",
        held="initial",
    ),
)
REGIMES.add(
    "ticket-toward-zero",
    replace(
        _REWIND,
        title="ticket, the rest by its movement",
        meaning="as ticket; of the masked weights those that training moved to zero are zero, the "
        "others are held at what they were",
        held="toward-zero",
    ),
)
REGIMES.add(
    "supermask",
    replace(
        _REWIND,
        title="supermask",
        meaning="the initial weights under the mask, or cut, without any training",
        epochs=0.0,
    ),
)
REGIMES.add(
    "supermask-signs",
    replace(
        _REWIND,
        title="supermask, signs only",
        meaning="of the initial weights the signs, one magnitude for each layer, without training",
        start="signs",
        epochs=0.0,
    ),
)


def budget(regime: Regime, base: Schedule, macs_ratio: float) -> Schedule:
    """The schedule of ``regime``, which trains; ``macs_ratio`` is MACs(dense) / MACs(slim).

    At equal compute the epochs grow by exactly this ratio, without a cap, and the milestones with
    them (Scratch-B of Liu et al.). Whole epochs: the nearest, at least one. One that rewinds has
    what is left of the base's. Raises ``InputError`` for an epoch that the base does not come to.
    """
    if not (macs_ratio > 0 and math.isfinite(macs_ratio)):
        raise InputError(f"MACs(dense) / MACs(slim) must be greater than 0, not {macs_ratio}")
    if regime.rewind is not None:
        return base.rest(regime.rewind)
    times = regime.epochs * (macs_ratio if regime.equal_compute else 1.0)
    return replace(base.stretched(times), lr=base.lr * regime.lr)


def start(regime: Regime, model: nn.Module, sources: Sources) -> None:
    """Give ``model``, which the caller owns, the weights that ``regime`` starts from.

    Raises ``InputError`` where ``sources`` lack what it starts from.
    """
    STARTS[regime.start](model, replace(sources, epoch=regime.rewind or 0))
