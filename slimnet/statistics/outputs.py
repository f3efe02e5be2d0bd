"""The outputs of networks on images, as numbers that can be compared.

Outputs may be scores of each image, one number of each, one of a whole batch, or several of these
in any containers. Real numbers count; where a network gives whole numbers only (the class, say),
those do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from slimnet.capture.modules import evaluation_mode
from slimnet.errors import InputError
from slimnet.example import tensors_of
from slimnet.network import Network
from slimnet.samples import batch_sizes
from slimnet.statistics.batches import does_not_run


def numbers_of(outputs: Any) -> list[Tensor]:
    """The tensors that count: real ones (complex ones in two parts), else whole ones."""
    tensors = [x.detach() for x in tensors_of(outputs)]
    real = [torch.view_as_real(x) if x.is_complex() else x for x in tensors if _is_real(x)]
    return real or tensors


def output_rows(network: Network, images: Tensor, batch: int) -> Tensor:
    """[N, numbers]: for each image all numbers of the network's outputs.

    Where an output does not tell the images apart, they go through one at a time. Raises
    :class:`InputError` where the network does not run on them, or its outputs cannot be compared.
    """
    model = network.model
    with torch.no_grad(), evaluation_mode(network):
        parts = [_rows(model, part) for part in images.split(batch_sizes(len(images), batch))]
        if any(part is None for part in parts):
            parts = [_row(model, image) for image in images.split(1)]
    rows = [part for part in parts if part is not None]
    if len({part.shape[1] for part in rows}) > 1:
        raise InputError(
            f"{network.name} gives outputs of another size for another image, which "
            "cannot be compared: wrap it in a module that returns what goes in before them"
        )
    return torch.cat(rows)


def _rows(model: nn.Module, images: Tensor) -> Tensor | None:
    """[images, numbers]; None where an output does not tell the images apart."""
    outputs = _outputs(model, images)
    if not all(x.dim() and len(x) == len(images) for x in outputs):
        return None
    return torch.cat([x.flatten(1) if x.dim() > 1 else x[:, None] for x in outputs], 1)


def _row(model: nn.Module, image: Tensor) -> Tensor:
    """[1, numbers]."""
    return torch.cat([x.flatten() for x in _outputs(model, image)])[None]


def _outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    try:
        outputs = numbers_of(model(images))
    except Exception as error:  # the user's forward may raise anything
        raise does_not_run(model, images.shape[1:], error) from error
    if not outputs:
        raise InputError(f"{type(model).__name__} gives no tensor: there is nothing to compare")
    return outputs


def _is_real(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()
