"""Runs calibration samples through a network: batches that fit into memory, errors that say why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from slimnet.capture.modules import copied, evaluation_mode, single
from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.progress import Progress
from slimnet.samples import Samples
from slimnet.text import first_line

BATCH = 64
NUMBERS = 1 << 20
"""At most so many images, and numbers in them, per pass: what bounds the memory (six images of
3x224x224, whose gradients take ResNet-50 well under 1 GB)."""


def batches(
    network: Network, samples: Samples, what: str, watch: Progress, size: int | None = None
) -> Iterator[Samples]:
    """Batches where the model is, in its precision; smaller ones of large images."""
    size = max(min(size or BATCH, NUMBERS // max(samples.numbers, 1)), 1)
    for number, batch in enumerate(samples.batches(size)):
        watch(f"{what} of {len(samples)} images", number * size / len(samples))
        yield fitting(network, batch)


def fitting(network: Network, samples: Samples) -> Samples:
    """The same where the model is, in its precision."""
    return samples.to(network.device, network.dtype)


def in_single(network: Network, samples: Samples) -> Network:
    """The network in single precision; itself where it is in single or double.

    Raises :class:`InputError` for code that casts to half itself.
    """
    wide = single(network)
    if wide is network:
        return network
    with torch.no_grad(), evaluation_mode(wide):
        try:
            wide.model(*fitting(wide, samples.first(2)).inputs)
        except Exception as error:  # the user's forward may raise anything
            raise InputError(
                f"{network.name} does not run in single precision, in which images are read for a "
                f"network in half: {first_line(error)}; let its code take the type from its "
                "weights (weight.dtype)"
            ) from error
    return wide


def working_copy(network: Network, samples: Samples) -> Network:
    """A copy that may be changed, in single precision where the network is in half."""
    wide = in_single(network, samples)
    return Network.of(copied(network)) if wide is network else wide


def run(model: nn.Module, batch: Samples) -> Any:
    """The network's output; raises :class:`InputError` where it does not run on the images."""
    try:
        return model(*batch.inputs)
    except Exception as error:  # the user's forward may raise anything
        raise does_not_run(model, batch, error) from error


def does_not_run(model: nn.Module, batch: Samples, error: BaseException) -> InputError:
    """The refusal of samples that a network fails on."""
    size = ", ".join("x".join(map(str, shape[1:])) for shape in batch.shapes)
    return InputError(
        f"{type(model).__name__} does not run on the calibration images of {size}: "
        f"{first_line(error)}"
    )
