"""Gradients of the loss on calibration images, by weight and by channel.

The network is changed (its parameters get ``requires_grad``): give a copy. The loss is the mean
cross-entropy, or the task's own, in evaluation mode, so that batch norms use their running
statistics and nothing is dropped out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

from slimnet.capture.modules import evaluation_mode
from slimnet.coupling.groups import Group
from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.progress import Progress
from slimnet.samples import Samples, check_labels
from slimnet.statistics.batches import batches, run
from slimnet.statistics.readers import readers
from slimnet.text import first_line

GATED = 8
"""Images of a mini-batch whose gates are squared: over many, the gradients of a trained network
cancel (ResNet-20, a quarter of the MACs gone: 32 % right with 512 at once, 59 with 64, 74 with 8
and with 1)."""


def loss_gradients(network: Network, samples: Samples, watch: Progress) -> dict[str, Tensor]:
    """Of the mean cross-entropy over all samples, by first name; where it depends on them."""
    totals: dict[str, Tensor] = {}
    with _differentiable(network, samples):
        named = dict(_parameters(network))
        for batch in batches(network, samples, "gradients", watch):
            for name, gradient in _differentiated(network.model, batch, named).items():
                part = gradient * (len(batch) / len(samples))
                totals[name] = totals[name] + part if name in totals else part
    return _finite(totals)


def squared_gates(
    network: Network, groups: Sequence[Group], samples: Samples, watch: Progress
) -> dict[str, Tensor]:
    """[channels, 1] for every weight that reads a group's channels, by first name.

    The squared derivative of the loss by a gate that multiplies the channel where it is read, its
    mean over mini-batches.
    """
    totals: dict[str, Tensor] = {}
    with _differentiable(network, samples), parametrize.cached():
        weights = {reader.name: reader for reader in readers(network, groups)}
        named = {name: reader.tensor for name, reader in weights.items()}
        count = 0
        for batch in batches(network, samples, "gradients", watch, GATED) if named else ():
            for name, gradient in _differentiated(network.model, batch, named).items():
                square = weights[name].gate(gradient).square()
                totals[name] = totals[name] + square if name in totals else square
            count += 1
    return _finite({name: total / count for name, total in totals.items()})


@contextmanager
def _differentiable(network: Network, samples: Samples) -> Iterator[None]:
    """In evaluation mode; every parameter takes part, frozen ones too."""
    _labels(samples)
    for _, tensor in _parameters(network):
        tensor.requires_grad_()
    with evaluation_mode(network), torch.inference_mode(False), torch.enable_grad():
        yield


def _finite(totals: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, total in totals.items():
        if not total.isfinite().all():
            raise InputError(f"the gradient of {name} holds NaN or Inf on the calibration images")
    return totals


def _parameters(network: Network) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of real numbers once, by its first name."""
    for name, tensor in network.parameters.items():
        if tensor.is_floating_point() and network.first[name] == name:
            yield name, tensor


def _differentiated(
    model: nn.Module, batch: Samples, named: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The gradient of a batch's mean loss by each of these tensors that it depends on."""
    loss = batch.loss(model, batch) if batch.loss else _cross_entropy(run(model, batch), batch)
    try:
        gradients = torch.autograd.grad(loss, [*named.values()], allow_unused=True)
    except RuntimeError as error:
        why = first_line(error)
        raise InputError(f"the network's output has no gradient: {why}") from error
    pairs = zip(named, gradients, strict=True)
    return {name: gradient for name, gradient in pairs if gradient is not None}


def _cross_entropy(scores: Any, batch: Samples) -> Tensor:
    if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != len(batch):
        raise InputError(
            "gradients are of the cross-entropy, which needs a network whose output is one score "
            "per class [N, classes]"
        )
    if scores.shape[1] < 2:
        raise InputError(
            "gradients are of the cross-entropy, which is zero for a network of one class whatever "
            "its weights: choose a criterion that reads none"
        )
    labels = _labels(batch)
    check_labels(labels, scores.shape[1])
    return cross_entropy(scores, labels)


def _labels(samples: Samples) -> Any:
    if samples.labels is None:
        raise InputError("gradients need labels: give images with labels, Samples(images, labels)")
    return samples.labels
