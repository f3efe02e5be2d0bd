"""The second moments of what each layer reads, from which reconstruction errors are computed.

The network runs once over all images, its batches in lockstep. Of each convolution and linear map,
the products of its inputs with each other are summed at a random grid of places, and the variance
of its output is taken, or of the sum that its output is added into.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slimnet.capture.trace import Trace, capture
from slimnet.errors import CaptureError, InputError
from slimnet.network import Network
from slimnet.progress import Progress, not_shown
from slimnet.reconstruction.consumers import Consumer, consumers_of
from slimnet.reconstruction.forms import Form, Places, grid
from slimnet.reconstruction.least_squares import WIDE, KeptRows, Moments, moments_of
from slimnet.reconstruction.lockstep import Stop, Walk, together, walking
from slimnet.samples import Samples, as_samples
from slimnet.statistics.batches import does_not_run

ROWS = 32
"""Rows for each unknown of an output, as far as there are as many."""
LEAST_ROWS = 1 << 15
KEPT_ROWS = 1 << 12
"""Rows of a layer with so many inputs that they are kept."""
_PIXELS = 1 << 17
"""Of the images that run at once: more would make activations whose memory is mapped anew."""
_IMAGES = 4
_PART = 1 << 17
"""Numbers of an output that are squared at once."""


@dataclass(frozen=True, eq=False)
class InputMoments:
    """The moments of one layer's inputs, and the variance that errors of its output face."""

    form: Form
    sums: Moments | KeptRows
    scale: Tensor | None  # [outputs]: of the batch norm over its output
    spread: float  # variance of the output, or of the sum that it is added into; of all channels
    shifts: bool  # whether a constant can make up for a lost mean
    depth: float  # where in the pass: 0 for the first layer, 1 for the last


def batch_of(samples: Samples | Tensor) -> int:
    """How many samples run at once: as many as have an eighth of a million places, or 4."""
    return max(_PIXELS // max(as_samples(samples).places, 1), _IMAGES)


def recorded(network: Network, batch: Samples) -> Trace:
    """The pass over some of the samples; :class:`InputError` where there is none."""
    try:
        return capture(network, batch.inputs)
    except CaptureError as error:
        raise does_not_run(network.model, batch, error.__cause__ or error) from error


def overflow(weight: str) -> InputError:
    """The refusal of images on which a layer's sums are no numbers."""
    return InputError(
        f"on the calibration images, what {weight} reads or answers is too large to be squared "
        "and summed: normalise the images as the network takes them"
    )


def rows_grid(
    stops: Sequence[Stop], unknowns: int, generator: torch.Generator, *, least: int = LEAST_ROWS
) -> Callable[[Stop], Places]:
    """Which places of a layer's output are looked at, for so many unknowns of each output."""
    images = sum(len(stop.result) for stop in stops)
    rows = max(ROWS * unknowns, least) if unknowns <= WIDE else KEPT_ROWS
    wanted = rows // images + 1
    grids: dict[tuple[int, ...], Places] = {}

    def places(stop: Stop) -> Places:
        size = tuple(stop.result.shape[2:])
        if size not in grids:
            grids[size] = grid(size, wanted, generator) if size else None
        return grids[size]

    places(stops[0])
    return places


def input_moments(
    network: Network,
    samples: Samples | Tensor,
    *,
    seed: int = 0,
    watch: Progress = not_shown,
) -> dict[str, InputMoments]:
    """For every convolution and linear map, by the name of its weight: the moments of its inputs.

    ``samples`` are on the network's device. Raises :class:`InputError` where the network does not
    run on them, and :class:`CaptureError` where the batches do not run the same calls.
    """
    batches = list(as_samples(samples).batches(batch_of(samples)))
    trace = recorded(network, batches[0])
    consumers = {c.call.index: c for c in consumers_of(trace)}
    totals: dict[int, list[Consumer]] = defaultdict(list)
    for consumer in consumers.values():
        if consumer.total is not None:
            totals[consumer.total.index].append(consumer)
    stops = dict.fromkeys(consumers.keys() | totals.keys(), frozenset[int]())
    walks = [Walk(network.model, part.inputs, trace, stops, after=True) for part in batches]
    reader = _MomentCollector(network.tensors, len(consumers), seed)
    with torch.no_grad(), walking(walks, [network]):
        for (met,) in together(trace, stops, walks):
            index = met[0].call.index
            if index in consumers:
                watch(f"reading what {consumers[index].weight} is given", reader.part)
                reader.read(consumers[index], met)
            for consumer in totals.get(index, ()):
                reader.see_total(consumer, met)
    return reader.moments


class _MomentCollector:
    """Takes the moments of one layer after the other."""

    def __init__(self, tensors: Mapping[str, Tensor], count: int, seed: int) -> None:
        self.moments: dict[str, InputMoments] = {}
        self._tensors = tensors
        self._count = count
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def part(self) -> float:
        """Of all layers, how many have been read (0..1)."""
        return len(self.moments) / self._count

    def read(self, consumer: Consumer, stops: Sequence[Stop]) -> None:
        """Sum up the layer's inputs; its output's variance stands for that of a sum to come."""
        form = consumer.form
        matrix = form.matrix(self._tensors[consumer.weight])
        scale = consumer.norm.scale(self._tensors) if consumer.norm is not None else None
        places = rows_grid(stops, matrix.shape[2], self._generator)
        sums = moments_of(matrix.shape[0], matrix.shape[2], matrix.device)
        for stop in stops:
            for (rows,) in form.pieces(stop.args[consumer.place], places(stop)):
                sums.add(rows.transpose(0, 1))
        spread = _variances(form, stops)
        if not (sums.finite and bool(spread.isfinite().all())):
            raise overflow(consumer.weight)
        self.moments[consumer.weight] = InputMoments(
            form=form,
            sums=sums,
            scale=scale,
            spread=float((spread if scale is None else spread * scale.square()).sum()),
            shifts=consumer.shifts,
            depth=len(self.moments) / max(self._count - 1, 1),
        )

    def see_total(self, consumer: Consumer, stops: Sequence[Stop]) -> None:
        """Take the variance of the sum that a layer's output is added into."""
        spread = float(_variances(consumer.form, stops).sum())
        if not math.isfinite(spread):
            raise overflow(consumer.weight)
        self.moments[consumer.weight] = replace(self.moments[consumer.weight], spread=spread)


def _variances(form: Form, stops: Sequence[Stop]) -> Tensor:
    """[channels] float64: over all images and places."""
    count, total, squared = 0, torch.zeros(()), torch.zeros(())
    axes = range(stops[0].result.dim())
    others = [d for d in axes if d != axes[form.axis]]
    for part in (part for stop in stops for part in _parts(stop.result)):
        values = part.double()
        count += values.numel() // values.shape[form.axis]
        total = total + values.sum(others)
        squared = squared + values.square().sum(others)
    return squared / count - (total / count).square()


def _parts(y: Tensor) -> tuple[Tensor, ...]:
    """Some images at a time, so that what is made of them stays in cache."""
    return torch.split(y, max(_PART // max(y[0].numel(), 1), 1))
