"""Operators that work element by element: every op that ATen tags ``pointwise``, and copies.

One rule for all: axes that meet are tied. Whether zeros stay zeros is found by trying.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import torch

from slimnet.capture.graph import Call, Ref, refs_in
from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Labelled
from slimnet.coupling.scaling.boxes import Box, NotLinear, narrowed
from slimnet.coupling.scaling.steps import Demands, Way, same
from slimnet.operator import Double, Layout, Link, Nothing, Reading, register
from slimnet.operators.axes import meet
from slimnet.operators.families import (
    IN_PLACE,
    NO_LINK,
    NOT_LINEAR,
    SHOWS,
    always,
    first,
    is_parameter,
    plain_sum_free,
)


def pointwise(at: At, *args: Any, **kwargs: Any) -> Axes:
    """Axes that are broadcast together are tied."""
    operands = list(_operands((*args, *kwargs.values())))
    shape = at.call.outputs[0].shape
    axes = tuple(meet(at, operands, d - len(shape), n) for d, n in enumerate(shape))
    _say_what_zeros_become(at, args, kwargs, axes)
    return axes


def _operands(tree: Any) -> Iterator[Labelled]:
    for entry in tree:
        if isinstance(entry, Labelled):
            yield entry
        elif isinstance(entry, (list, tuple)):
            yield from _operands(entry)


def _say_what_zeros_become(
    at: At, args: tuple[Any, ...], kwargs: dict[str, Any], axes: Axes
) -> None:
    """Whether the result is zero where the vanishing operands are; 0/0 is left out of the proof.

    Along each live axis (counted from the back) only the operands that have it are zero; 0 stands
    for none.
    """
    if torch.Tag.nondeterministic_seeded in at.call.op.tags:
        at.vanish(False)  # what is drawn depends on no operand
        return
    live = [d for d, axis in enumerate(axes, -len(axes)) if axis is not None]
    found = [_tried(at, args, kwargs, d) for d in live or (0,)]
    broken = [axes[d] for d, (_, finite) in zip(live, found, strict=False) if not finite]
    spread = bool(broken) and not at.call.op._schema.is_mutable
    if spread:
        at.survivors_only(broken)
    at.vanish(spread or all(zero for zero, _ in found))


def _tried(at: At, args: tuple[Any, ...], kwargs: dict[str, Any], d: int) -> tuple[bool, bool]:
    try:
        return _probe(at.call.op, _frozen(args, d), _frozen(tuple(kwargs.items()), d))
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False, True  # cannot be tried: assume that zeros do not stay zeros


class _Stand(tuple[Any, ...]):
    """Stands for an operand: (whether it is zero in removed slots, its dtype)."""

    __slots__ = ()


def _frozen(tree: Any, d: int) -> Any:
    if isinstance(tree, Labelled):
        has_it = 0 < -d <= len(tree.shape) and tree.axes[d] is not None
        return _Stand((tree.vanishes and has_it and tree.shape[d] != 1, tree.dtype))
    if isinstance(tree, (list, tuple)):
        return tuple(_frozen(entry, d) for entry in tree)
    return tree


@lru_cache(maxsize=4096)
def _probe(op: Any, args: tuple[Any, ...], kwargs: tuple[Any, ...]) -> tuple[bool, bool]:
    """Run the operator on zeros where operands vanish, on odd numbers elsewhere.

    Whether the result is zero, and whether it is finite where no other operand is zero.
    """
    named = {key: _operand(value) for key, value in kwargs if key != "device"}
    result = op(*(_operand(arg) for arg in args), **named)
    vanishing = any(stand[0] for stand in _stands((args, kwargs)))
    zero = (result == 0) | result.isnan()  # the last operand is zero: 0/0 breaks the original, too
    return bool(zero.all()), not vanishing or bool(result[:3].isfinite().all())


def _stands(tree: Any) -> Iterator[_Stand]:
    if isinstance(tree, _Stand):
        yield tree
    elif isinstance(tree, tuple):
        for entry in tree:
            yield from _stands(entry)


def _operand(value: Any) -> Any:
    if not isinstance(value, _Stand):
        return value
    vanishes, dtype = value
    if dtype == torch.bool and not vanishes:
        return torch.tensor([True, False, True, False])  # a mask chooses from either side
    return (
        torch.zeros(4, dtype=dtype) if vanishes else torch.tensor([0.7, -1.3, 2.1, 0.0]).to(dtype)
    )


# ------------------------------------------------------------------------------- what makes it zero


def silent(call: Call) -> list[list[Any]]:
    """Found by trying: one operand that is zero, or all; a parameter first, for it ends a walk."""
    given = refs_in([*call.args, *call.kwargs.values()])
    refs = [ref for ref in given if ref.dtype != torch.bool]
    others = [ref for ref in refs if not is_parameter(ref)]
    alone = [[ref] for ref in (*filter(is_parameter, refs), *others[::-1])]
    return [zero for zero in (*alone, refs) if _stays_zero(call, zero)]


def _stays_zero(call: Call, zero: list[Ref]) -> bool:
    numbers = {ref.id for ref in zero}
    named = tuple((key, _marked(value, numbers)) for key, value in call.kwargs.items())
    try:
        return bool(zero) and all(_probe(call.op, _marked(call.args, numbers), named))
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False


def _marked(tree: Any, zero: set[int]) -> Any:
    if isinstance(tree, Ref):
        return _Stand((tree.id in zero, tree.dtype))
    if isinstance(tree, (list, tuple)):
        return tuple(_marked(entry, zero) for entry in tree)
    return tree


# ------------------------------------------------------------------------------- what a factor does


def summed(_: Way, call: Call, box: Box, __: int) -> Demands:
    """Both sides of a sum; a number that is added cannot be multiplied."""
    left, right = call.args[:2]
    if not (isinstance(left, Ref) and isinstance(right, Ref)):
        raise NotLinear
    return [(side, narrowed(box, side.shape)) for side in (left, right)]


def factor(way: Way, call: Call, box: Box, _: int) -> Demands:
    """One side of a product: the one that depends on the network's input."""
    sides = [side for side in call.args[:2] if isinstance(side, Ref)]
    side = next((side for side in sides if side.id in way.varies), sides[0])
    return [(side, narrowed(box, side.shape))]


def dividend(_: Way, call: Call, box: Box, __: int) -> Demands:
    """What is divided."""
    if not isinstance(call.args[0], Ref):
        raise NotLinear
    return [(call.args[0], narrowed(box, call.args[0].shape))]


def _times(power: int, call: Call) -> list[tuple[Any, int]]:
    """Either side may be the number."""
    return [(given, power) for given in call.args[1::-1]]


# --------------------------------------------------------------------------------------- records


def _both(name: str) -> tuple[str, str]:
    """With a tensor, and with a number."""
    return f"{name}.Tensor", f"{name}.Scalar"


by_element = partial(
    plain_sum_free,
    labels=pointwise,
    reading=Reading.EACH,
    zeros=silent,
    scaling=NOT_LINEAR,
    moves=False,
    link=NO_LINK,
    differentiable=True,
    permitted=True,
)
register(by_element(names=("pointwise",)))
register(
    by_element(
        names=(
            *("aten.hardswish", "aten.hardswish_", "aten.hardtanh", "aten.hardtanh_"),
            *("aten._prelu_kernel", "aten.celu_", "aten.elu_", "aten.leaky_relu_"),
            *("aten.threshold_", "aten.rsub", "aten.where.self", "aten.where.ScalarOther"),
            *("aten.where.ScalarSelf", "aten.where.Scalar", "aten.masked_fill"),
            *("aten.masked_fill_", "aten.isnan", "aten.nan_to_num", "aten.lerp", "aten.lerp_"),
            *("aten.max.other", "aten.min.other"),
        )
    )
)
register(
    by_element(
        names=("aten.glu_jvp",),
        zeros=lambda call: [[call.args[2]]],
        differentiable=False,
        permitted="a derivative",
    )
)

sums = partial(by_element, added=(0, 1), link=Link.SUM)
register(sums(names=_both("aten.add"), scaling=summed))
register(sums(names=_both("aten.add_"), scaling=IN_PLACE))
register(sums(names=_both("aten.sub"), scaling=summed, link=NO_LINK))
register(sums(names=_both("aten.sub_"), scaling=IN_PLACE, link=NO_LINK))

times, through = partial(_times, 1), partial(_times, -1)
register(by_element(names=_both("aten.mul"), scaling=factor, factors=times))
register(by_element(names=_both("aten.mul_"), scaling=IN_PLACE, factors=times))
register(by_element(names=_both("aten.div"), scaling=dividend, factors=through))
register(by_element(names=_both("aten.div_"), scaling=IN_PLACE, factors=through))
register(by_element(names=("aten.neg",), scaling=same))

copies = partial(by_element, zeros=first, scaling=same, moves=True, differentiable=False)
register(copies(names=("aten.clone",), link=Link.VIEW, layout=Layout.LAYS, differentiable=True))
register(copies(names=("aten.detach", "aten.alias"), layout=Layout.LAYS))
register(copies(names=("aten._to_copy",), layout=Layout.CONVERTS))
register(copies(names=("aten.lift_fresh", "aten.detach_")))
register(copies(names=("aten.lift",), permitted="torch's own, while it traces"))


def _copied(call: Call) -> list[list[Any]]:
    """Zero where what is copied is."""
    return [[call.args[1]]]


register(copies(names=("aten.copy", "aten.copy_"), zeros=_copied, scaling=IN_PLACE, moves=False))

filled = partial(by_element, scaling=NOT_LINEAR, differentiable=False)
register(filled(names=("aten.zero", "aten.zero_", "aten.zeros_like"), zeros=always))
register(
    filled(
        names=("aten.fill", "aten.fill_", "aten.ones_like", "aten.full_like"),
        zeros=Nothing("holds a number that it is given"),
    )
)
register(filled(names=("aten.empty_like",), zeros=SHOWS, double=Double.ZEROS))

drawn = partial(filled, zeros=Nothing("what is drawn depends on no operand"))
register(
    drawn(
        names=(
            *("aten.bernoulli", "aten.bernoulli_", "aten.normal_", "aten.uniform_"),
            *("aten.rand_like", "aten.randn_like", "aten.rrelu_with_noise"),
        )
    )
)
register(
    drawn(
        names=(
            *("aten.exponential_", "aten.cauchy_", "aten.log_normal_", "aten.geometric_"),
            *("aten.random_", "aten.normal.Tensor_float", "aten.normal.float_Tensor"),
            "aten.normal.Tensor_Tensor",
        ),
        permitted="not tried with hostile calls",
    )
)
