"""Reductions, orders and pooling: axes that disappear, are sorted or are scanned by windows."""

from __future__ import annotations

from typing import Any

import torch

from slimnet.coupling.labels import Labelled
from slimnet.coupling.rules import At, Axes, Rule, dim, rule

aten = torch.ops.aten


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


rule(aten.sum, aten.any)(reduction(zero_is_neutral=True))
rule(aten.linalg_vector_norm)(reduction(zero_is_neutral=True, place=1))
rule(aten.norm)(reduction(zero_is_neutral=True, place=1))
rule(aten.mean, aten.amax, aten.amin, aten.prod, aten.var, aten.std)(
    reduction(zero_is_neutral=False)
)
rule(aten.logsumexp)(reduction(zero_is_neutral=False, zero_stays=False))
rule(aten.argmax, aten.argmin, aten.all)(reduction(zero_is_neutral=False))
rule(aten.max.dim, aten.min.dim, aten.var_mean.correction, aten.std_mean.correction)(
    reduction(zero_is_neutral=False, outputs=2)
)
rule(aten.aminmax)(reduction(zero_is_neutral=False, outputs=2))
rule(aten.max.default, aten.min.default)(reduction(zero_is_neutral=False))


@rule(aten.max.other, aten.min.other)
def between(at: At, x: Labelled, y: Labelled) -> Axes:
    """The larger (smaller) of two, element by element."""
    from slimnet.coupling.rules.pointwise import pointwise

    return pointwise(at, x, y)


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


rule(aten.sort, aten.median.dim, aten.nanmedian.dim, aten.mode)(ordered())
rule(aten.cummax, aten.cummin, aten.cumprod, aten.logcumsumexp)(ordered())
rule(aten.topk, aten.kthvalue)(ordered(place=1))


def windows(spatial: int, outputs: int = 1) -> Rule:
    """A rule for operators that scan the last ``spatial`` axes and treat channels one by one."""

    def scan(at: At, x: Labelled, *args: Any, **kwargs: Any) -> Any:
        for axis in x.axes[-spatial:]:
            at.pin(axis, "scans it with windows")
        axes = (*x.axes[:-spatial], *(None,) * spatial)
        return axes if outputs == 1 else [axes] * outputs

    return scan


rule(aten.avg_pool2d, aten._adaptive_avg_pool2d)(windows(2))
rule(aten.avg_pool3d, aten._adaptive_avg_pool3d)(windows(3))
rule(aten.max_pool2d_with_indices, aten.adaptive_max_pool2d)(windows(2, outputs=2))
rule(aten.max_pool3d_with_indices, aten.adaptive_max_pool3d)(windows(3, outputs=2))
rule(aten.fractional_max_pool2d)(windows(2, outputs=2))
rule(aten.reflection_pad1d, aten.replication_pad1d)(windows(1))
rule(aten.reflection_pad2d, aten.replication_pad2d)(windows(2))
rule(aten.reflection_pad3d, aten.replication_pad3d)(windows(3))
rule(aten.upsample_nearest1d, aten._upsample_nearest_exact1d, aten.upsample_linear1d)(windows(1))
rule(aten.upsample_nearest2d, aten._upsample_nearest_exact2d, aten.upsample_bilinear2d)(windows(2))
rule(aten.upsample_bicubic2d, aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa)(windows(2))
rule(aten.upsample_nearest3d, aten._upsample_nearest_exact3d, aten.upsample_trilinear3d)(windows(3))


@rule(aten.max_unpool2d)
def max_unpool2d(at: At, x: Labelled, places: Labelled, *_: Any) -> Axes:
    """Values put back where they came from, channel by channel."""
    for left, right in zip(x.axes, places.axes, strict=True):
        at.tie_if_live(left, right)
    return windows(2)(at, x)  # type: ignore[return-value]


@rule(aten.grid_sampler_2d, aten.grid_sampler_3d)
def grid_sampler(at: At, x: Labelled, grid: Labelled, *_: Any) -> Axes:
    """Every channel is read at the places that ``grid`` names."""
    for axis in (*x.axes[2:], *grid.axes[1:]):
        at.pin(axis, "samples it at places")
    at.tie_if_live(x.axes[0], grid.axes[0])
    at.vanish(x.vanishes)
    return (*x.axes[:2], *(None,) * (len(x.shape) - 2))
