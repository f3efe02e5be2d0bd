"""Operators that make tensors from sizes: a new axis is as long as the code says."""

from __future__ import annotations

from functools import partial
from typing import Any

from slimnet.coupling.at import At, Axes
from slimnet.operator import Double, Nothing, register
from slimnet.operators.families import NO_LINK, NOT_LINEAR, always, plain_sum_free


def zeros(at: At, *_: Any, **__: Any) -> Axes:
    """Zeros: removed slots are zero as well."""
    at.vanish(True)
    return _sized(at)


def filled(at: At, *_: Any, **__: Any) -> Axes:
    """Anything else: removed slots hold what the others hold."""
    at.vanish(False)
    return _sized(at)


def numbers(at: At, *_: Any, **__: Any) -> Axes:
    """Values that depend on their place: the axis stays."""
    at.vanish(False)
    return (None,) * len(at.call.outputs[0].shape)


def _sized(at: At) -> Axes:
    """A literal length is inert; one that the code computes gets labels of its own.

    So does one that torch computes for circular padding; what others make inside is inert.
    """
    shape = at.call.outputs[0].shape
    if at.call.request is None:
        return (None,) * len(shape)
    axes: list[Any] = []
    for length, stated in zip(shape, at.sizes(shape), strict=True):
        internal = stated is None and at.asked(*_LIKE_THEIR_INPUT) is None
        if isinstance(stated, int) or internal or length <= 1:
            axes.append(None)
            continue
        labels = at.fresh(length)
        at.need(stated, labels, length)
        axes.append(labels)
    return tuple(axes)


_LIKE_THEIR_INPUT = (
    *("pad", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "feature_dropout_"),
    *("feature_alpha_dropout", "feature_alpha_dropout_"),
)
"""Functions that make a tensor inside as long as what they are given: circular padding, and noise
for whole channels."""


making = partial(
    plain_sum_free,
    sizes=(
        *("zeros", "ones", "full", "empty", "rand", "randn", "normal"),
        *("new_zeros", "new_ones", "new_full", "new_empty"),
    ),
    reading=Nothing("reads no number of an operand"),
    zeros=Nothing("holds no zeros"),
    scaling=NOT_LINEAR,
    moves=False,
    link=NO_LINK,
    differentiable=False,
    permitted=True,
)
register(making(names=("aten.zeros", "aten.new_zeros"), labels=zeros, zeros=always))

filling = partial(making, labels=filled)
register(filling(names=("aten.ones", "aten.new_ones", "aten.full", "aten.new_full")))
register(filling(names=("aten.rand", "aten.randn")))
register(filling(names=("aten.normal.float_float",), permitted="not tried with hostile calls"))
register(filling(names=("aten.empty", "aten.new_empty"), double=Double.ZEROS))
register(
    filling(
        names=("aten.empty_strided", "aten.new_empty_strided"),
        double=Double.ZEROS,
        permitted="its memory is as large as its strides say",
    )
)
register(
    making(
        names=(
            *("aten.arange", "aten.linspace", "aten.scalar_tensor", "aten.eye"),
            *("aten.randperm", "aten.randint"),
        ),
        labels=numbers,
        sizes=(),
    )
)
