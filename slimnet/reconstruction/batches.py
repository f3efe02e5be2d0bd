"""Calibration samples through a network: batches that fit into memory, and refusals in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from slimnet.capture.modules import device_of, named_tensors
from slimnet.errors import InputError
from slimnet.samples import Samples
from slimnet.watch import Watch

BATCH = 64
NUMBERS = 1 << 20
"""At most so many images, and numbers in them, per pass: what bounds the memory (six images of
3x224x224, whose gradients take ResNet-50 well under 1 GB)."""


def batches(
    model: nn.Module, samples: Samples, what: str, watch: Watch, size: int | None = None
) -> Iterator[Samples]:
    """Batches where the model is, in its precision; smaller ones of large images."""
    place = device_of(model)
    kinds = (t.dtype for _, t in named_tensors(model) if t.is_floating_point())
    kind = next(kinds, samples.images.dtype)
    size = max(min(size or BATCH, NUMBERS // samples.images[0].numel()), 1)
    for number, batch in enumerate(samples.batches(size)):
        watch(f"{what} of {len(samples)} images", number * size / len(samples))
        yield Samples(batch.images.to(kind), batch.labels).to(place)


def run(model: nn.Module, batch: Samples) -> Any:
    """The network's output; raises :class:`InputError` where it does not run on the images."""
    try:
        return model(batch.images)
    except Exception as error:  # the user's forward may raise anything
        size = "x".join(map(str, batch.images.shape))
        first = str(error).strip().split("\n")[0]
        raise InputError(
            f"{type(model).__name__} does not run on the calibration images of {size}: {first}"
        ) from error
