"""Least squares from sums over rows: outputs [O] from inputs [D], in G blocks, with a constant.

What is solved for is a change of a map that is there already, so that a ridge draws towards what it
was. Rows are added a batch at a time and not kept, but for maps of very many inputs: there the rows
are fewer than the unknowns, and the products of rows with each other the smaller matrix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

RIDGE = 1e-3
"""Added to the inputs' variances, in parts of their mean."""

LARGE = 1024
"""More inputs than this are summed in single precision, which halves the memory."""

WIDE = 8192
"""Of more inputs than this, rows are kept."""

PIECE = 1 << 21
"""Numbers in the rows that are worked on at once: 8 MB. Memory for more is mapped anew each time,
and leaves the cache."""

LEAST_PIECE = 1024
"""Rows. Of fewer, to add their products up takes longer than to make them."""

_STRIP = 48
_STRIPS = 8
"""Products of inputs are made strip by strip, of each only what the others have not made."""

CERTAIN = 8
"""Rows for each input, from which on a solution needs no confirmation."""

_TINY = torch.finfo(torch.float32).tiny


def rows_at_once(numbers: int) -> int:
    """How many rows of so many numbers are worked on at once."""
    return max(PIECE // max(numbers, 1), LEAST_PIECE)


class Moments:
    """Sums and products of inputs: what a layer reads."""

    def __init__(self, groups: int, inputs: int, place: torch.device | None = None) -> None:
        self.rows = 0
        kind = torch.float64 if inputs <= LARGE else torch.float32
        self.x = torch.zeros(groups, inputs, dtype=torch.float64, device=place)
        self.xx = torch.zeros(groups, inputs, inputs, dtype=kind, device=place)

    def add(self, x: Tensor) -> None:
        """Add rows [G, n, D]."""
        for part in x.split(rows_at_once(x.shape[0] * x.shape[2]), 1):
            self.rows += part.shape[1]
            self.x += part.sum(1)
            self._add_products(part)

    def _add_products(self, x: Tensor) -> None:
        inputs = x.shape[2]
        step = max(-(-inputs // _STRIPS), _STRIP)
        for start in range(0, inputs, step):
            end = start + step
            made = x[:, :, start:end].mT @ x[:, :, start:]
            self.xx[:, start:end, start:] += made
            self.xx[:, end:, start:end] += made[:, :, step:].mT

    @property
    def finite(self) -> bool:
        """Whether nothing was too large to be squared and summed."""
        return bool(self.xx.isfinite().all())

    def second(self) -> Tensor:
        """[G, D, D]: the mean of x·xᵀ."""
        return self.xx / self.rows

    def covariance(self) -> Tensor:
        """[G, D, D]."""
        mean = (self.x / self.rows).to(self.xx.dtype)
        down, across = mean[:, :, None], mean[:, None, :]
        return torch.baddbmm(self.xx, down, across, beta=1 / self.rows, alpha=-1)


class KeptRows:
    """The rows themselves, of a layer that reads very many inputs."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """Add rows [G, n, D]."""
        self._parts.append(x)

    @property
    def finite(self) -> bool:
        """Whether nothing is too large to be squared and summed."""
        return bool(self.all().square().sum().isfinite())

    def all(self) -> Tensor:
        """[G, n, D]."""
        self._parts = [torch.cat(self._parts, 1)]  # asked for again and again
        return self._parts[0]


def moments_of(groups: int, inputs: int, place: torch.device) -> Moments | KeptRows:
    """What to add a layer's inputs to."""
    return KeptRows() if inputs > WIDE else Moments(groups, inputs, place)


def fit_of(weights: Tensor, constants: Tensor) -> Fit:
    """How to change the map ``weights`` [G, O, D], ``constants`` [G, O]."""
    return (WideFit if weights.shape[2] > WIDE else SummedFit)(weights, constants)


class Fit(ABC):
    """What a linear map lacks, and the change after which it lacks least."""

    def __init__(self, weights: Tensor, constants: Tensor) -> None:
        """The map as it is: ``weights`` [G, O, D], ``constants`` [G, O]; float64."""
        self.rows = 0
        self._weights, self._constants = weights, constants
        self._lack = torch.zeros_like(constants)
        self._squared = torch.zeros_like(constants)
        self._wanted = torch.zeros_like(constants)
        self._energy = torch.zeros_like(constants)
        self.lower: Tensor | None = None  # of the solution: the Cholesky factor

    def add(self, x: Tensor, wanted: Tensor) -> None:
        """Add rows [n, G, D] and the outputs [n, G·O] that are wanted of them."""
        count = rows_at_once(x[0].numel())
        for part, answers in zip(x.split(count), wanted.split(count), strict=True):
            self._add(*self._lacking(part, answers))

    def _add(self, x: Tensor, wanted: Tensor, lack: Tensor) -> None:
        self.rows += x.shape[1]
        self._lack += lack.sum(1)
        self._squared += lack.square().sum(1)
        self._wanted += wanted.sum(1)
        self._energy += wanted.square().sum(1)
        self._take(x, lack)

    def confirmed(
        self, change: Tensor, constants: Tensor, rows: Iterable[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """[G, O] in 0..1: what part of a change is best on rows that were not added."""
        reach, pull = torch.zeros_like(constants), torch.zeros_like(constants)
        for x, wanted in rows:
            x, _, lack = self._lacking(x, wanted)
            reached = (x @ change.to(x.dtype).mT).double() + constants[:, None]
            pull += (reached * lack).sum(1)
            reach += reached.square().sum(1)
        return (pull / reach.clamp(min=_TINY)).clamp(0.0, 1.0)

    def solve(self, *, constant: bool, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
        """What to add to weights and constants (0 unless asked for) for the least error.

        A block without a solution stays as it is.
        """
        change = self._change(constant, ridge).double()
        good = change.isfinite().all(2).all(1)
        change = torch.where(good[:, None, None], change, 0.0)
        if not constant:
            return change, torch.zeros_like(self._lack)
        reached = (change @ self._sum()[:, :, None])[:, :, 0]
        return change, (self._lack - reached) / self.rows

    @property
    def certain(self) -> bool:
        """Whether there are rows enough to take the solution as it is."""
        return self.rows >= CERTAIN * self._weights.shape[2]

    @property
    @abstractmethod
    def finite(self) -> bool:
        """Whether nothing that was added was too large to be squared and summed."""

    @property
    def mean(self) -> Tensor:
        """[G, D]: of the inputs."""
        return self._sum() / self.rows

    def error(self, change: Tensor | None = None, constants: Tensor | None = None) -> float:
        """Mean squared lack over the variance of what is wanted; after a change, if given one."""
        n = self.rows
        spread = float((self._energy / n - (self._wanted / n).square()).sum())
        squared = float(self._squared.sum()) / n
        if change is not None and constants is not None:
            reached = (change @ self._sum()[:, :, None])[:, :, 0]
            shift = constants * (constants + 2 * (reached - self._lack) / n)
            squared += self._gain(change) + float(shift.sum())
        return max(squared, 0.0) / spread if spread > 0 else 0.0

    def _lacking(self, x: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By block: rows [G, n, D], what is wanted of them, and what the map lacks [G, n, O]."""
        x = x.transpose(0, 1)
        wanted = wanted.unflatten(1, (len(x), -1)).transpose(0, 1).double()
        said = (x @ self._weights.to(x.dtype).mT).double() + self._constants[:, None]
        return x, wanted, wanted - said

    @abstractmethod
    def _take(self, x: Tensor, lack: Tensor) -> None:
        """Remember rows [G, n, D] and what is lacking there [G, n, O]."""

    @abstractmethod
    def _sum(self) -> Tensor:
        """[G, D]: of the rows."""

    @abstractmethod
    def _change(self, constant: bool, ridge: float) -> Tensor:
        """[G, O, D]."""

    @abstractmethod
    def _gain(self, change: Tensor) -> float:
        """How the mean squared lack changes with the weights, constants aside."""


class SummedFit(Fit):
    """From the products of inputs: normal equations."""

    def __init__(self, weights: Tensor, constants: Tensor) -> None:
        super().__init__(weights, constants)
        groups, outputs, inputs = weights.shape
        self._moments = Moments(groups, inputs, weights.device)
        self._product = self._moments.xx.new_zeros(groups, inputs, outputs)

    @property
    def finite(self) -> bool:
        """See :class:`Fit`."""
        return self._moments.finite and bool(self._squared.isfinite().all())

    def _take(self, x: Tensor, lack: Tensor) -> None:
        self._moments.add(x)
        self._product += x.mT @ lack.to(x.dtype)

    def _sum(self) -> Tensor:
        return self._moments.x

    def _change(self, constant: bool, ridge: float) -> Tensor:
        xx = self._moments.covariance() if constant else self._moments.second()
        right = self._product / self.rows
        if constant:
            x, lack = self._moments.x / self.rows, self._lack / self.rows
            right = right - (x[:, :, None] * lack[:, None, :]).to(right.dtype)
        diagonal = xx.diagonal(dim1=1, dim2=2)
        diagonal += ridge * diagonal.mean(1, keepdim=True) + _TINY
        lower, failed = torch.linalg.cholesky_ex(xx)
        self.lower = lower if not failed.any() else None
        solved = torch.cholesky_solve(right, lower).mT
        return solved.masked_fill((failed != 0)[:, None, None], torch.inf)

    def _gain(self, change: Tensor) -> float:
        own = (change.to(self._product.dtype) @ self._moments.second()) * change
        cross = change * (self._product / self.rows).mT
        return float((own - 2 * cross).sum())


class WideFit(Fit):
    """From the products of rows with each other, where they are fewer than the inputs."""

    def __init__(self, weights: Tensor, constants: Tensor) -> None:
        super().__init__(weights, constants)
        self._rows, self._lacks = KeptRows(), KeptRows()

    @property
    def finite(self) -> bool:
        """See :class:`Fit`."""
        return self._rows.finite and bool(self._squared.isfinite().all())

    def _take(self, x: Tensor, lack: Tensor) -> None:
        self._rows.add(x)
        self._lacks.add(lack)

    def _sum(self) -> Tensor:
        return self._rows.all().sum(1).double()

    def _change(self, constant: bool, ridge: float) -> Tensor:
        x, lack = self._rows.all(), self._lacks.all()
        if constant:
            x, lack = x - x.mean(1, keepdim=True), lack - lack.mean(1, keepdim=True)
        products = (x @ x.mT).double() / self.rows
        diagonal = products.diagonal(dim1=1, dim2=2)
        diagonal += ridge * diagonal.sum(1, keepdim=True) / x.shape[2] + _TINY
        solved = torch.linalg.solve(products, lack) / self.rows
        change: Tensor = solved.to(x.dtype).mT @ x
        return change

    def _gain(self, change: Tensor) -> float:
        x, lack = self._rows.all(), self._lacks.all()
        reached = (x @ change.to(x.dtype).mT).double()
        return float((reached * (reached - 2 * lack)).sum()) / self.rows
