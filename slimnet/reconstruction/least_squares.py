"""Least squares from sums over rows: outputs [O] from inputs [D], in G blocks, with a constant.

The unknown is a *change* of a linear map that is there already, so that the ridge penalty draws the
map towards what it was. Rows are added batch by batch, and only their sums are kept. For maps of
very many inputs the rows themselves are kept: there they are fewer than the unknowns, and the
matrix of their products with each other is the smaller one.
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
    """The residual of a linear map (target − output), and the change that makes it smallest."""

    def __init__(self, weights: Tensor, constants: Tensor) -> None:
        """The map as it is: ``weights`` [G, O, D], ``constants`` [G, O]; float64."""
        self.rows = 0
        self._weights, self._constants = weights, constants
        self._residual_sum = torch.zeros_like(constants)
        self._residual_squares = torch.zeros_like(constants)
        self._target_sum = torch.zeros_like(constants)
        self._target_squares = torch.zeros_like(constants)
        self.lower: Tensor | None = None  # of the solution: the Cholesky factor

    def add(self, x: Tensor, targets: Tensor) -> None:
        """Add rows [n, G, D] and their target outputs [n, G·O]."""
        count = rows_at_once(x[0].numel())
        for part, part_targets in zip(x.split(count), targets.split(count), strict=True):
            self._add(*self._with_residuals(part, part_targets))

    def _add(self, x: Tensor, targets: Tensor, residual: Tensor) -> None:
        self.rows += x.shape[1]
        self._residual_sum += residual.sum(1)
        self._residual_squares += residual.square().sum(1)
        self._target_sum += targets.sum(1)
        self._target_squares += targets.square().sum(1)
        self._keep(x, residual)

    def confirmed(
        self, change: Tensor, constants: Tensor, rows: Iterable[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """[G, O] in 0..1: the part of a change that is best on rows that were not added."""
        squares, overlap = torch.zeros_like(constants), torch.zeros_like(constants)
        for x, targets in rows:
            x, _, residual = self._with_residuals(x, targets)
            added = (x @ change.to(x.dtype).mT).double() + constants[:, None]
            overlap += (added * residual).sum(1)
            squares += added.square().sum(1)
        return (overlap / squares.clamp(min=_TINY)).clamp(0.0, 1.0)

    def solve(self, *, constant: bool, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
        """What to add to weights and constants (0 unless asked for) for the least error.

        A block without a solution stays as it is.
        """
        change = self._change(constant, ridge).double()
        good = change.isfinite().all(2).all(1)
        change = torch.where(good[:, None, None], change, 0.0)
        if not constant:
            return change, torch.zeros_like(self._residual_sum)
        added = (change @ self._sum()[:, :, None])[:, :, 0]
        return change, (self._residual_sum - added) / self.rows

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
        """Mean squared residual over the variance of the targets; after a change, if given one."""
        n = self.rows
        spread = float((self._target_squares / n - (self._target_sum / n).square()).sum())
        squared = float(self._residual_squares.sum()) / n
        if change is not None and constants is not None:
            added = (change @ self._sum()[:, :, None])[:, :, 0]
            shift = constants * (constants + 2 * (added - self._residual_sum) / n)
            squared += self._gain(change) + float(shift.sum())
        return max(squared, 0.0) / spread if spread > 0 else 0.0

    def _with_residuals(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By block: rows [G, n, D], their targets and the map's residuals, both [G, n, O]."""
        x = x.transpose(0, 1)
        targets = targets.unflatten(1, (len(x), -1)).transpose(0, 1).double()
        outputs = (x @ self._weights.to(x.dtype).mT).double() + self._constants[:, None]
        return x, targets, targets - outputs

    @abstractmethod
    def _keep(self, x: Tensor, residual: Tensor) -> None:
        """Keep of rows [G, n, D] and their residuals [G, n, O] what the solution needs."""

    @abstractmethod
    def _sum(self) -> Tensor:
        """[G, D]: of the rows."""

    @abstractmethod
    def _change(self, constant: bool, ridge: float) -> Tensor:
        """[G, O, D]."""

    @abstractmethod
    def _gain(self, change: Tensor) -> float:
        """How the mean squared residual changes with the weights, constants aside."""


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
        return self._moments.finite and bool(self._residual_squares.isfinite().all())

    def _keep(self, x: Tensor, residual: Tensor) -> None:
        self._moments.add(x)
        self._product += x.mT @ residual.to(x.dtype)

    def _sum(self) -> Tensor:
        return self._moments.x

    def _change(self, constant: bool, ridge: float) -> Tensor:
        xx = self._moments.covariance() if constant else self._moments.second()
        right = self._product / self.rows
        if constant:
            x, residual = self._moments.x / self.rows, self._residual_sum / self.rows
            right = right - (x[:, :, None] * residual[:, None, :]).to(right.dtype)
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
        self._rows, self._residuals = KeptRows(), KeptRows()

    @property
    def finite(self) -> bool:
        """See :class:`Fit`."""
        return self._rows.finite and bool(self._residual_squares.isfinite().all())

    def _keep(self, x: Tensor, residual: Tensor) -> None:
        self._rows.add(x)
        self._residuals.add(residual)

    def _sum(self) -> Tensor:
        return self._rows.all().sum(1).double()

    def _change(self, constant: bool, ridge: float) -> Tensor:
        x, residual = self._rows.all(), self._residuals.all()
        if constant:
            x, residual = x - x.mean(1, keepdim=True), residual - residual.mean(1, keepdim=True)
        products = (x @ x.mT).double() / self.rows
        diagonal = products.diagonal(dim1=1, dim2=2)
        diagonal += ridge * diagonal.sum(1, keepdim=True) / x.shape[2] + _TINY
        solved = torch.linalg.solve(products, residual) / self.rows
        change: Tensor = solved.to(x.dtype).mT @ x
        return change

    def _gain(self, change: Tensor) -> float:
        x, residual = self._rows.all(), self._residuals.all()
        added = (x @ change.to(x.dtype).mT).double()
        return float((added * (added - 2 * residual)).sum()) / self.rows
