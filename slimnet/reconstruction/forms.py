"""Convolutions and linear maps as matrix products: what least squares works on.

A form cuts an input into the rows that the kernel reads, lays an output out in the same rows, and
turns a weight into the matrix between them and back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from slimnet.reconstruction.least_squares import rows_at_once

Places: TypeAlias = "tuple[Tensor, ...] | None"
"""Indices along each spatial axis of an output; their grid is looked at. None: everywhere."""


class Form(Protocol):
    """How one kind of call is a matrix product, in G blocks (1 unless grouped) of O × D."""

    @property
    def axis(self) -> int:
        """Of the output: that of its channels."""

    def rows(self, x: Tensor, places: Places) -> Tensor:
        """[n, G, D]: what the kernel reads at these places of the output."""

    def outputs(self, y: Tensor, places: Places) -> Tensor:
        """[n, G·O]: the output there; also of another tensor that is laid out like the output."""

    def pieces(self, x: Tensor, places: Places, *outputs: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The rows of an input and what goes with them of each tensor of outputs, part by part.

        A part is small: the memory of larger ones would be mapped anew each time.
        """

    def matrix(self, weight: Tensor) -> Tensor:
        """[G, O, D]: the weight."""

    def weight(self, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        """The inverse of :meth:`matrix`."""

    def output_channels(self, shape: Sequence[int]) -> Tensor:
        """For each element of a weight of this shape: the output channel that it adds to."""


@dataclass(frozen=True)
class Matrix:
    """``x @ weight``, or ``x @ weight.T`` where the parameter is stored [out, in]."""

    turned: bool  # stored [out, in]
    axis: ClassVar[int] = -1

    def rows(self, x: Tensor, places: Places) -> Tensor:
        """[n, 1, D]."""
        return x.reshape(-1, 1, x.shape[-1])

    def outputs(self, y: Tensor, places: Places) -> Tensor:
        """[n, O]."""
        return y.reshape(-1, y.shape[-1])

    def pieces(self, x: Tensor, places: Places, *outputs: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """As many rows as make one."""
        whole = (self.rows(x, places), *(self.outputs(y, places) for y in outputs))
        yield from zip(*(t.split(rows_at_once(x.shape[-1])) for t in whole), strict=True)

    def matrix(self, weight: Tensor) -> Tensor:
        """[1, O, D]."""
        return (weight if self.turned else weight.mT)[None]

    def weight(self, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        """As it is stored."""
        return matrix[0] if self.turned else matrix[0].mT

    def output_channels(self, shape: Sequence[int]) -> Tensor:
        """The row, or the column."""
        return _along(shape, 0 if self.turned else 1)


@dataclass(frozen=True)
class Convolution:
    """A convolution of any number of dimensions, grouped, strided, dilated or transposed.

    A transposed one is an ordinary one of stride 1 with a flipped kernel, over an input whose
    pixels stand ``stride`` apart.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    further: tuple[int, ...]  # output_padding
    groups: int
    axis: ClassVar[int] = 1

    def rows(self, x: Tensor, places: Places) -> Tensor:
        """[n, G, D]: the columns run over the kernel's points, and at each point over the channels.

        So whole runs of channels are copied at once.
        """
        wide = self._widened(x).unflatten(1, (self.groups, -1)).movedim((0, 2), (1, -1))
        lines, read = self._read(x, places)
        wide = _at(lines, wide).flatten(0, -2)  # [G · N · pixels, C / G]
        pictures = torch.arange(self.groups * len(x))[:, None] * prod(map(len, lines))
        runs = wide.index_select(0, (pictures + read).flatten().to(x.device))
        return runs.view(self.groups, -1, wide.shape[1] * prod(self.kernel)).transpose(0, 1)

    def outputs(self, y: Tensor, places: Places) -> Tensor:
        """[n, G·O]."""
        y = y.movedim(1, -1)
        there = y if places is None else _at(places, y)
        return there.reshape(-1, y.shape[-1])

    def pieces(self, x: Tensor, places: Places, *outputs: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """As many images as make one."""
        width = x.shape[1] * prod(self.kernel)
        images = max(rows_at_once(width) // self._count(x, places), 1)
        for part in zip(*(t.split(images) for t in (x, *outputs)), strict=True):
            yield self.rows(part[0], places), *(self.outputs(y, places) for y in part[1:])

    def matrix(self, weight: Tensor) -> Tensor:
        """[G, O, D]."""
        split: Tensor = weight.unflatten(0, (self.groups, -1))
        if self.transposed:  # stored [in, out / groups, *kernel]
            split = split.transpose(1, 2).flip(self._flipped)
        return split.movedim(2, -1).flatten(2)

    def weight(self, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        """As it is stored."""
        split: Tensor = matrix.unflatten(2, (*self.kernel, -1)).movedim(-1, 2)
        if self.transposed:
            split = split.flip(self._flipped).transpose(1, 2)
        return split.reshape(tuple(shape))

    def output_channels(self, shape: Sequence[int]) -> Tensor:
        """The row; of a transposed one, the column within the group of the row."""
        if not self.transposed:
            return _along(shape, 0)
        group = _along(shape, 0) // (shape[0] // self.groups)
        return group * shape[1] + _along(shape, 1)

    @property
    def _flipped(self) -> tuple[int, ...]:
        return tuple(range(3, 3 + len(self.kernel)))

    def _widened(self, x: Tensor) -> Tensor:
        """The input with its border; of a transposed one also with the gaps between its pixels."""
        if not self.transposed:
            return _padded(x, [(p, p) for p in self.padding])
        apart = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], self.stride, strict=True)]
        spread = x.new_zeros(*x.shape[:2], *apart)
        there: tuple[Any, ...] = (..., *(slice(None, None, s) for s in self.stride))
        spread[there] = x
        before = [
            d * (k - 1) - p
            for k, p, d in zip(self.kernel, self.padding, self.dilation, strict=True)
        ]
        return _padded(spread, [(b, b + f) for b, f in zip(before, self.further, strict=True)])

    def _read(self, x: Tensor, places: Places) -> tuple[list[Tensor], Tensor]:
        """What of a widened input is read.

        Along each spatial axis the lines; [places · kernel]: which pixels of the lines' grid.
        """
        count = len(self.kernel)
        lines, read = [], torch.zeros([1] * (2 * count), dtype=torch.long)
        for d, (length, gap) in enumerate(zip(self.kernel, self.dilation, strict=True)):
            step = 1 if self.transposed else self.stride[d]
            at = torch.arange(self._length(x, d)) if places is None else places[d].cpu()
            index = at[:, None] * step + torch.arange(length) * gap
            distinct, index = index.unique(return_inverse=True)
            shape = [1] * (2 * count)
            shape[d], shape[count + d] = index.shape
            read = read * len(distinct) + index.reshape(shape)
            lines.append(distinct)
        return lines, read.flatten()

    def _count(self, x: Tensor, places: Places) -> int:
        """How many places of an image are looked at."""
        if places is not None:
            return prod(map(len, places))
        return prod(self._length(x, d) for d in range(len(self.kernel)))

    def _length(self, x: Tensor, d: int) -> int:
        """Of one spatial axis of the output."""
        n, step = x.shape[2 + d], self.stride[d]
        reach = self.dilation[d] * (self.kernel[d] - 1) + 1
        if self.transposed:
            return (n - 1) * step - 2 * self.padding[d] + reach + self.further[d]
        return (n + 2 * self.padding[d] - reach) // step + 1


def _at(lines: Sequence[Tensor], y: Tensor) -> Tensor:
    """The grid of these lines of a tensor [..., *spatial, C]."""
    spatial = torch.meshgrid([line.to(y.device) for line in lines], indexing="ij")
    there: tuple[Any, ...] = (*[slice(None)] * (y.dim() - len(lines) - 1), *spatial)
    return y[there]


def _padded(x: Tensor, borders: Sequence[tuple[int, int]]) -> Tensor:
    amounts = [amount for border in reversed(borders) for amount in border]
    return pad(x, amounts) if any(amounts) else x


def _along(shape: Sequence[int], axis: int) -> Tensor:
    """Of each element of a tensor, its place along an axis."""
    view = [-1 if d == axis else 1 for d in range(len(shape))]
    return torch.arange(shape[axis]).reshape(view).expand(tuple(shape))


def grid(sizes: Sequence[int], wanted: int, generator: torch.Generator) -> Places:
    """About ``wanted`` places of an output, as a random grid; None where all are wanted."""
    total = prod(sizes)
    if wanted >= total:
        return None
    part = (wanted / total) ** (1 / len(sizes))
    return tuple(
        torch.randperm(n, generator=generator)[: max(round(part * n), 1)].sort().values
        for n in sizes
    )
