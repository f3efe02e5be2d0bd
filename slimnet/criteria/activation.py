"""Criteria that read activations: what the layers after a channel are given of it.

They read the inputs of the convolutions and linear layers that take a channel, so what lies between
(norm, activation function, pooling) counts, whatever the network is made of.
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
