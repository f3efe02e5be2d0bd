"""The outputs of networks on images, as numbers that can be compared.

Outputs may be scores of each image, one number of each, one of a whole batch, or several of these
in any containers. Real numbers count; where a network gives whole numbers only (the class, say),
those do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.capture.modules import evaluation_mode
from slimnet.errors import InputError
from slimnet.example import read_of
from slimnet.network import Network
from slimnet.samples import SampleBatches, Samples, as_samples
from slimnet.statistics.batches import run


def numbers_of(outputs: Any, read: Sequence[str] = ()) -> list[Tensor]:
    """The tensors that count of those that are read: real ones (complex ones in two parts).

    Where there are none, whole ones.
    """
    tensors = [x.detach() for x in read_of(outputs, read)]
    real = [torch.view_as_real(x) if x.is_complex() else x for x in tensors if _is_real(x)]
    return real or tensors


def output_rows(
    network: Network, samples: Samples | Tensor, batch: int, read: Sequence[str] = ()
) -> Tensor:
    """[N, numbers]: for each sample all numbers of the network's outputs that are read.

    Where an output does not tell the samples apart, they go through one at a time; of samples of
    several sizes all numbers are one row. Raises :class:`InputError` where the network does not
    run on them, or its outputs cannot be compared.
    """
    model = network.model
    with torch.no_grad(), evaluation_mode(network):
        samples = as_samples(samples)
        parts = [_rows(model, part, read) for part in samples.batches(batch)]
        if any(part is None for part in parts):
            parts = [_row(model, sample, read) for sample in samples.batches(1)]
    rows = [part for part in parts if part is not None]
    if len({part.shape[1] for part in rows}) == 1:
        return torch.cat(rows)
    if not isinstance(samples, SampleBatches):
        raise InputError(
            f"{network.name} gives outputs of another size for another image, which "
            "cannot be compared: wrap it in a module that returns what goes in before them"
        )
    return torch.cat([part.flatten() for part in rows])[None]


def _rows(model: nn.Module, samples: Samples, read: Sequence[str]) -> Tensor | None:
    """[samples, numbers]; None where an output does not tell the samples apart."""
    outputs = _outputs(model, samples, read)
    if not all(x.dim() and len(x) == len(samples) for x in outputs):
        return None
    return torch.cat([x.flatten(1) if x.dim() > 1 else x[:, None] for x in outputs], 1)


def _row(model: nn.Module, sample: Samples, read: Sequence[str]) -> Tensor:
    """[1, numbers]."""
    return torch.cat([x.flatten() for x in _outputs(model, sample, read)])[None]


def _outputs(model: nn.Module, samples: Samples, read: Sequence[str]) -> list[Tensor]:
    outputs = numbers_of(run(model, samples), read)
    if not outputs:
        raise InputError(f"{type(model).__name__} gives no tensor: there is nothing to compare")
    return outputs


def _is_real(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()
