"""Criteria by reconstruction error: how far the outputs of the next layers change.

All three look at the layers that read a group's channels. With the second moments H of a layer's
inputs and its weights W, the error of its output is quadratic in the channels that are missing, so
that no sample is kept. Where several layers read a group, their errors are added up, each over the
variance of the output, or of the sum that the output is added into. Channels are removed one after
the other; the score of one is the error that its removal adds.

Where the other weights are solved anew, errors late in the network count more across groups: what
early layers lose, later ones make up for in part when they are repaired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from slimnet.coupling.groups import Group, ParameterAxis
from slimnet.coupling.removal import of_elements
from slimnet.criteria import CRITERIA, Scores
from slimnet.errors import InputError
from slimnet.reconstruction.least_squares import RIDGE, KeptRows
from slimnet.statistics.moments import InputMoments
from slimnet.statistics.statistics import Need, Statistics

LATE = 2.0
"""Where the others are solved anew, an error in the last layer counts 1 + LATE times one in the
first. Of 0, 0.5, 1, 2, 4 and 5 the one that left ResNet-56 most accurate when half its MACs had
gone and it was repaired."""


@dataclass(frozen=True, eq=False)
class Problem:
    """One layer that reads a group: E = tr(V·H·Vᵀ) for the weights V that are missing."""

    second: Tensor  # [D, D]: H
    weights: Tensor  # [O, D], over the root of the variance that an error is measured in
    columns: Tensor  # [D]: the atom that each column belongs to; -1 for another group's


_Removals: TypeAlias = tuple[Sequence[int], Sequence[float]]
"""Atoms in the order in which they are removed, and the error after each."""


@dataclass(frozen=True)
class Reconstruction:
    """A way to choose atoms one after the other, so that their readers lose least."""

    choose: Callable[[Sequence[Problem], int], _Removals]
    source: str
    centred: bool  # a constant makes up for lost means, where there is one to change
    late: float = 0.0  # what an error in the last layer counts, beyond one in the first
    roles: tuple[str, ...] = ("in",)
    across: str = "none"
    needs: tuple[Need, ...] = ("inputs",)

    def scores(
        self,
        group: Group,
        tensors: Mapping[str, Tensor],
        statistics: Statistics,
        generator: torch.Generator,
    ) -> Scores | None:
        """[atoms]: the error that each adds when it goes, in the order of going."""
        problems = list(self._problems(group, tensors, statistics))
        if not problems:
            return None
        order, errors = self.choose(problems, group.size)
        added = np.maximum.accumulate(np.diff(errors, prepend=0.0).clip(min=0.0))
        steps = np.arange(len(added)) * np.finfo(np.float32).tiny  # of equals, the first goes first
        scores = np.empty(group.size)
        scores[list(order)] = added + steps
        return scores

    def _problems(
        self, group: Group, tensors: Mapping[str, Tensor], statistics: Statistics
    ) -> Iterator[Problem]:
        for axis in group.axes:
            moments = statistics.inputs.get(axis.name)
            if axis.role == "in" and moments is not None and moments.spread > 0:
                yield from self._blocks(axis, moments, tensors[axis.name])

    def _blocks(
        self, axis: ParameterAxis, moments: InputMoments, weight: Tensor
    ) -> Iterator[Problem]:
        """One problem for each block of a grouped layer."""
        matrix = moments.form.matrix(weight.detach())
        if moments.scale is not None:
            scale = moments.scale.to(matrix.dtype).reshape(matrix.shape[0], -1, 1)
            matrix = matrix * scale
        matrix = matrix * ((1 + self.late * moments.depth) / moments.spread) ** 0.5
        centred = self.centred and moments.shifts
        columns = moments.form.matrix(_atoms(axis, weight))[:, 0]
        if isinstance(moments.sums, KeptRows):
            yield from _gates(moments.sums.all(), matrix, columns, centred)
            return
        seconds = moments.sums.covariance() if centred else moments.sums.second()
        for block in range(len(matrix)):
            if bool((columns[block] >= 0).any()):
                second = seconds[block]
                yield Problem(second, matrix[block].to(second.dtype), columns[block])


def _atoms(axis: ParameterAxis, weight: Tensor) -> Tensor:
    """Of each element of a weight, the atom that it belongs to; -1 for none of the group."""
    along = torch.full((weight.shape[axis.dim] * axis.groups,), -1)
    along[torch.from_numpy(axis.positions)] = torch.from_numpy(axis.members)
    return of_elements(along, weight.shape, axis.dim, axis.groups).to(weight.device)


def _gates(rows: Tensor, matrix: Tensor, columns: Tensor, centred: bool) -> Iterator[Problem]:
    """Of a layer of very many inputs: one weight for each atom, a gate, and what passes it.

    The products of what passes are summed over some of the outputs.
    """
    some = torch.linspace(0, matrix.shape[1] - 1, min(_OUTPUTS, matrix.shape[1])).long().unique()
    for x, weights, atoms in zip(rows, matrix, columns, strict=True):
        here = atoms >= 0
        names, place = atoms[here].unique(return_inverse=True)
        products = torch.zeros(len(names), len(names), dtype=torch.float64, device=x.device)
        for row in weights[some]:
            passes = x.new_zeros(len(x), len(names)).index_add_(1, place, (x * row)[:, here])
            passes = passes - passes.mean(0) if centred else passes
            products += (passes.mT @ passes).double()
        scale = len(x) * len(some) / len(weights)
        yield Problem(products / scale, products.new_ones(1, len(names)), names)


_OUTPUTS = 64


def contributions(problem: Problem, size: int) -> Tensor:
    """[atoms, atoms] float64: the mean product of what two atoms contribute, over all outputs."""
    both = (problem.weights.mT @ problem.weights) * problem.second
    belongs = problem.columns[None] == torch.arange(size, device=both.device)[:, None]
    summed = belongs.to(both.dtype) @ both @ belongs.to(both.dtype).mT
    return summed.double().cpu()


def _all_contributions(problems: Sequence[Problem], size: int) -> Tensor:
    return torch.stack([contributions(problem, size) for problem in problems]).sum(0)


def thinet(problems: Sequence[Problem], size: int) -> _Removals:
    """Each time the atom with which the sum of all that is missing has the least energy."""
    products = _all_contributions(problems, size)
    energy = products.diagonal().clone()  # of what is missing, with each atom added
    order: list[int] = []
    errors: list[float] = []
    for _ in range(size):
        atom = int(energy.argmin())
        missing = float(energy[atom])
        order.append(atom)
        errors.append(max(missing, errors[-1] if errors else 0.0))
        energy = missing + products.diagonal() + 2 * products[order].sum(0)
        energy[order] = torch.inf
    return order, errors


def lasso(problems: Sequence[Problem], size: int) -> _Removals:
    """A gate on every atom under an L1 penalty: the first gate to close for good goes first.

    The penalty at which a gate closes is where it enters the path from the other side; it stands
    for the error.
    """
    from sklearn.linear_model import lars_path_gram  # takes a second to import

    products = _all_contributions(problems, size).numpy()
    penalties, _, gates = lars_path_gram(
        products.sum(1), products, n_samples=1, method="lasso", alpha_min=0
    )
    opened = gates != 0
    first = np.where(opened.any(1), opened.argmax(1), len(penalties) - 1)
    closes = np.where(opened.any(1), penalties[np.maximum(first - 1, 0)], 0.0)
    order = np.argsort(closes, kind="stable")
    return order.tolist(), np.cumsum(closes[order]).tolist()


def surgeon(problems: Sequence[Problem], size: int) -> _Removals:
    """Each time the atoms that least squares makes up for best; the others' weights follow.

    Removing the columns S costs tr(W_S [H⁻¹]_SS⁻¹ W_Sᵀ) once all others are solved anew.
    """
    readers = [_Elimination(problem, size) for problem in problems]
    alive = np.ones(size, bool)
    order: list[int] = []
    errors: list[float] = []
    while alive.any():
        costs = torch.stack([reader.costs() for reader in readers]).sum(0).numpy()
        costs[~alive] = np.inf
        at_once = max(int(alive.sum()) // _AT_ONCE, 1)
        leave = np.argsort(costs, kind="stable")[:at_once]
        added = sum(reader.remove(leave.tolist()) for reader in readers)
        parts = np.cumsum(costs[leave]) / max(costs[leave].sum(), _TINY)
        before = errors[-1] if errors else 0.0
        errors += (before + added * parts).tolist()
        order += leave.tolist()
        alive[leave] = False
    return order, errors


_AT_ONCE = 64
"""Of twice as many atoms and more, several go before the costs are looked at again."""
_TINY = 1e-300


def inverse(second: Tensor) -> Tensor:
    """Of a matrix of second moments with the ridge on its diagonal, more where that is too little.

    What is so flat that rounding makes it negative is a direction that nothing is read from. Raises
    :class:`InputError` for moments that are no numbers, of which no ridge makes any.
    """
    if not bool(second.isfinite().all()):
        raise InputError("what a layer reads is too large to be squared and summed")
    unit = second.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    ridge, failed = RIDGE, 1
    while failed:
        lower, info = torch.linalg.cholesky_ex(
            second + ridge * unit * torch.eye(len(second)).to(second)
        )
        ridge, failed = 10 * ridge, int(info)
    return torch.cholesky_inverse(lower)


class _Elimination:
    """One layer's inverse Hessian and weights while atoms leave."""

    def __init__(self, problem: Problem, size: int) -> None:
        self._inverse = inverse(problem.second)  # [d, d] of the d columns that are left
        self._weights = problem.weights  # [O, d]
        self._atoms = problem.columns  # [d]: whose they are; -1 for another group's
        self._size = size

    def costs(self) -> Tensor:
        """[atoms] float64: the error that each would add; 0 for those it does not read."""
        costs = torch.zeros(self._size, dtype=torch.float64)
        for atoms, columns in self._alike():
            blocks = self._inverse[columns[:, :, None], columns[:, None, :]]
            weights = self._weights[:, columns].transpose(0, 1)  # [atoms, O, k]
            solved = torch.linalg.solve(blocks, weights.mT)
            costs[atoms.cpu()] = (weights.mT * solved).sum((1, 2)).double().cpu()
        return costs

    def _alike(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Atoms [n] that have the same number k of columns, and these [n, k]."""
        columns = self._atoms.argsort(stable=True)
        atoms, counts = self._atoms.unique(return_counts=True)
        starts = counts.cumsum(0) - counts
        for count in counts[atoms >= 0].unique():
            these = (counts == count) & (atoms >= 0)
            along = torch.arange(int(count), device=columns.device)
            yield atoms[these], columns[starts[these][:, None] + along]

    def remove(self, atoms: Sequence[int]) -> float:
        """Solve for the others; gives the error that this adds."""
        leave = torch.isin(self._atoms, torch.tensor(atoms, device=self._atoms.device))
        gone, left = leave.nonzero().flatten(), (~leave).nonzero().flatten()
        if not len(gone):
            return 0.0
        block = torch.linalg.inv(self._inverse[gone[:, None], gone])
        across = self._inverse[gone[:, None], left]
        missing = self._weights[:, gone]
        pull = missing @ block
        self._weights = self._weights[:, left].addmm_(pull, across, alpha=-1)
        kept = self._inverse[left[:, None], left]
        self._inverse = kept.addmm_(across.mT, block @ across, alpha=-1)
        self._atoms = self._atoms[left]
        return float((pull * missing).sum())


CRITERIA.add(
    "thinet",
    Reconstruction(thinet, "Luo et al., ThiNet, 2017", centred=False),
)
CRITERIA.add(
    "lasso",
    Reconstruction(lasso, "He et al., Channel Pruning, 2017 (its LASSO step)", centred=False),
)
CRITERIA.add(
    "obs",
    Reconstruction(surgeon, "Hassibi & Stork, Optimal Brain Surgeon, 1993, by channel", True, LATE),
)
