"""Narrower heads of attention: what the layers around it should answer, and how they are to read.

The original runs once over the images, and the second moments of its queries, keys and attended
values are summed. From these come the projections (:mod:`slimnet.reconstruction.attention`) that
change the logits and the layer after the attention least. Repair then fits the layers to what they
project to, in place of those channels that were left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from slimnet.capture.trace import Trace
from slimnet.network import Network
from slimnet.plan.plan import Plan
from slimnet.reconstruction.attention import Meeting, meetings_of, projections
from slimnet.reconstruction.consumers import Consumer
from slimnet.reconstruction.forms import Form
from slimnet.reconstruction.lockstep import Walk, together, walking
from slimnet.samples import Samples


@dataclass(frozen=True, eq=False)
class Mixing:
    """Of one head: the channels that are left, as mixtures of all that it had."""

    left: Tensor  # [width] int64: channels of the original
    channels: Tensor  # [d]
    weights: Tensor  # [width, d] float64


@dataclass(frozen=True, eq=False)
class Mixings:
    """By the name of a layer's weight: of its output channels, and of the columns that it reads."""

    outputs: dict[str, list[Mixing]] = field(default_factory=dict)
    columns: dict[str, list[Mixing]] = field(default_factory=dict)


def head_mixings(
    network: Network,
    trace: Trace,
    layers: Iterable[Consumer],
    plan: Plan,
    batches: Sequence[Samples],
) -> Mixings:
    """Of the heads that are narrower than they were.

    Args:
        network: the original.
        trace: its pass.
        layers: those of its layers that are repaired.
        plan: says which channels of a head are left.
        batches: the images.
    """
    meetings = [
        (meeting, left)
        for meeting in meetings_of(trace, {layer.call.index: layer for layer in layers})
        if (left := _left(meeting, plan, network.shapes)) is not None
    ]
    found = _moments(network, trace, [meeting for meeting, _ in meetings], batches)
    mixings = Mixings()
    for (meeting, left), moments in zip(meetings, found, strict=True):
        of_right = mixings.columns if meeting.is_of_values else mixings.outputs
        for of_left, others in _mixings(meeting, left, *moments):
            mixings.outputs.setdefault(meeting.left.weight, []).append(of_left)
            of_right.setdefault(meeting.right.weight, []).extend(others)
    return mixings


def left_outputs(layer: Consumer, form: Form, plan: Plan, shape: Sequence[int]) -> Tensor:
    """[O']: the output channels of the original that are left, in the slim network's order.

    ``shape`` is the weight's in the original, ``form`` the layer's as it is cut.
    """
    channels = plan.of(layer.weight).select(layer.form.output_channels(shape))
    return form.matrix(channels)[:, :, 0].flatten()


def left_columns(layer: Consumer, plan: Plan, shape: Sequence[int]) -> Tensor:
    """[D']: the columns of the original's matrix that are left, of a layer in one block."""
    columns = layer.form.matrix(torch.empty(shape, device="meta")).shape[2]
    numbers = torch.arange(columns).expand(1, int(layer.form.output_channels(shape).max()) + 1, -1)
    return layer.form.matrix(plan.of(layer.weight).select(layer.form.weight(numbers, shape)))[0, 0]


def _left(meeting: Meeting, plan: Plan, shapes: Mapping[str, Sequence[int]]) -> Tensor | None:
    """[heads, d] bool: which channels are left; None where all are, or not those that meet."""
    one, other = meeting.left, meeting.right
    outputs = left_outputs(one, one.form, plan, shapes[one.weight])
    met = (
        left_columns(other, plan, shapes[other.weight])
        if meeting.is_of_values
        else left_outputs(other, other.form, plan, shapes[other.weight])
    )
    left = torch.isin(meeting.left_channels, outputs)
    same = torch.equal(left, torch.isin(meeting.right_channels, met))
    return left if same and not bool(left.all()) else None


def _moments(
    network: Network, trace: Trace, meetings: Sequence[Meeting], batches: Sequence[Samples]
) -> list[tuple[Tensor, Tensor]]:
    """Of the left and the right of each meeting, over all images."""
    stops = {meeting.call.index: frozenset[int]() for meeting in meetings}
    walks = [Walk(network.model, part.inputs, trace, stops, after=True) for part in batches]
    sums: dict[Meeting, tuple[Tensor, Tensor]] = {}
    with torch.no_grad(), walking(walks, [network]):
        for (met,) in together(trace, stops, walks) if stops else ():
            for meeting in meetings:
                if meeting.call is not met[0].call:
                    continue
                weights = meeting.right.form.matrix(network.tensors[meeting.right.weight])[0]
                each = [meeting.moments(stop.args, stop.result, weights) for stop in met]
                left, right = (torch.stack(parts).sum(0).cpu() for parts in zip(*each, strict=True))
                sums[meeting] = left, right
    return [sums[meeting] for meeting in meetings]


def _mixings(
    meeting: Meeting, left: Tensor, of_left: Tensor, of_right: Tensor
) -> Iterator[tuple[Mixing, list[Mixing]]]:
    """For all heads that share their left side at once; none for heads that left or stay whole."""
    for channels in meeting.left_channels.unique(dim=0):
        heads = (meeting.left_channels == channels).all(1).nonzero()[:, 0]
        there = left[heads[0]]
        if not 0 < int(there.sum()) < len(there):
            continue
        onto, back = projections(of_left[heads].mean(0), of_right[heads], int(there.sum()))
        others = zip(meeting.right_channels[heads], back, strict=True)
        yield (
            Mixing(channels[there], channels, onto),
            [Mixing(row[there], row, weights) for row, weights in others],
        )
