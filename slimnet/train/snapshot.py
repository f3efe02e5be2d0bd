"""Where a training stands, as a value: taken up again, it ends as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.capture.randomness import generators, set_generators
from slimnet.train.callback import Callback, Moment


@dataclass(frozen=True, eq=False)
class Place:
    """A place in an epoch: batches that are done, and what the rest of the epoch needs of them."""

    steps: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))  # of losses
    samples: int = 0
    order: Tensor | None = None  # state of what draws batches, at the start of the epoch
    gradients: tuple[Tensor | None, ...] = ()  # that wait for their step; empty where none does
    random: Mapping[str, Any] = field(default_factory=dict)  # generators, at this place


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All that the rest of a training depends on; its tensors are the living ones, not copies."""

    losses: tuple[float, ...]  # of the epochs done
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    callbacks: tuple[Mapping[str, Tensor], ...]
    order: Tensor  # state of what draws batches and augments images
    random: Mapping[str, Any]  # generators that all share, which dropout draws from
    done: tuple[tuple[int, int], ...] = ()  # steps and samples of the epochs done
    place: Mapping[str, Any] | None = None  # a :class:`Place`, of one taken within an epoch
    settled: Mapping[str, Any] = field(default_factory=dict)  # what was found out before it began

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
    running: nn.Module  # what the task calls: the model itself, or compiled
    epochs: int

    def moment(
        self, epoch: int, step: int, loss: Tensor | None = None, done: float = 0.0
    ) -> Moment:
        """What a callback is told; ``done`` of the epochs are."""
        part = done / self.epochs
        return Moment(self.model, self.optimizer, epoch, step, loss, self.epochs, part)

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def gradients(self) -> tuple[Tensor | None, ...]:
        """Those that wait for their step."""
        return tuple(parameter.grad for parameter in self.model.parameters())

    def snapshot(
        self,
        losses: Sequence[float],
        done: Sequence[tuple[int, int]],
        place: Place | None = None,
        settled: Mapping[str, Any] | None = None,
    ) -> Snapshot:
        """The training after the epochs of these losses, and at a place in the next."""
        order = None if place is None else place.order
        return Snapshot(
            losses=tuple(losses),
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            callbacks=tuple(callback.state() for callback in self._remembering()),
            order=self.generator.get_state() if order is None else order,
            random=generators(self.device),
            done=tuple(done),
            place=None if place is None else vars(place),
            settled=settled or {},
        )

    def restore(self, snapshot: Snapshot) -> Place:
        """Stand where a snapshot of the same training was taken."""
        self.model.load_state_dict(snapshot.model)
        self.optimizer.load_state_dict(dict(snapshot.optimizer))
        for callback, state in zip(self._remembering(), snapshot.callbacks, strict=True):
            callback.restore(state)
        self.generator.set_state(snapshot.order)
        set_generators(snapshot.random, self.device)
        if snapshot.place is None:
            return Place()
        place = Place(**snapshot.place)
        for parameter, gradient in zip(self.model.parameters(), place.gradients, strict=False):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        return replace(place, random=snapshot.random)

    def _remembering(self) -> list[Callback]:
        """Callbacks that have to know something again; others may come and go."""
        return [callback for callback in self.callbacks if callback.state()]

    def restore_random(self, place: Place) -> None:
        """Draw as at a place of an epoch, once its first batches were drawn again."""
        if place.random:
            set_generators(place.random, self.device)
