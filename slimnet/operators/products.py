"""Matrix products, products with a table, and bilinear maps."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from slimnet.capture.graph import Call, DataflowGraph, Ref
from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Labelled
from slimnet.coupling.scaling.boxes import Box, NotLinear, along, exchanged
from slimnet.coupling.scaling.steps import Demands, Way
from slimnet.operator import Formula, Link, Nothing, Products, Reading, Step, Sums, of, register
from slimnet.operators.contraction import contract, rows_and_bias, summing, vanish_beside
from slimnet.operators.families import NO_PRODUCT, NOT_LINEAR, is_parameter
from slimnet.reconstruction.consumers import Layer
from slimnet.reconstruction.forms import Matrix


def mm(at: At, a: Labelled, b: Labelled) -> Axes:
    """[n, k] · [k, m]."""
    contract(at, a, a.axes[1], b, b.axes[0])
    vanish_beside(at, (a, a.axes[0]), (b, b.axes[1]))
    return (a.axes[0], b.axes[1])


def addmm(
    at: At, bias: Labelled, a: Labelled, b: Labelled, *, beta: Any = 1, alpha: Any = 1
) -> Axes:
    """bias + [n, k] · [k, m]."""
    return _with_bias(at, bias, mm(at, a, b))


def _with_bias(at: At, bias: Labelled, out: Axes) -> Axes:
    alike = {d for d in range(-len(bias.shape), 0) if bias.shape[d] == at.call.outputs[0].shape[d]}
    for d in range(-len(bias.shape), 0):
        if d in alike:
            at.tie(bias.axes[d], out[d])
        else:
            at.pin(bias.axes[d], "spreads it over another axis")
    live = {d for d, axis in enumerate(out, -len(out)) if axis is not None}
    at.vanish(at.constraints.vanishing and bias.vanishes and live <= alike)
    return out


def bmm(at: At, a: Labelled, b: Labelled) -> Axes:
    """[B, n, k] · [B, k, m]."""
    at.tie(a.axes[0], b.axes[0])
    contract(at, a, a.axes[2], b, b.axes[1])
    at.attend(a.axes[2], b.axes[2])
    batched = a if a.vanishes else b
    vanish_beside(at, (batched, a.axes[0]), (a, a.axes[1]), (b, b.axes[2]))
    return (a.axes[0] if a.axes[0] is not None else b.axes[0], a.axes[1], b.axes[2])


def baddbmm(
    at: At, bias: Labelled, a: Labelled, b: Labelled, *, beta: Any = 1, alpha: Any = 1
) -> Axes:
    """bias + [B, n, k] · [B, k, m]."""
    return _with_bias(at, bias, bmm(at, a, b))


def mv(at: At, a: Labelled, b: Labelled) -> Axes:
    """[n, k] · [k]."""
    contract(at, a, a.axes[1], b, b.axes[0])
    vanish_beside(at, (a, a.axes[0]))
    return (a.axes[0],)


def dot(at: At, a: Labelled, b: Labelled) -> Axes:
    """[k] · [k]."""
    contract(at, a, a.axes[0], b, b.axes[0])
    return ()


def _either(call: Call) -> list[list[Any]]:
    """Zero where one side is; a parameter first: it ends the walk."""
    first, second = call.args[:2]
    return [[first], [second]] if is_parameter(first) else [[second], [first]]


def _sum_and_either(call: Call) -> list[list[Any]]:
    return [[call.args[0], call.args[2]], [call.args[0], call.args[1]]]


def _multiplied(first: int) -> Step:
    """[.., n, k] · [.., k, m], the operands from argument ``first`` on; a bias before them."""

    def step(way: Way, call: Call, box: Box, _: int) -> Demands:
        left, weight = call.args[first : first + 2]
        if not first and {left.id, weight.id} <= way.varies:
            return [_multiplicand(way.side, (left, weight), box)]
        if weight.id in way.varies:
            raise NotLinear
        bias = call.args[0] if first else None
        return rows_and_bias(along(box, -1), weight, len(weight.shape) - 1, bias)

    return step


def _multiplicand(side: int, operands: tuple[Ref, Ref], box: Box) -> tuple[Ref, Box]:
    """Rows of the left operand or columns of the right one: queries, or keys."""
    summed = len(box) - 1 - side
    if not box[summed].all():
        raise NotLinear
    operand = operands[side]
    return operand, exchanged(box, summed, np.ones(operand.shape[summed], bool))


def _counted(first: int) -> Formula:
    """[.., n, k] · [.., k, m], the operands starting at argument ``first``."""

    def formula(call: Call) -> Products:
        a, b = call.args[first], call.args[first + 1]
        left = [(a, d) for d in range(len(a.shape))]
        return [(1, left + ([(b, len(b.shape) - 1)] if len(b.shape) > 1 else []))]

    return formula


def _read_by_rows(a: Tensor, b: Tensor) -> Sums:
    """[.., n, k] · [.., k, m]: the weight may stand on either side."""
    return [(a, -1, b, -2), (b, -2, a, -1)]


def _with_addend(_: Tensor, a: Tensor, b: Tensor) -> Sums:
    return _read_by_rows(a, b)


def _as_addmm(call: Call, graph: DataflowGraph) -> Layer | None:
    found = _parameter(call.args[2], graph)
    return None if found is None or call.kwargs else Layer(1, found[0], call.args[0], found[1])


def _as_mm(call: Call, graph: DataflowGraph) -> Layer | None:
    found = _parameter(call.args[1], graph)
    return None if found is None else Layer(0, found[0], None, found[1])


def _parameter(matrix: Ref, graph: DataflowGraph) -> tuple[Ref, Matrix] | None:
    """The parameter behind a matrix, as it is or turned."""
    if is_parameter(matrix):
        return matrix, Matrix(turned=False)
    maker = graph.made.get(matrix.id)
    if maker is None or not is_parameter(maker.args[0]) or len(maker.args[0].shape) != 2:
        return None
    link = of(maker.op).link
    turned = (link(maker) if callable(link) else link) is Link.TURN
    return (maker.args[0], Matrix(turned=True)) if turned else None


BATCHED = Nothing("each image has a matrix of its own: no weight decides")
multiplying = partial(summing, reading=Reading.ALL, zeros=_either)
adding = partial(multiplying, zeros=_sum_and_either, added=(0,), costs={"macs": _counted(1)})
register(
    multiplying(
        names=("aten.mm",),
        labels=mm,
        scaling=_multiplied(0),
        costs={"macs": _counted(0)},
        reads=_read_by_rows,
        layer=_as_mm,
        differentiable=True,
    )
)
register(
    adding(
        names=("aten.addmm",),
        labels=addmm,
        scaling=_multiplied(1),
        reads=_with_addend,
        layer=_as_addmm,
        differentiable=True,
    )
)
register(
    multiplying(
        names=("aten.bmm",),
        labels=bmm,
        scaling=_multiplied(0),
        costs={"macs": _counted(0)},
        reads=_read_by_rows,
        layer=BATCHED,
        differentiable=True,
    )
)
register(
    adding(
        names=("aten.baddbmm",),
        labels=baddbmm,
        scaling=NOT_LINEAR,
        reads=_with_addend,
        layer=BATCHED,
        differentiable=False,
    )
)
register(
    multiplying(
        names=("aten.mv",),
        labels=mv,
        scaling=NOT_LINEAR,
        costs={"macs": _counted(0)},
        reads=Nothing("a vector is no batch of images"),
        layer=Nothing("a vector is no batch of images"),
        differentiable=False,
    )
)
register(
    multiplying(
        names=("aten.dot", "aten.vdot"),
        labels=dot,
        scaling=NOT_LINEAR,
        costs={"macs": lambda call: [(1, [(call.args[0], 0)])]},
        reads=Nothing("a vector is no batch of images"),
        layer=Nothing("a vector is no batch of images"),
        differentiable=False,
    )
)

# ----------------------------------------------------------------------------- tables, and bilinear


def embedding(at: At, weight: Labelled, where: Labelled, *_: Any) -> Axes:
    """Rows of a table: the vocabulary stays, the features may go."""
    at.pin(weight.axes[0], "looks up its rows by number")
    at.vanish(weight.vanishes)
    return (*(None,) * len(where.shape), weight.axes[1])


register(
    summing(
        names=("aten.embedding",),
        labels=embedding,
        reading=Reading.ALL,
        zeros=lambda call: [[call.args[0]]],
        scaling=Nothing("rows are looked up: which ones, the input says"),
        costs=NO_PRODUCT,
        reads=NO_PRODUCT,
        layer=NO_PRODUCT,
        differentiable=True,
    )
)


def bilinear(at: At, a: Labelled, weight: Labelled, b: Labelled, *expand: Any) -> Axes:
    """As ``F.bilinear`` calls it: [n, i], [o, i, j], [n, j] → [n, o]."""
    if list(map(list, expand[:4])) != [[1, 3], [0], [1, 2], [2, 3]]:
        raise ValueError("only bilinear is known")
    at.tie_if_live(a.axes[0], b.axes[0])
    contract(at, a, a.axes[1], weight, weight.axes[1])
    contract(at, b, b.axes[1], weight, weight.axes[2])
    vanish_beside(at, (a if a.vanishes else b, a.axes[0]), (weight, weight.axes[0]))
    return (a.axes[0], weight.axes[0])


def _met_once(call: Call) -> Products:
    """Each element of the weight is used once for each pair of rows."""
    a, weight = call.args[:2]
    return [(1, [(a, 0), (weight, 0), (weight, 1), (weight, 2)])]


register(
    summing(
        names=("aten._trilinear",),
        labels=bilinear,
        reading=Reading.ALL,
        zeros=lambda call: [[call.args[1]], [call.args[2]], [call.args[0]]],
        scaling=NOT_LINEAR,
        costs={"macs": _met_once},
        reads=Nothing("what it sums over is a product of two inputs"),
        layer=Nothing("what it sums over is a product of two inputs"),
        differentiable=False,
    )
)
