"""Convolutions in float64 a band of rows at a time.

PyTorch unfolds the input of a float64 convolution into a matrix as many times larger as its kernel
has elements. A proof must not need that much memory: a band of output rows reads few input rows.
"""

from __future__ import annotations

from math import prod

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

    def whole(part: Tensor, border: list[int]) -> Tensor:
        rest = (stride, border, dilation, transposed, output_padding, groups)
        found: Tensor = _convolution(part, weight, bias, *rest)
        return found

    kernel = weight.shape[2:]
    if transposed or x.is_cuda or x.dim() != weight.dim() or prod(kernel) == 1:
        return whole(x, padding)
    step, border, gap = (_each(values, weight) for values in (stride, padding, dilation))
    reach = [g * (k - 1) + 1 for g, k in zip(gap, kernel, strict=True)]
    lengths = [
        (n + 2 * b - r) // s + 1
        for n, b, r, s in zip(x.shape[2:], border, reach, step, strict=True)
    ]
    unfolded_row = prod(x.shape[:2]) // groups * prod(kernel) * prod(lengths[1:])  # one group's
    rows = max(LARGEST // max(unfolded_row, 1), 1)
    if rows >= lengths[0]:
        return whole(x, padding)
    result = x.new_empty(x.shape[0], weight.shape[0], *lengths)
    for first in range(0, lengths[0], rows):
        last = min(first + rows, lengths[0])
        part = _read(x, first * step[0] - border[0], (last - 1) * step[0] - border[0] + reach[0])
        result[:, :, first:last] = whole(part, [0, *border[1:]])
    return result


def _read(x: Tensor, low: int, high: int) -> Tensor:
    """Rows ``low`` to ``high`` of the first spatial axis; those outside of it are zero."""
    inside = x[:, :, max(low, 0) : max(high, 0)]
    outside = max(-low, 0), max(high - x.shape[2], 0)
    return pad(inside, [0, 0] * (x.dim() - 3) + list(outside)) if any(outside) else inside


def _each(values: list[int], weight: Tensor) -> list[int]:
    """One number for each spatial axis; a single one stands for all."""
    return values * (weight.dim() - 2) if len(values) == 1 else values
