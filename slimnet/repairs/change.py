"""How far a network's answers are from the original's, in parts of what those vary by."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from slimnet.errors import InputError


def check_answers(said: Tensor, name: str) -> None:
    """Raise :class:`InputError` where the original's answers are nothing to measure others by."""
    if not bool(said.isfinite().all()):
        raise InputError(
            f"{name} gives NaN or infinite outputs on the calibration images: normalise them as "
            "it takes them"
        )
    if said.is_floating_point() and _spread(said.double()) <= _rounding(said):
        raise InputError(
            f"{name} gives the same outputs for all {len(said)} images that are held back, and no "
            "change can be measured: give images that differ, normalised as it takes them"
        )


def change(said: Tensor, others: Tensor) -> float:
    """Mean squared, over the variance of what was said; infinite where it is no number.

    Of whole numbers, the share that differ.
    """
    if said.shape != others.shape:
        raise InputError(
            f"the slim network gives {others.shape[1]} numbers for an image and the original "
            f"{said.shape[1]}: they cannot be compared"
        )
    if not said.is_floating_point():
        return float((said != others).double().mean())
    said, others = said.double(), others.double()
    found = float((said - others).square().mean() / _spread(said).clamp(min=1e-30))
    return found if math.isfinite(found) else math.inf


def _spread(said: Tensor) -> Tensor:
    """The variance over images; of one image over its numbers, of one number its square."""
    if len(said) > 1:
        return (said - said.mean(0)).square().mean()
    return said.var() if said.numel() > 1 else said.square().mean()


def _rounding(said: Tensor) -> float:
    """What the variance of equal answers comes to, by their type's own rounding."""
    return (4 * torch.finfo(said.dtype).eps) ** 2 * float(said.double().square().mean())
