"""Operators that scan positions and treat channels one by one: pooling, resampling, borders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Labelled
from slimnet.operator import Rule, register
from slimnet.operators.families import slot_by_slot


def windows(spatial: int, outputs: int = 1) -> Rule:
    """A rule for operators that scan the last ``spatial`` axes and treat channels one by one."""

    def scan(at: At, x: Labelled, *args: Any, **kwargs: Any) -> Any:
        for axis in x.axes[-spatial:]:
            at.pin(axis, "scans it with windows")
        axes = (*x.axes[:-spatial], *(None,) * spatial)
        return axes if outputs == 1 else [axes] * outputs

    return scan


def _by_scale(args: Sequence[Any]) -> str | None:
    """Resampling: [N, C, …] to a size, and how much larger that is, where it is told."""
    x, sizes, *rest = args
    if sizes is None:
        return None  # an overload that computes them itself
    scales = [scale for scale in rest if not isinstance(scale, (bool, list))]
    for length, size, scale in zip(x.shape[2:], sizes, scales, strict=False):
        if scale is not None and not abs(length * scale - size) <= 1:
            return f"a scale of {scale} from {length} to {size}"
    return None


register(
    slot_by_slot(
        names=("aten.avg_pool2d", "aten._adaptive_avg_pool2d"),
        labels=windows(2),
        differentiable=True,
    )
)
register(slot_by_slot(names=("aten.avg_pool3d", "aten._adaptive_avg_pool3d"), labels=windows(3)))
register(
    slot_by_slot(
        names=("aten.max_pool2d_with_indices",), labels=windows(2, outputs=2), differentiable=True
    )
)
register(
    slot_by_slot(
        names=("aten.adaptive_max_pool2d", "aten.fractional_max_pool2d"),
        labels=windows(2, outputs=2),
    )
)
register(
    slot_by_slot(
        names=("aten.max_pool3d_with_indices", "aten.adaptive_max_pool3d"),
        labels=windows(3, outputs=2),
    )
)
register(slot_by_slot(names=("aten.reflection_pad1d", "aten.replication_pad1d"), labels=windows(1)))
register(slot_by_slot(names=("aten.reflection_pad2d", "aten.replication_pad2d"), labels=windows(2)))
register(slot_by_slot(names=("aten.reflection_pad3d", "aten.replication_pad3d"), labels=windows(3)))

resampling = partial(slot_by_slot, permitted=_by_scale)
register(
    resampling(
        names=(
            *("aten.upsample_nearest1d", "aten._upsample_nearest_exact1d"),
            "aten.upsample_linear1d",
        ),
        labels=windows(1),
    )
)
register(
    resampling(
        names=(
            *("aten.upsample_nearest2d", "aten._upsample_nearest_exact2d"),
            *("aten.upsample_bilinear2d", "aten.upsample_bicubic2d"),
            *("aten._upsample_bilinear2d_aa", "aten._upsample_bicubic2d_aa"),
        ),
        labels=windows(2),
    )
)
register(
    resampling(
        names=(
            *("aten.upsample_nearest3d", "aten._upsample_nearest_exact3d"),
            "aten.upsample_trilinear3d",
        ),
        labels=windows(3),
    )
)


def max_unpool2d(at: At, x: Labelled, places: Labelled, *_: Any) -> Axes:
    """Values put back where they came from, channel by channel."""
    for left, right in zip(x.axes, places.axes, strict=True):
        at.tie_if_live(left, right)
    axes: Axes = windows(2)(at, x)
    return axes


def grid_sampler(at: At, x: Labelled, grid: Labelled, *_: Any) -> Axes:
    """Every channel is read at the places that ``grid`` names."""
    for axis in (*x.axes[2:], *grid.axes[1:]):
        at.pin(axis, "samples it at places")
    at.tie_if_live(x.axes[0], grid.axes[0])
    at.vanish(x.vanishes)
    return (*x.axes[:2], *(None,) * (len(x.shape) - 2))


register(slot_by_slot(names=("aten.max_unpool2d",), labels=max_unpool2d))
register(slot_by_slot(names=("aten.grid_sampler_2d", "aten.grid_sampler_3d"), labels=grid_sampler))
