"""Operators that look slots up by number: index, gather, scatter and their like.

Along the axis that is looked up every slot keeps its number, so all of it stays; the other axes
keep their labels. A buffer of numbers is cut and renumbered with what it points into.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from slimnet.capture.graph import Call, Ref
from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Axis, Labelled
from slimnet.operator import Reading, register
from slimnet.operators.axes import dim, meet
from slimnet.operators.families import UNFOLLOWED, moving

_BY_NUMBER = "looks up slots by number"
_BY_MASK = "selects slots by a mask"
looking = partial(moving, reading=Reading.PART, scaling=UNFOLLOWED, differentiable=False)


def index(at: At, x: Labelled, places: list[Labelled | None]) -> Axes:
    """``x[a, :, b, mask]``: what is not indexed keeps its labels."""
    given = [(d, where) for d, where in enumerate(places) if where is not None]
    if len(given) == 1 and not _is_mask(given[0][1]):
        d, where = given[0]
        return _along(at, x, d, where, at.call.args[1][d])
    axes, looked_up = _inside(at, x, places)
    at.vanish(x.vanishes and not any(axis is not None for axis in looked_up))
    return axes


def index_select(at: At, x: Labelled, d: int, where: Labelled) -> Axes:
    """An integer index along one axis."""
    found = where if where.shape else Labelled((1,), (None,), where.storage, where.dtype)
    return _along(at, x, dim(x, d), found, at.call.args[2])


def _along(at: At, x: Labelled, d: int, where: Labelled, ref: Ref) -> Axes:
    """A buffer of numbers is renumbered; any other index says which numbers there must be."""
    axis, values = x.axes[d], at.constraints.values.get(id(where))
    found: Sequence[Axis] = where.axes
    at.vanish(x.vanishes and not where.live)
    if axis is not None and ref.name and where.live and values is not None and values.ndim == 1:
        at.remap(where, axis)
        at.tie(where.axes[0], axis[values])
        at.vanish(x.vanishes)
        found = (axis[values],)
    else:
        at.pin(axis, _BY_NUMBER)
    return (*x.axes[:d], *found, *x.axes[d + 1 :])


register(looking(names=("aten.index",), labels=index, values=True))
register(looking(names=("aten.index_select",), labels=index_select, values=True))
register(
    looking(
        names=("aten._unsafe_index",), labels=index, values=True, permitted="trusts its indices"
    )
)


def index_put(
    at: At, x: Labelled, places: list[Labelled | None], values: Labelled, *_: Any
) -> Axes:
    """``x[a, :, b, mask] = values``: along what is not indexed, both lose the same slots."""
    given = [where for where in places if where is not None]
    if len(given) == 1 and _is_mask(given[0]) and math.prod(values.shape) == 1:
        return _filled(at, x, places.index(given[0]), given[0])
    inside, _ = _inside(at, x, places)
    alike = True
    for d, axis in enumerate(inside, -len(inside)):
        own = values.axes[d] if len(values.shape) >= -d and values.shape[d] != 1 else None
        if len(values.shape) >= -d and values.shape[d] == 1:
            at.pin(values.axes[d], "spreads it over another axis")
            alike &= axis is None
        elif len(values.shape) >= -d:
            at.tie_if_live(axis, own)
        else:
            alike &= axis is None
    at.vanish(x.vanishes and values.vanishes and alike)
    return x.axes


def _filled(at: At, x: Labelled, first: int, mask: Labelled) -> Axes:
    """One number wherever a mask says so: slot by slot."""
    for d, axis in enumerate(mask.axes, first):
        at.tie_if_live(x.axes[d], axis)
    at.vanish(False)
    return x.axes


def _inside(at: At, x: Labelled, places: Sequence[Labelled | None]) -> tuple[Axes, Axes]:
    """The labels of ``x[places]``, and those of its axes that are the index's; indexed ones stay.

    The index's axes come first or, where the indexed ones follow each other, in their place.
    """
    taken = dict(_indexed(places))
    for d, mask in taken.items():
        at.pin(x.axes[d], _BY_MASK if mask else _BY_NUMBER)
    first, last = min(taken, default=0), max(taken, default=-1)
    front = first if len(taken) == last + 1 - first else 0
    kept = [axis for d, axis in enumerate(x.axes) if d not in taken]
    looked_up = _broadcast(at, [where for where in places if where is not None])
    return (*kept[:front], *looked_up, *kept[front:]), looked_up


def _indexed(places: Sequence[Labelled | None]) -> Iterator[tuple[int, bool]]:
    """The axes that are indexed, and whether by a mask, which takes one for each of its own."""
    d = 0
    for where in places:
        mask = where is not None and _is_mask(where)
        width = len(where.shape) if where is not None and mask else 1
        yield from ((d + k, mask) for k in range(width) if where is not None)
        d += width


def _broadcast(at: At, given: Sequence[Labelled]) -> Axes:
    """The labels of all index tensors together; how many slots a mask selects is not known."""
    masks = [where for where in given if _is_mask(where)]
    if masks:
        for where in given:
            for axis in where.axes:
                at.pin(axis, _BY_MASK)
        return (None,) * max(1 if where in masks else len(where.shape) for where in given)
    shape = torch.broadcast_shapes(*(where.shape for where in given))
    return tuple(meet(at, given, d - len(shape), n) for d, n in enumerate(shape))


def _is_mask(where: Labelled) -> bool:
    return where.dtype in (torch.bool, torch.uint8)


def _both(place: int, call: Call) -> list[list[Any]]:
    """Zero where both what is written into and what is written are."""
    written = call.args[place]
    if isinstance(written, Ref):
        return [[call.args[0], written]]
    return [[call.args[0]]] if written == 0 else []


writing = partial(looking, moves=False)
putting = partial(writing, labels=index_put, zeros=partial(_both, 2))
register(putting(names=("aten.index_put", "aten.index_put_")))
register(putting(names=("aten._unsafe_index_put",), permitted="trusts its indices"))
register(
    putting(
        names=("aten._index_put_impl_",), permitted="what index_put_ runs; exports hold index_put"
    )
)

# ---------------------------------------------------------------------------- along one axis


def gather(at: At, x: Labelled, d: int, where: Labelled, *_: Any, **__: Any) -> Axes:
    """As many axes as ``x``: along ``d`` by number, along the others slot by slot."""
    place = dim(x, d)
    at.pin(x.axes[place] if x.shape else None, _BY_NUMBER)
    axes = [
        where.axes[k] if k == place else _alongside(at, where, k, x) for k in range(len(x.shape))
    ]
    at.vanish(x.vanishes and (not x.shape or where.axes[place] is None))
    return tuple(axes)


def _alongside(at: At, part: Labelled, d: int, whole: Labelled) -> Axis:
    """Along ``d`` one takes the first slots of the other, or all of them."""
    if part.shape[d] != whole.shape[d]:
        at.pin(whole.axes[d], "takes the first slots of it")
        return part.axes[d]
    at.tie_if_live(part.axes[d], whole.axes[d])
    return part.axes[d] if whole.axes[d] is None else whole.axes[d]


register(looking(names=("aten.gather",), labels=gather))


def scatter(at: At, x: Labelled, d: int, where: Labelled, source: Any, *_: Any, **__: Any) -> Axes:
    """Into ``x`` along ``d`` by number, along the others slot by slot."""
    place = dim(x, d)
    tensor = isinstance(source, Labelled)
    given = [where, source] if tensor else [where]
    for operand in (x, *given):
        at.pin(operand.axes[place] if operand.shape else None, "writes into slots by number")
    for k in range(len(x.shape)):
        if k != place:
            for operand in given:
                _alongside(at, where, k, operand)
            _alongside(at, where, k, x)
    at.vanish(x.vanishes and (source.vanishes if tensor else source == 0))
    return x.axes


register(
    writing(
        names=(
            *("aten.scatter", "aten.scatter_", "aten.scatter_add", "aten.scatter_add_"),
            *("aten.scatter_reduce", "aten.scatter_reduce_"),
        ),
        labels=scatter,
        zeros=partial(_both, 3),
    )
)


def index_add(
    at: At, x: Labelled, d: int, where: Labelled, source: Labelled, *_: Any, **__: Any
) -> Axes:
    """Slices of ``source`` into slices of ``x`` along ``d``, by number."""
    place = dim(x, d)
    for axis in (x.axes[place], source.axes[place], *where.axes):
        at.pin(axis, "writes into slots by number")
    for k in range(len(x.shape)):
        if k != place:
            at.tie_if_live(x.axes[k], source.axes[k])
    at.vanish(x.vanishes and source.vanishes)
    return x.axes


adding = partial(writing, labels=index_add, zeros=partial(_both, 3))
register(adding(names=("aten.index_add", "aten.index_add_", "aten.index_copy", "aten.index_copy_")))
register(
    adding(
        names=("aten.index_reduce", "aten.index_reduce_"),
        permitted="not tried with hostile calls",
    )
)


def index_fill(at: At, x: Labelled, d: int, where: Labelled, value: Any) -> Axes:
    """One number into slices of ``x`` along ``d``."""
    for axis in (x.axes[dim(x, d)], *where.axes):
        at.pin(axis, "writes into slots by number")
    at.vanish(x.vanishes and not isinstance(value, Labelled) and value == 0)
    return x.axes


register(
    writing(
        names=("aten.index_fill", "aten.index_fill_"), labels=index_fill, zeros=partial(_both, 3)
    )
)
