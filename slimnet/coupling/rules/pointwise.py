"""Operators that work element by element: every op that ATen tags ``pointwise``, and copies.

One rule for all: axes that meet are tied. Whether zeros stay zeros is found by trying.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch

from slimnet.coupling.labels import Labelled
from slimnet.coupling.rules import At, Axes, meet, rule

aten = torch.ops.aten

_UNTAGGED = (
    *(aten.detach, aten.detach_, aten.alias, aten.lift_fresh, aten.lift),
    *(aten.hardswish_, aten.hardswish, aten._to_copy, aten.clone, aten.copy_, aten.copy),
    *(aten.fill_, aten.fill, aten.zero_, aten.zero, aten.bernoulli_, aten.normal_, aten.uniform_),
    *(aten.zeros_like, aten.ones_like, aten.empty_like, aten.full_like, aten.rand_like),
    *(aten.randn_like, aten.bernoulli, aten._prelu_kernel, aten.masked_fill, aten.masked_fill_),
    *(aten.where, aten.rsub, aten.hardtanh, aten.hardtanh_),
    *(aten.celu_, aten.elu_, aten.leaky_relu_, aten.threshold_, aten.rrelu_with_noise),
    *(aten.exponential_, aten.cauchy_, aten.log_normal_, aten.geometric_, aten.random_),
    *(aten.normal.Tensor_float, aten.normal.float_Tensor, aten.normal.Tensor_Tensor),
    *(aten.glu_jvp, aten.isnan, aten.nan_to_num, aten.lerp, aten.lerp_),
)


@rule(*dict.fromkeys(_UNTAGGED))
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
    except (RuntimeError, TypeError, ValueError, IndexError):
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
    return (
        torch.zeros(4, dtype=dtype) if vanishes else torch.tensor([0.7, -1.3, 2.1, 0.0]).to(dtype)
    )
