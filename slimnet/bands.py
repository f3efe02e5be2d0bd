"""Convolutions in float64 a band of rows at a time.

PyTorch unfolds the input of a float64 convolution into a matrix as many times larger as its kernel
has elements. A proof must not need that much memory: a band of output rows reads few input rows.
"""

from __future__ import annotations

from math import ceil, prod

import torch
from torch import Tensor
from torch.nn.functional import pad

LARGEST = 1 << 19
"""Elements of the unfolded input of one band (4 MiB in float64)."""

_convolution = torch.ops.aten.convolution.default


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor:
    """``aten.convolution``, in bands along the first spatial axis where that saves memory."""
    border, parts = padding, [x]
    if not transposed and x.dim() == weight.dim() and not x.is_cuda:
        parts = _bands(x, weight, stride, padding, dilation)
    if len(parts) > 1:
        border = [0, *_each(padding, weight)[1:]]
    rest = (stride, border, dilation, transposed, output_padding, groups)
    results = [_convolution(part, weight, bias, *rest) for part in parts]
    return torch.cat(results, 2) if len(results) > 1 else results[0]


def _bands(
    x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int]
) -> list[Tensor]:
    """What each band of output rows reads: views of one padded input, or the input as it is."""
    kernel = weight.shape[2:]
    lengths = [
        _length(
            n, k, stride[i % len(stride)], padding[i % len(padding)], dilation[i % len(dilation)]
        )
        for i, (n, k) in enumerate(zip(x.shape[2:], kernel, strict=True))
    ]
    unfolded = x.shape[1] * prod(kernel) * prod(lengths)
    number = min(ceil(unfolded / LARGEST), lengths[0])
    if number <= 1 or prod(kernel) == 1:
        return [x]
    padded = pad(x, [0, 0] * (len(kernel) - 1) + [padding[0]] * 2)
    rows, reach = ceil(lengths[0] / number), dilation[0] * (kernel[0] - 1) + 1
    return [
        padded[:, :, first * stride[0] : (min(first + rows, lengths[0]) - 1) * stride[0] + reach]
        for first in range(0, lengths[0], rows)
    ]


def _each(values: list[int], weight: Tensor) -> list[int]:
    """One number for each spatial axis; a single one stands for all."""
    return values * (weight.dim() - 2) if len(values) == 1 else values


def _length(length: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Of one output axis."""
    return (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
