"""Reductions: axes that disappear."""

from __future__ import annotations

from functools import partial
from typing import Any

from slimnet.coupling.at import At
from slimnet.coupling.labels import Labelled
from slimnet.operator import Rule, register
from slimnet.operators.families import SHOWS, slot_by_slot


def reduction(
    *, zero_is_neutral: bool, outputs: int = 1, place: int = 0, zero_stays: bool = True
) -> Rule:
    """A rule for ``op(x, [place arguments], dims, keepdim)``.

    Over a live axis the result changes with removal, unless removed zeros do not count.
    ``zero_stays``: whether the result over zeros alone is zero.
    """

    def reduce(at: At, x: Labelled, *args: Any, **kwargs: Any) -> Any:
        dims = kwargs.get("dim", args[place] if len(args) > place else None)
        over = _dims(x, dims)
        kept = len(at.call.outputs[0].shape) == len(x.shape)
        at.vanish(x.vanishes and zero_stays)
        for d in over:
            if not (zero_is_neutral and x.vanishes):
                at.statistic(x.axes[d], "is a statistic over it")
        axes = tuple(
            None if d in over else axis for d, axis in enumerate(x.axes) if kept or d not in over
        )
        return axes if outputs == 1 else [axes] * outputs

    return reduce


def _dims(x: Labelled, dims: Any) -> set[int]:
    if dims is None or dims == [] or isinstance(dims, bool):
        return set(range(len(x.shape)))
    listed = [dims] if isinstance(dims, int) else dims
    return {d % max(len(x.shape), 1) for d in listed}


register(
    slot_by_slot(
        names=("aten.sum", "aten.any"),
        labels=reduction(zero_is_neutral=True),
    )
)
register(
    slot_by_slot(
        names=("aten.linalg_vector_norm", "aten.norm"),
        labels=reduction(zero_is_neutral=True, place=1),
    )
)
comparing = partial(slot_by_slot, labels=reduction(zero_is_neutral=False))
register(comparing(names=("aten.mean",), differentiable=True))
register(
    comparing(
        names=(
            *("aten.amax", "aten.amin", "aten.prod", "aten.var", "aten.std"),
            *("aten.max.default", "aten.min.default"),
        )
    )
)
register(comparing(names=("aten.argmax", "aten.argmin", "aten.all"), zeros=SHOWS))
register(
    slot_by_slot(
        names=("aten.logsumexp",),
        labels=reduction(zero_is_neutral=False, zero_stays=False),
        zeros=SHOWS,
    )
)
register(
    slot_by_slot(
        names=(
            *("aten.max.dim", "aten.min.dim", "aten.aminmax"),
            *("aten.var_mean.correction", "aten.std_mean.correction"),
        ),
        labels=reduction(zero_is_neutral=False, outputs=2),
    )
)
