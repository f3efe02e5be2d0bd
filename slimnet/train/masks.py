"""Masks: which single weights stay, and at what the others are held while a network trains.

A mask criterion is a formula over what a weight was and what it became; those with the least
scores go. Zhou et al. 2019 (*Deconstructing Lottery Tickets*) compared them: their final magnitude,
how far they moved, and more. What goes is held at zero, or at what it was in the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.registry import Registry
from slimnet.train.callback import Callback, Moment

Weights: TypeAlias = Mapping[str, Tensor]
"""By the names of parameters."""


def single_weights(network: Network) -> Iterator[tuple[str, nn.Parameter]]:
    """The weight of every convolution and linear layer, once each."""
    for path, module in network.modules.items():
        name = f"{path}.weight".lstrip(".")
        layer = isinstance(module, (_ConvNd, nn.Linear))
        if layer and isinstance(module.weight, nn.Parameter) and network.first[name] == name:
            yield name, module.weight


@dataclass(frozen=True)
class MaskCriterion:
    """How much one weight matters: a score of its final and its initial value; the least go."""

    score: Callable[[Tensor, Tensor, torch.Generator], Tensor]  # of one layer, elementwise
    reads_initial: bool = True


MASKS: Registry[MaskCriterion] = Registry("mask criterion", "slimnet.masks")
MASKS.add("large-final", MaskCriterion(lambda final, initial, _: final.abs(), reads_initial=False))
MASKS.add("small-final", MaskCriterion(lambda final, initial, _: -final.abs(), reads_initial=False))
MASKS.add("large-init", MaskCriterion(lambda final, initial, _: initial.abs()))
MASKS.add("small-init", MaskCriterion(lambda final, initial, _: -initial.abs()))
MASKS.add(
    "large-init-large-final",
    MaskCriterion(lambda final, initial, _: torch.minimum(*_alike(final, initial))),
)
MASKS.add(
    "small-init-small-final",
    MaskCriterion(lambda final, initial, _: -torch.maximum(*_alike(final, initial))),
)
MASKS.add(
    "magnitude-increase", MaskCriterion(lambda final, initial, _: final.abs() - initial.abs())
)
MASKS.add("movement", MaskCriterion(lambda final, initial, _: (final - initial).abs()))
MASKS.add(
    "random",
    MaskCriterion(
        lambda final, initial, generator: torch.rand(
            final.shape, generator=generator, dtype=final.dtype
        ).to(final.device),
        reads_initial=False,
    ),
)


def _alike(final: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """Both magnitudes on one scale: the final ones times the ratio of the deviations."""
    scale = initial.std(correction=0) / final.std(correction=0).clamp_min(1e-12)
    return final.abs() * scale, initial.abs()


def masks_by(
    criterion: str,
    rate: float,
    final: Weights,
    initial: Weights | None = None,
    *,
    layerwise: bool = False,
    seed: int = 0,
) -> dict[str, Tensor]:
    """0 for the share ``rate`` of all elements whose scores are least, else 1.

    One threshold for all, or ``layerwise`` one for each. Raises ``InputError`` where a criterion
    reads ``initial`` weights and there are none.
    """
    row, generator = MASKS[criterion], torch.Generator().manual_seed(seed)
    if initial is None and row.reads_initial:
        raise InputError(
            f"the mask criterion {criterion} reads the weights before training: give the folder "
            "where slimnet train --snapshots 0 kept them, with --history"
        )
    scores = {
        name: row.score(weight.detach(), (initial or final)[name].to(weight), generator)
        for name, weight in final.items()
    }
    groups = [[name] for name in scores] if layerwise else [list(scores)]
    return {name: m for group in groups for name, m in _least(group, scores, rate).items()}


def _least(names: list[str], scores: Weights, rate: float) -> dict[str, Tensor]:
    """One threshold for these; of equal scores as many go as the rate says."""
    values = torch.cat([scores[name].flatten() for name in names])
    mask = torch.ones_like(values)
    mask[values.argsort(stable=True)[: round(rate * len(values))]] = 0
    parts = mask.split([scores[name].numel() for name in names])
    return {name: part.view_as(scores[name]) for name, part in zip(names, parts, strict=True)}


def magnitude_masks(weights: Weights, rate: float) -> dict[str, Tensor]:
    """0 for the share ``rate`` of all elements that is smallest in magnitude, else 1."""
    return masks_by("large-final", rate, weights)


Hold: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(initial, final) → what weights are held at that a mask takes."""
HOLDS: Registry[Hold] = Registry("mask action")
HOLDS.add("zero", lambda initial, final: torch.zeros_like(final))
HOLDS.add("initial", lambda initial, final: initial)
HOLDS.add(
    "toward-zero",  # those that training moved to zero are zero, the others as they were
    lambda initial, final: torch.where(final.abs() < initial.abs(), 0.0, initial),
)


class Held(Callback):
    """What the masks take has its value before the first step, and again after every step.

    The weights are masked, not their gradients: momentum alone would revive a weight. ``masks``
    hold 1 where a weight stays; ``values`` is what the others are held at, zero where none is.
    """

    def __init__(self, masks: Weights, values: Weights | None = None) -> None:
        self.masks = dict(masks)
        self.values = dict(values or {})

    def on_start(self, moment: Moment) -> None:
        """Hold it."""
        self.apply(moment.model)

    def on_step_end(self, moment: Moment) -> None:
        """Hold it again."""
        self.apply(moment.model)

    def state(self) -> Weights:
        """The masks."""
        return self.masks

    def restore(self, state: Weights) -> None:
        """The same masks again."""
        self.masks = {name: state[name].to(mask) for name, mask in self.masks.items()}

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Write the values that are held into a network."""
        for name, weight in single_weights(Network.of(model)):
            mask = self.masks[name] = self.masks[name].to(weight)
            weight.mul_(mask)
            if name in self.values:
                weight.add_(self.values[name].to(weight) * (1 - mask))
