"""A tensor as one number: its product with a random vector along each axis.

Along an axis that is cut only the places that survive count. Two tensors that differ agree under
such a product with probability zero, so whole passes can be compared and nothing need be kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slimnet.capture.graph import Ref
from slimnet.proof.reference import Scaled, SurvivingPlaces, selected


@dataclass(frozen=True)
class Projection:
    """A tensor as numbers: of what is finite, and of where it is not."""

    shape: tuple[int, ...]
    finite: float
    marks: float = 0.0
    norm: float = 0.0

    def difference(self, other: Projection, norm: float) -> float:
        """Relative to a norm; infinite where shapes, or places of infinite numbers, differ."""
        if self.shape != other.shape or abs(self.marks - other.marks) > _SAME:
            return math.inf
        off = abs(self.finite - other.finite)
        return off / max(norm, abs(self.finite), 1e-30) if off else 0.0


_SAME = 1e-6  # marks are sums of a few random numbers: other places give another sum


class Projector:
    """Multiplies tensors with random vectors, the same ones in every run."""

    def __init__(self, places: SurvivingPlaces, read: frozenset[int], seed: int) -> None:
        self.places = places
        self._read = read
        self._seed = seed
        self._drawn: dict[tuple[int, int, torch.device], Tensor] = {}

    def of_reference(self, x: Tensor, ref: Ref, scaled: Sequence[Scaled]) -> Projection | None:
        """What survives of a result of the original, multiplied as folding does."""
        kept = self.places.of(ref)
        if ref.id not in self._read or not _fits(x, ref, kept):
            return None  # no call reads it, or its length depends on the inputs
        shape = tuple(len(kept[d]) if d in kept else n for d, n in enumerate(x.shape))
        lengths = dict(enumerate(x.shape))
        vectors = [self._vector(d, n, x.device) for d, n in lengths.items()]
        masked = [_only(v, kept[d]) if d in kept else v for d, v in enumerate(vectors)]
        finite = _scaled(_numbers(x), masked, scaled)
        if abs(finite) < _HUGE:
            return Projection(shape, finite)
        alive = selected(x, kept)  # what was removed may be infinite
        chosen = [v[kept[d].to(x.device)] if d in kept else v for d, v in enumerate(vectors)]
        boxes = [(self._chosen_box(box, kept), factor) for box, factor in scaled]
        return _of_parts(alive, chosen, boxes)

    def of_slim(self, x: Tensor, ref: Ref) -> Projection:
        """A result of the slim network, with its norm; of another shape, nothing but that."""
        kept = self.places.of(ref)
        if x.dim() != len(ref.shape):
            return Projection(tuple(x.shape), 0.0)
        vectors = []
        for d, n in enumerate(x.shape):
            places = kept.get(d)
            if places is not None and len(places) != n:
                return Projection(tuple(x.shape), 0.0)
            whole = self._vector(d, n if places is None else ref.shape[d], x.device)
            vectors.append(whole if places is None else whole[places.to(x.device)])
        values = _numbers(x)
        finite = _product(values, vectors)
        if abs(finite) < _HUGE:
            norm = float(torch.linalg.vector_norm(values))
            return Projection(tuple(x.shape), finite, 0.0, norm)
        return _of_parts(x, vectors, ())

    def _vector(self, axis: int, length: int, device: torch.device) -> Tensor:
        """[length] numbers of both signs, each between a half and one and a half in size."""
        key = (axis, length, device)
        if key not in self._drawn:
            draw = torch.Generator().manual_seed(self._seed + 7919 * axis + length)
            sizes = torch.rand(length, generator=draw, dtype=torch.float64) + 0.5
            signs = torch.randint(0, 2, (length,), generator=draw) * 2 - 1
            self._drawn[key] = (sizes * signs).to(device)
        return self._drawn[key]

    @staticmethod
    def _chosen_box(box: Any, kept: Mapping[int, Tensor]) -> Any:
        return tuple(f[kept[d].numpy()] if d in kept else f for d, f in enumerate(box))


_HUGE = 1e100  # beyond, and where it is not finite, numbers are compared by their places alone


def _fits(x: Tensor, ref: Ref, kept: Mapping[int, Tensor]) -> bool:
    """Whether it is the recorded tensor, but for the batch."""
    return x.dim() == len(ref.shape) and all(x.shape[d] == ref.shape[d] for d in kept)


def _numbers(x: Tensor) -> Tensor:
    return x.real.double() + math.pi * x.imag.double() if x.is_complex() else x.double()


def _only(vector: Tensor, places: Tensor) -> Tensor:
    masked = torch.zeros_like(vector)
    places = places.to(vector.device)
    masked[places] = vector[places]
    return masked


def _scaled(x: Tensor, vectors: Sequence[Tensor], scaled: Sequence[Scaled]) -> float:
    """The product of a tensor parts of which are multiplied first."""
    if not scaled:
        return _product(x, vectors)
    (box, factor), *rest = scaled
    inside = [
        v * torch.from_numpy(flags).to(v.device) for v, flags in zip(vectors, box, strict=True)
    ]
    return _scaled(x, vectors, rest) + (factor - 1) * _scaled(x, inside, rest)


def _product(x: Tensor, vectors: Sequence[Tensor]) -> float:
    for vector in reversed(vectors):
        x = x @ vector
    return float(x)


def _of_parts(x: Tensor, vectors: Sequence[Tensor], scaled: Sequence[Scaled]) -> Projection:
    """Numbers of an ordinary size, and the places of all others, by kind."""
    values = _numbers(x)
    ordinary = values.abs() < _HUGE
    finite = torch.where(ordinary, values, 0.0)
    kinds = torch.where(ordinary, 0.0, torch.where(values.isnan(), 3.0, values.sign()))
    return Projection(
        tuple(x.shape),
        _scaled(finite, vectors, scaled),
        _product(kinds, vectors),
        float(torch.linalg.vector_norm(finite)),
    )
