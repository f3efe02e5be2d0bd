"""Operators that put the slots of an axis in order, or run along it."""

from __future__ import annotations

from functools import partial
from typing import Any

from slimnet.coupling.at import At
from slimnet.coupling.labels import Labelled
from slimnet.operator import Reading, Rule, register
from slimnet.operators.axes import dim
from slimnet.operators.families import NO_LINK, NOT_LINEAR, SHOWS, first, plain_sum_free


def ordered(place: int = 0) -> Rule:
    """A rule for operators that compare the slots of one axis with each other, in their order.

    ``place`` is the argument after the tensor that names the axis. How long the axis is afterwards
    does not matter: all of it stays.
    """

    def compare(at: At, x: Labelled, *args: Any, **kwargs: Any) -> Any:
        d = dim(x, int(kwargs.get("dim", args[place] if len(args) > place else -1)))
        at.vanish(False)  # among equals any number may come out
        if place:
            at.need(at.number("topk", "kthvalue", place=1, key="k"), None, int(args[0]))
        at.pin(x.axes[d] if x.axes else None, "compares its slots with each other")
        shapes = [out.shape for out in at.call.outputs]
        after = (None,) if len(shapes[0]) == len(x.shape) else ()
        axes = (*x.axes[:d], *after, *x.axes[d + 1 :])[: len(shapes[0])]
        return axes if len(shapes) == 1 else [axes] * len(shapes)

    return compare


ordering = partial(
    plain_sum_free,
    reading=Reading.EACH,
    scaling=NOT_LINEAR,
    moves=False,
    link=NO_LINK,
    differentiable=False,
    permitted=True,
)
along = partial(ordering, labels=ordered(), zeros=first)
register(
    along(
        names=(
            *("aten.sort", "aten.median.dim", "aten.nanmedian.dim"),
            *("aten.cummax", "aten.cummin", "aten.cumprod"),
        )
    )
)
register(along(names=("aten.mode",), permitted="not tried with hostile calls"))
register(along(names=("aten.logcumsumexp",), zeros=SHOWS))
register(ordering(names=("aten.topk", "aten.kthvalue"), labels=ordered(place=1), zeros=first))
