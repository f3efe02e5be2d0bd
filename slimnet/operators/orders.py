"""Operators that put the slots of one axis in order, run along it, or share it out."""

from __future__ import annotations

from functools import partial
from typing import Any

from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Labelled
from slimnet.operator import Rule, register
from slimnet.operators.axes import dim, replaced
from slimnet.operators.families import SHOWS, slot_by_slot


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


along = partial(slot_by_slot, labels=ordered())
register(
    along(
        names=(
            *("aten.sort", "aten.median.dim", "aten.nanmedian.dim"),
            *("aten.cummax", "aten.cummin", "aten.cumprod", "aten.cumprod_"),
        )
    )
)
register(along(names=("aten.mode",), permitted="not tried with hostile calls"))
register(along(names=("aten.logcumsumexp",), zeros=SHOWS))
register(slot_by_slot(names=("aten.topk", "aten.kthvalue"), labels=ordered(place=1)))


def softmax(at: At, x: Labelled, d: int, *_: Any, **__: Any) -> Axes:
    """Normalised along one axis."""
    at.statistic(x.axes[d], "normalises over it")
    at.share_out(x.axes[d])
    at.vanish(False)
    return x.axes


def cumsum(at: At, x: Labelled, d: int, **_: Any) -> Axes:
    """Running sums: exact where the removed slots are zero."""
    if not x.vanishes:
        at.statistic(x.axes[d], "sums over slots that are not zero when removed")
    at.vanish(x.axes[d] is None and x.vanishes)
    return replaced(x, d % len(x.shape), x.axes[d])


softened = partial(slot_by_slot, labels=softmax, zeros=SHOWS)
register(softened(names=("aten._softmax",), differentiable=True))
register(softened(names=("aten._log_softmax", "aten._safe_softmax"), differentiable=False))
register(slot_by_slot(names=("aten.cumsum", "aten.cumsum_"), labels=cumsum))
