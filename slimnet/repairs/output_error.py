"""How far a network's outputs are from the original's, in parts of the variance of those."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from slimnet.errors import InputError


def check_targets(targets: Tensor, name: str) -> None:
    """Raise :class:`InputError` where no error can be measured against the original's outputs."""
    if not bool(targets.isfinite().all()):
        raise InputError(
            f"{name} gives NaN or infinite outputs on the calibration images: normalise them as "
            "it takes them"
        )
    if targets.is_floating_point() and _variance(targets.double()) <= _rounding(targets):
        raise InputError(
            f"{name} gives the same outputs for all {len(targets)} images that are held back, and "
            "no change can be measured: give images that differ, normalised as it takes them"
        )


def output_error(targets: Tensor, outputs: Tensor) -> float:
    """Mean squared, over the variance of the targets; infinite where it is no number.

    Both are [images, numbers]. Of whole numbers, the share that differ.
    """
    if targets.shape != outputs.shape:
        raise InputError(
            f"the slim network gives {outputs.shape[1]} numbers for an image and the original "
            f"{targets.shape[1]}: they cannot be compared"
        )
    if not targets.is_floating_point():
        return float((targets != outputs).double().mean())
    targets, outputs = targets.double(), outputs.double()
    squared = (targets - outputs).square().mean()
    error = float(squared / _variance(targets).clamp(min=1e-30))
    return error if math.isfinite(error) else math.inf


def _variance(targets: Tensor) -> Tensor:
    """Over images; of one image over its numbers, of one number its square."""
    if len(targets) > 1:
        return (targets - targets.mean(0)).square().mean()
    return targets.var() if targets.numel() > 1 else targets.square().mean()


def _rounding(targets: Tensor) -> float:
    """What the variance of equal outputs comes to, by their type's own rounding."""
    return (4 * torch.finfo(targets.dtype).eps) ** 2 * float(targets.double().square().mean())
