"""What each layer reads, as second moments: the statistics of choosing by reconstruction error.

One pass of the network over all images, in lockstep; of each convolution and linear map the
products of its inputs with each other are summed at a random grid of places, and how much the
sum varies that its output goes into.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimnet.consumers import Consumer, Form, Places, consumers_of, grid
from slimnet.least_squares import WIDE, Moments, Rows, moments_of
from slimnet.lockstep import Stop, Walk, meet, walking
from slimnet.modules import named_tensors
from slimnet.trace import capture
from slimnet.watch import Watch, unwatched

ROWS = 32
"""Rows for each unknown of an output, as far as there are as many."""
LEAST_ROWS = 1 << 15
KEPT_ROWS = 1 << 12
"""Rows of a layer with so many inputs that they are kept."""
_PIXELS = 1 << 17


@dataclass(frozen=True, eq=False)
class Reading:
    """What one layer reads, and what its answer is worth."""

    form: Form
    moments: Moments | Rows
    scale: Tensor | None  # [outputs]: of the batch norm over its output
    spread: float  # variance of what its output becomes part of, over all channels
    shifts: bool  # whether a constant can make up for a lost mean


def batch_of(images: Tensor) -> int:
    """How many images run at once: as many as have 128 thousand pixels."""
    return max(_PIXELS // max(images[0, 0].numel(), 1), 1)


def rows_grid(stops: Sequence[Stop], unknowns: int, generator: torch.Generator) -> Places:
    """Which places of a layer's output are looked at, for so many unknowns of each output."""
    sizes = stops[0].result.shape[2:]
    images = sum(len(stop.result) for stop in stops)
    rows = max(ROWS * unknowns, LEAST_ROWS) if unknowns <= WIDE else KEPT_ROWS
    wanted = rows // images + 1
    return grid(sizes, wanted, generator) if len(sizes) else None


def read_inputs(
    model: nn.Module,
    images: Tensor,
    *,
    seed: int = 0,
    watch: Watch = unwatched,
) -> dict[str, Reading]:
    """For every convolution and linear map, by the name of its weight, what it reads.

    ``images`` [N, C, H, W], normalised. Raises :class:`CaptureError` where the batches do not run
    the same calls.
    """
    batches = images.split(batch_of(images))
    trace = capture(model, (batches[0],))
    consumers = {c.call.index: c for c in consumers_of(trace)}
    stops = {i: frozenset([c.other.id] if c.other else []) for i, c in consumers.items()}
    walks = [Walk(model, (part,), trace, stops, after=True) for part in batches]
    tensors = dict(named_tensors(model))
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Reading] = {}
    with torch.no_grad(), walking(walks, [model]):
        while met := meet(walks):
            consumer = consumers[met[0].call.index]
            watch(f"reading what {consumer.weight} is given", len(found) / len(consumers))
            scale = consumer.norm.scale(tensors) if consumer.norm is not None else None
            matrix = consumer.form.matrix(tensors[consumer.weight])
            found[consumer.weight] = _reading(consumer, matrix, scale, met, generator)
    return found


def _reading(
    consumer: Consumer,
    matrix: Tensor,
    scale: Tensor | None,
    stops: Sequence[Stop],
    generator: torch.Generator,
) -> Reading:
    form = consumer.form
    places = rows_grid(stops, matrix.shape[2], generator)
    moments = moments_of(matrix.shape[0], matrix.shape[2], matrix.device)
    sums = []
    for stop in stops:
        moments.add(form.rows(stop.args[consumer.place], places).transpose(0, 1))
        output = form.outputs(stop.result, places)
        total = output if scale is None else output * scale.to(output.dtype)
        if consumer.other is not None:
            total = total + form.outputs(stop.kept[consumer.other.id], places)
        sums.append(total)
    spread = float(torch.cat(sums).double().var(0, correction=0).sum())
    shifts = consumer.bias is not None or consumer.norm is not None
    return Reading(form, moments, scale, spread, shifts)
