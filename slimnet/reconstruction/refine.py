"""Refinement: the layers of a segment change together, so that its output comes nearer to a target.

Least squares of one layer makes the best of the layer's inputs. Those inputs were chosen for a
wider network, so here the layers before it change too: non-linear least squares over a
:class:`~slimnet.reconstruction.segments.Segment`, on the same images, without labels, and towards
the same target, which is the original's output. Weights are whitened by the covariance of what they
are multiplied with, which makes ten steps of limited-memory BFGS enough (Byrd, Lu, Nocedal and Zhu
1995, from SciPy). That the layers of a block are reconstructed together is from Li et al., BRECQ,
2021.

Images that are not solved for decide when to stop, and whether to change anything at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from slimnet.capture.graph import Call
from slimnet.reconstruction.consumers import Consumer
from slimnet.reconstruction.segments import Segment

_Vector: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float64]]"

STEPS = 10
ROWS = 1 << 16
"""Of the output, as far as there are as many."""
ENOUGH = 16
"""Target values for each weight; with fewer, the layers farthest from the last stay as they are."""
PATIENCE = 2
"""Steps that the images held back may find worse, one after the other."""
WORTH = 1e-3
"""Of a layer's error over its output's variance; one that is nearer to the original is left."""


@dataclass(frozen=True, eq=False)
class Whitening:
    """What makes changes of a layer's weights comparable: the moments of its inputs, its scale."""

    lower: Tensor  # [G, D, D]: times its transpose, the inputs' covariance, or second moments
    mean: Tensor | None  # [G, D]; None where a constant cannot make up for a mean
    units: Tensor  # [G, O]: of an output; one over what a batch norm multiplies it with

    def lifted(self, v: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """[G, O, D] and [O]: the change by which the output's variance grows by the squares."""
        units = self.units[:, :, None]
        weights = units * torch.linalg.solve_triangular(self.lower, v, upper=False, left=False)
        shift = self.units.flatten() * shift
        if self.mean is not None:
            shift = shift - (weights @ self.mean[:, :, None]).flatten()
        return weights, shift


@dataclass(frozen=True, eq=False)
class Part:
    """One batch: the calls of its pass, the segment's inputs, and its target outputs."""

    calls: Sequence[Call]
    values: Mapping[int, Tensor]  # the inputs, by number
    targets: Tensor  # [n, O], scaled as the errors are counted

    @cached_property
    def spread(self) -> float:
        """The squared distances of the targets from their mean, summed over all."""
        return max(float((self.targets - self.targets.mean(0)).square().sum()), _TINY)


@dataclass(frozen=True, eq=False)
class WeightUpdate:
    """What to add to one layer of the segment."""

    layer: Consumer
    weight: Tensor  # as the parameter is stored
    constants: Tensor | None  # [O]


def refined(
    segment: Segment,
    parts: Sequence[Part],
    checks: Sequence[Part],
    tensors: Mapping[str, Tensor],
    whitenings: Mapping[str, Whitening],
    scale: Tensor | None,
) -> Sequence[WeightUpdate]:
    """The updates that bring a segment nearest to its targets; none where ``checks`` confirm none.

    Args:
        segment: of the network that is repaired.
        parts: the batches that are solved for.
        checks: batches that are not; the step that comes nearest to their targets is taken.
        tensors: of the network that is repaired, by name; they stay as they are.
        whitenings: by the name of a layer's weight; one without stays as it is.
        scale: [O] of an output, where errors are counted after a norm.
    """
    layers = _within(segment, tensors, whitenings, sum(part.targets.numel() for part in parts))
    if not layers:
        return ()
    from scipy.optimize import minimize  # 0.15 s to import: only a repair waits for it

    problem = _Problem(segment, layers, tensors, whitenings, scale)
    best, least = None, problem.loss(problem.start, checks)
    worse = 0

    def look(x: _Vector) -> None:
        nonlocal best, least, worse
        error = problem.loss(x, checks)
        worse = 0 if error < least else worse + 1
        if error < least:
            best, least = x.copy(), error
        if worse == PATIENCE:
            raise StopIteration

    minimize(  # type: ignore[call-overload]
        lambda x: problem.slope(x, parts),
        problem.start,
        jac=True,
        method="L-BFGS-B",
        callback=look,
        options={"maxiter": STEPS, "maxcor": STEPS},
    )
    return problem.updates(best) if best is not None else ()


def _within(
    segment: Segment,
    tensors: Mapping[str, Tensor],
    whitenings: Mapping[str, Whitening],
    values: int,
) -> Sequence[Consumer]:
    """The last layers, as many as so many values determine; none where only the very last is."""
    whitened = [layer for layer in segment.layers if layer.weight in whitenings]
    sizes = np.cumsum([tensors[layer.weight].numel() for layer in reversed(whitened)])
    count = int(np.searchsorted(sizes * ENOUGH, values, side="right"))
    layers = whitened[len(whitened) - count :]
    return layers if layers and layers[0] is not segment.layers[-1] else ()


class _Problem:
    """The segment's error as a function of whitened changes of some layers, one vector."""

    def __init__(
        self,
        segment: Segment,
        layers: Sequence[Consumer],
        tensors: Mapping[str, Tensor],
        whitenings: Mapping[str, Whitening],
        scale: Tensor | None,
    ) -> None:
        self._segment = segment
        self._tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        self._layers = layers
        self._whitenings = [whitenings[layer.weight] for layer in layers]
        self._last = segment.layers[-1]
        self._scale = scale if scale is None else scale.to(self._tensors[self._last.weight])
        self._zeros = [zero for layer in self._layers for zero in self._of(layer)]
        self.start = np.zeros(sum(zero.numel() for zero in self._zeros))

    def loss(self, x: _Vector, parts: Sequence[Part]) -> float:
        """Mean squared error over the variance of the targets."""
        whole = sum(part.spread for part in parts)
        with torch.no_grad():
            lifted = self._lifted(self._split(x))
            return sum(float(self._squares(lifted, part)) for part in parts) / whole

    def slope(self, x: _Vector, parts: Sequence[Part]) -> tuple[float, _Vector]:
        """The loss and its gradient."""
        whole = sum(part.spread for part in parts)
        variables = [v.requires_grad_() for v in self._split(x)]
        with torch.enable_grad():
            lifted = self._lifted(variables)
            leaves = [y.detach().requires_grad_() for y in lifted]
            total = 0.0
            for part in parts:  # one graph at a time
                loss = self._squares(leaves, part) / whole
                loss.backward()
                total += float(loss.detach())
            used = [(y, leaf.grad) for y, leaf in zip(lifted, leaves, strict=True)]
            used = [(y, grad) for y, grad in used if grad is not None]
            torch.autograd.backward([y for y, _ in used], [grad for _, grad in used])
        slopes = [torch.zeros_like(v) if v.grad is None else v.grad for v in variables]
        return total, torch.cat([slope.flatten() for slope in slopes]).double().cpu().numpy()

    def updates(self, x: _Vector) -> list[WeightUpdate]:
        """The updates that a vector stands for."""
        lifted = self._lifted(self._split(x))
        each = zip(self._layers, lifted[::2], lifted[1::2], strict=True)
        return [
            WeightUpdate(
                layer,
                layer.form.weight(weights, self._tensors[layer.weight].shape),
                constants if layer.shifts else None,
            )
            for layer, weights, constants in each
        ]

    def _of(self, layer: Consumer) -> tuple[Tensor, Tensor]:
        """No change: of the matrix [G, O, D] and of the constants [O]."""
        matrix = torch.zeros_like(layer.form.matrix(self._tensors[layer.weight]))
        return matrix, matrix.new_zeros(matrix.shape[:2].numel())

    def _split(self, x: _Vector) -> list[Tensor]:
        """The whitened changes, of each layer matrix and constants."""
        parts = torch.from_numpy(x).split([zero.numel() for zero in self._zeros])
        return [part.to(z).reshape(z.shape) for part, z in zip(parts, self._zeros, strict=True)]

    def _lifted(self, variables: Sequence[Tensor]) -> list[Tensor]:
        """Of each layer the change of the matrix [G, O, D] and of the constants [O]."""
        each = zip(self._whitenings, variables[::2], variables[1::2], strict=True)
        return [y for whitening, v, shift in each for y in whitening.lifted(v, shift)]

    def _squares(self, lifted: Sequence[Tensor], part: Part) -> Tensor:
        """The squared errors of the segment's outputs, summed."""
        tensors, constants = dict(self._tensors), {}
        for layer, weights, shift in zip(self._layers, lifted[::2], lifted[1::2], strict=True):
            weight = tensors[layer.weight]
            tensors[layer.weight] = weight + layer.form.weight(weights, weight.shape)
            if layer.shifts:
                constants[layer.call.index] = _along_channels(shift, layer)
        results = self._segment.run(part.calls, part.values, tensors, constants)
        outputs = self._last.form.outputs(results[self._last.call.outputs[0].id], None)
        outputs = outputs if self._scale is None else outputs * self._scale
        return (outputs - part.targets).square().sum()


def _along_channels(constants: Tensor, layer: Consumer) -> Tensor:
    """[O], shaped so that it is added to the layer's output."""
    shape = [1] * len(layer.call.outputs[0].shape)
    shape[layer.form.axis] = -1
    return constants.reshape(shape)


_TINY = 1e-30
