"""Attention as products of layers: which of their channels meet, and the best narrower heads.

Each logit is q · k, a sum over the channels of a head; what a head adds to the output is a sum over
the channels of its values. Any invertible mixing of the one side, undone in the other, changes
neither. So a head that shrinks need not make do with the channels that are left to it: of all
projections to so many channels, :func:`projections` gives those whose products come nearest to the
original's (a truncated singular value decomposition, Eckart and Young 1936, in the metric of the
queries, keys and values that occur).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from slimnet.capture.graph import Call, DataflowGraph, Ref, base
from slimnet.capture.trace import Trace
from slimnet.operator import of
from slimnet.reconstruction.consumers import Consumer, later_bias
from slimnet.reconstruction.forms import Matrix


@dataclass(frozen=True, eq=False)
class Meeting:
    """Channels of two layers that are multiplied with each other and summed over, by head.

    A row of ``left`` may stand there more than once: heads share it. No channel is in two rows of
    ``right``, and none in two distinct ones of ``left``.
    """

    call: Call  # of the attention
    left: Consumer  # makes keys, or values
    right: Consumer  # makes queries; of values, the layer that reads what becomes of them
    left_channels: Tensor  # [heads, d] int64: of its output
    right_channels: Tensor  # [heads, d]: of its output; of the layer that reads, of its input

    @property
    def is_of_values(self) -> bool:
        """Whether values meet the columns of a weight; else queries meet keys."""
        return self.left.call.index < self.call.index < self.right.call.index

    def moments(
        self, args: Sequence[Tensor], result: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[heads, d, d] float64, of the left and of the right: their second moments.

        Args:
            args: the operands of the attention, [.., n, d].
            result: what it gives.
            weights: [O, D], the matrix of the right layer, of which the columns of values are read.
        """
        heads = len(self.right_channels)
        if self.is_of_values:
            read = weights.double()[:, self.right_channels].movedim(1, 0)  # [heads, O, d]
            answers = result.double().flatten(0, -3).unflatten(0, (-1, heads))
            centred = answers - answers.mean((0, 2), keepdim=True) if self.right.shifts else answers
            return (centred.mT @ centred).sum(0), read.mT @ read
        q, k = (_rows(x, args[0].shape).double().unflatten(0, (-1, heads)) for x in args[:2])
        # what all keys have in common moves all logits of a query alike: no softmax sees it
        k = k - k.mean(-2, keepdim=True)
        return (k.mT @ k).sum(0), (q.mT @ q).sum(0)


def projections(left: Tensor, right: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """[width, d] of the left side and [heads, width, d] of the right: the narrower heads.

    Args:
        left: [d, d], the second moments of what all these heads share.
        right: [heads, d, d], those of what it meets.
        width: how many channels are left.

    The mean of (l · r − Tl · Ur)² is the least where l and r are drawn independently; summed over
    the heads, it is the sum of the eigenvalues that are left out.
    """
    root, inverse = _roots(left)
    values, vectors = torch.linalg.eigh(root @ right.sum(0) @ root)
    values, vectors = values[-width:], vectors[:, -width:]
    balance = values.clamp(min=_TINY).pow(0.25)  # both sides of like size
    onto, back = (vectors * balance).mT @ inverse, (vectors / balance).mT @ root
    return onto, back.expand(len(right), -1, -1)


_TINY = 1e-30
_NOTHING = 1e-10
"""Of the largest variance; directions of less are none."""


def _roots(moments: Tensor) -> tuple[Tensor, Tensor]:
    """The root of a symmetric matrix, and the root's pseudo-inverse."""
    values, vectors = torch.linalg.eigh(moments)
    there = values > _NOTHING * values.max()
    root = torch.where(there, values, 0.0).sqrt()
    inverse = torch.where(there, 1 / root.clamp(min=_TINY), 0.0)
    return (vectors * root) @ vectors.mT, (vectors * inverse) @ vectors.mT


_End: TypeAlias = "tuple[Call | None, Ref, Tensor]"
"""A call that computes with the elements that were followed (None: they are the network's outputs),
its operand, and the number of each of its elements, from 1; 0 of others."""


def meetings_of(trace: Trace, layers: Mapping[int, Consumer]) -> list[Meeting]:
    """Of every attention whose operands are outputs of layers that are read nowhere else.

    ``layers`` by the number of their calls; only linear maps are followed. Between a layer and the
    attention, and between that and the layer after it, elements may only move.
    """
    layers = {i: layer for i, layer in layers.items() if isinstance(layer.form, Matrix)}
    ends = {i: list(_channels_followed(trace.graph, layer)) for i, layer in layers.items()}
    makers = {
        ref.id: (layers[i], numbers)
        for i, found in ends.items()
        for call, ref, numbers in found
        if call is not None and base(call) == _ATTENTION
    }
    calls = [call for call in trace.calls if base(call) == _ATTENTION]
    found = [
        meeting
        for call in calls
        for meeting in (_logits(call, makers), _values(call, makers, trace.graph, layers))
        if meeting is not None
    ]
    return [meeting for meeting in found if _is_alone(meeting, ends)]


_ATTENTION = "scaled_dot_product_attention"
_Makers: TypeAlias = Mapping[int, tuple[Consumer, Tensor]]
"""Operand of an attention → the layer that makes it, and the numbers of its channels."""


def _channels_followed(graph: DataflowGraph, layer: Consumer) -> Iterator[_End]:
    """Where a layer's output channels go."""
    output = layer.call.outputs[0]
    shape = [1] * len(output.shape)
    shape[layer.form.axis] = -1
    numbers = torch.arange(1, output.shape[layer.form.axis] + 1).reshape(shape)
    return _followed(graph, output, numbers.expand(output.shape), layer)


def _followed(
    graph: DataflowGraph, ref: Ref, numbers: Tensor, layer: Consumer | None = None
) -> Iterator[_End]:
    """Through the calls that only move elements, or add a layer's bias, to those that compute."""
    results = {result.id for result in graph.outputs}
    waiting = [(ref, numbers)]
    while waiting:
        ref, numbers = waiting.pop()
        if ref.id in results:
            yield None, ref, numbers
        for call in (graph.calls[index] for index in graph.users.get(ref.id, ())):
            if of(call.op).moves and all(read.id == ref.id for read in call.reads):
                waiting += zip(call.outputs, _moved(call, numbers), strict=False)
            elif layer and layer.later and later_bias(call, ref, layer.form) == layer.later:
                waiting.append((call.outputs[0], numbers))
            else:
                yield call, ref, numbers


def _moved(call: Call, numbers: Tensor) -> Sequence[Tensor]:
    """What a call that moves elements makes of these."""
    args, kwargs = tree_map_only(Ref, lambda _: numbers, (call.args, dict(call.kwargs)))
    double = of(call.op).double  # where it is a function, it does not depend on how numbers lie
    made = (double if callable(double) else call.op)(*args, **kwargs)
    return made if isinstance(made, (tuple, list)) else (made,)


def _logits(call: Call, makers: _Makers) -> Meeting | None:
    """Keys and queries."""
    q, k = call.args[:2]
    if q.id == k.id or not {q.id, k.id} <= makers.keys():
        return None
    (query, of_query), (key, of_key) = makers[q.id], makers[k.id]
    found = _by_head(_rows(of_key, q.shape), _rows(of_query, q.shape))
    if found is None or not _are_apart(found[1]):
        return None
    keys, queries = found
    return Meeting(call, key, query, keys - 1, queries - 1)


def _values(
    call: Call, makers: _Makers, graph: DataflowGraph, layers: Mapping[int, Consumer]
) -> Meeting | None:
    """Values, and the columns by which a layer reads them after the attention."""
    (q, k, v), result = call.args[:3], call.outputs[0]
    if v.id in (q.id, k.id) or v.id not in makers:
        return None
    value, numbers = makers[v.id]
    found = _by_head(_rows(numbers, q.shape))
    if found is None:
        return None
    (values,) = found
    *rows, tokens, _ = result.shape
    places = torch.arange(1, values.numel() + 1).reshape(len(values), 1, -1)
    places = places.repeat(prod(rows) // len(values), tokens, 1).reshape(result.shape)
    (reader, ref, read), *others = _followed(graph, result, places)
    layer = layers.get(reader.index) if reader is not None else None
    if others or layer is None or not isinstance(layer.form, Matrix):
        return None
    columns = layer.form.rows(read, None)[:, 0]  # [tokens, D]: the place that each reads
    alike = bool((columns == columns[0]).all()) and columns.shape[1] == values.numel()
    if layer.call.args[layer.place].id != ref.id or not alike or not _are_apart(columns[0]):
        return None
    return Meeting(call, value, layer, values - 1, columns[0].argsort().reshape(values.shape))


def _rows(x: Tensor, queries: Sequence[int]) -> Tensor:
    """[samples · heads, n, d] of queries, keys or values: one for each head of the queries.

    ``queries`` is the shape of these, [.., n, d].
    """
    if len(queries) > 3 and x.shape[-3] != queries[-3]:
        x = x.repeat_interleave(queries[-3] // x.shape[-3], -3)
    return x.flatten(0, -3)


def _by_head(*numbers: Tensor) -> list[Tensor] | None:
    """[heads, d] of each [samples · heads, n, d]; None unless all tokens have the same channels.

    No channel may be in two different rows.
    """
    if len({len(each) for each in numbers}) > 1:
        return None
    table = torch.cat([each[:, 0] for each in numbers], 1)
    heads = next(h for h in range(1, len(table) + 1) if _repeats(table, h))
    found = [each[:heads, 0] for each in numbers]
    alike = all(
        bool((each.unflatten(0, (-1, heads)) == first[:, None]).all())
        for each, first in zip(numbers, found, strict=True)
    )
    return found if alike and all(_are_apart(x.unique(dim=0)) for x in found) else None


def _repeats(table: Tensor, period: int) -> bool:
    """Whether the rows are the first so many, again and again."""
    return len(table) % period == 0 and bool(
        (table.unflatten(0, (-1, period)) == table[:period]).all()
    )


def _are_apart(channels: Tensor) -> bool:
    """Whether these are channels of a layer, none of them twice."""
    return bool((channels > 0).all()) and len(channels.unique()) == channels.numel()


def _is_alone(meeting: Meeting, ends: Mapping[int, Sequence[_End]]) -> bool:
    """Whether nothing but the attention computes with these channels."""
    q, k, v = meeting.call.args[:3]
    left = (v if meeting.is_of_values else k, meeting.left, meeting.left_channels)
    right = (q, meeting.right, meeting.right_channels)
    return not any(
        torch.isin(numbers - 1, channels).any()
        for operand, layer, channels in ((left,) if meeting.is_of_values else (left, right))
        for call, ref, numbers in ends[layer.call.index]
        if call is not meeting.call or ref.id != operand.id
    )
