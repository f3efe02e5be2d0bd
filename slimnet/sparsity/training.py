"""Train a network sparse: one method, one schedule, and a training that survives a kill.

Takes a network and a recipe, gives a network of the same shapes that ``slimnet prune`` can cut
deep, and how sparse it became. After every epoch the whole state of the training is written beside
the result; started again with the same arguments, it goes on from there to the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimnet.capture.modules import copied
from slimnet.example import map_tensors
from slimnet.network import Network
from slimnet.sparsity.method import SPARSIFIERS
from slimnet.sparsity.sparseness import Sparseness, sparseness
from slimnet.task import Task, fingerprint_of
from slimnet.train import Callback, History, Schedule, measure
from slimnet.train.checkpoint import Checkpoint
from slimnet.train.loop import check_held
from slimnet.train.resumable import train_kept


@dataclass(frozen=True)
class Recipe:
    """How a network is trained sparse."""

    method: str  # a name of SPARSIFIERS
    amount: float  # strength or rate, whichever the method has
    schedule: Schedule
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Every field, the amount by its name."""
        knob = SPARSIFIERS[self.method].knob
        schedule = self.schedule.to_json()
        return {"method": self.method, knob: self.amount, "schedule": schedule, "seed": self.seed}


@dataclass(frozen=True, eq=False)
class Sparse:
    """A network trained sparse, and what that did to it."""

    model: nn.Module
    recipe: Recipe
    history: History
    metrics: Mapping[str, float]  # of the task, before
    before: Sparseness
    after: Sparseness
    resumed: int = 0  # epochs that an earlier run had done

    @property
    def cut(self) -> str:
        """The options of ``slimnet prune`` that fit it; empty where nothing can be cut."""
        return SPARSIFIERS[self.recipe.method].cut.format(blocks=self.after.blocks.some)

    def to_json(self) -> dict[str, Any]:
        """Everything but the network."""
        return {
            "recipe": self.recipe.to_json(),
            "cut": self.cut,
            "metrics": {"before": dict(self.metrics), "after": dict(self.history.metrics)},
            "sparseness": {"before": self.before.to_json(), "after": self.after.to_json()},
            "history": self.history.to_json(),
            "resumed": self.resumed,
        }


def sparsify(
    model: nn.Module,
    example: tuple[Any, ...],
    task: Task,
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[float], None] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Sparse:
    """Train a copy of ``model`` sparse.

    ``checkpoint`` is written after every epoch; one of the same network, data and recipe is taken
    up, any other is set aside. Raises ``InputError`` where the method finds nothing to work on.
    """
    row = SPARSIFIERS[recipe.method]
    copy = copied(Network.of(model))
    check_held(copy.parameters(), **{row.knob: recipe.amount})
    callback = row.make(copy, example, recipe.amount)
    before, metrics = sparseness(Network.of(copy), example), measure(copy, task, device)
    file = None
    if checkpoint is not None:
        identity = {"data": fingerprint_of(task), **recipe.to_json()}
        file = Checkpoint.of(checkpoint, model, identity)
    history, epochs = train_kept(
        copy,
        task,
        recipe.schedule,
        file,
        seed=recipe.seed,
        device=device,
        progress=progress,
        callbacks=[callback, *callbacks],
    )
    network = Network.of(copy)
    after = sparseness(network, map_tensors(lambda x: x.to(network.device), example))
    return Sparse(copy, recipe, history, metrics, before, after, epochs)
