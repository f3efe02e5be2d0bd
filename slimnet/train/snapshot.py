"""A training between two epochs, as a value: taken up again, it ends as if never stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.train.callback import Callback


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All that the rest of a training depends on; its tensors are the living ones, not copies."""

    losses: tuple[float, ...]  # of the epochs done
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    callbacks: tuple[Mapping[str, Tensor], ...]
    order: Tensor  # state of what draws batches and augments images
    random: Tensor  # torch's own, which dropout draws from
    random_gpu: Tensor | None  # the same of the GPU that it trains on

    def to_payload(self) -> dict[str, Any]:
        """Plain containers and tensors, for ``torch.save``."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Snapshot:
        """Read what ``to_payload`` gave; ``TypeError`` for anything else."""
        return cls(**payload)


@dataclass(frozen=True, eq=False)
class Training:
    """The parts of a running training that a snapshot is of."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    callbacks: Sequence[Callback]
    generator: torch.Generator
    device: torch.device

    def snapshot(self, losses: Sequence[float]) -> Snapshot:
        """The training as it stands after the epochs of these losses."""
        on_gpu = self.device.type == "cuda"
        return Snapshot(
            losses=tuple(losses),
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            callbacks=tuple(callback.state() for callback in self.callbacks),
            order=self.generator.get_state(),
            random=torch.get_rng_state(),
            random_gpu=torch.cuda.get_rng_state(self.device) if on_gpu else None,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Stand where a snapshot of the same training was taken."""
        self.model.load_state_dict(snapshot.model)
        self.optimizer.load_state_dict(dict(snapshot.optimizer))
        for callback, state in zip(self.callbacks, snapshot.callbacks, strict=True):
            callback.restore(state)
        self.generator.set_state(snapshot.order)
        torch.set_rng_state(snapshot.random)
        if snapshot.random_gpu is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(snapshot.random_gpu, self.device)
