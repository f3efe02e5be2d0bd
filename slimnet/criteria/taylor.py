"""Criteria that read gradients: how much the loss changes, to first order, without a channel."""

from __future__ import annotations

from torch import Tensor

from slimnet.criteria import CRITERIA, ChannelRows, Criterion


def taylor(rows: ChannelRows) -> Tensor:
    """(∂L/∂gate)² of a gate that multiplies the channel where a layer reads it.

    The derivative is Σ w·g over the weights that read the channel, and the square is averaged over
    mini-batches of at most 8 images, as the paper averages it: over many images at once the
    gradients of a trained network cancel. Of the paper's places for the gate this is the one after
    norm, activation function and sum, where a removed channel is really missing.
    """
    return rows.gate.sum(dim=1)


def gradient(rows: ChannelRows) -> Tensor:
    """Σ|w·g| over a filter's weights, g the gradient of the mean loss over all images."""
    return (rows.weight * rows.gradient).abs().sum(dim=1)


CRITERIA.add(
    "taylor",
    Criterion(
        taylor,
        ("in",),
        "Molchanov et al., Importance Estimation for Neural Network Pruning, 2019",
        across="none",  # in squares of the loss, whatever the layer
        needs=("gates",),
    ),
)
CRITERIA.add(
    "gradient",
    Criterion(
        gradient,
        ("out",),
        "Blalock et al., What is the State of Neural Network Pruning?, 2020",
        needs=("gradients",),
    ),
)
