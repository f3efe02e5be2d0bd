"""Criteria that read activations: the inputs of the layers that a channel goes into.

A channel is looked at where convolutions and linear layers read it. So the norm, the activation
function and the pooling in between count, whatever the network is made of.
"""

from __future__ import annotations

from torch import Tensor

from slimnet.criteria import CRITERIA, ChannelRows, Criterion


def mean_activation(rows: ChannelRows) -> Tensor:
    """The mean of |x| over all images and positions."""
    return rows.activation[:, 0]


def share_of_nonzeros(rows: ChannelRows) -> Tensor:
    """1 − APoZ: the share of images and positions at which a channel is not zero."""
    return 1 - rows.activation[:, 1]


CRITERIA.add(
    "mean-activation",
    Criterion(
        mean_activation,
        ("in",),
        "Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient "
        "Inference, 2017",
        needs=("activations",),
        reduce="mean",
        pool="mean",
    ),
)
CRITERIA.add(
    "apoz",
    Criterion(
        share_of_nonzeros,
        ("in",),
        "Hu et al., Network Trimming, 2016",
        needs=("activations",),
        reduce="mean",
        pool="mean",
    ),
)
