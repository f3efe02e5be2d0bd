"""Operators that take parts by their place: slices, splits, single slots.

The slots that they take by their place must stay where the code says they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from slimnet.capture.graph import Call
from slimnet.capture.sizes import Combined, Number, ShapeOf, SizeSource, evaluate
from slimnet.capture.trace import source
from slimnet.coupling.at import At, Axes
from slimnet.coupling.labels import Flags, Labelled, Labels
from slimnet.coupling.scaling.boxes import Box, exchanged, marked
from slimnet.coupling.scaling.steps import Demands, Way
from slimnet.operator import Layout, Reading, register
from slimnet.operators.axes import dim, replaced
from slimnet.operators.families import moving

taking = partial(moving, reading=Reading.PART, differentiable=True)


def slice_(
    at: At,
    x: Labelled,
    d: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Axes:
    """A range of labels; the slots before each bound must stay as many as the code says."""
    place = dim(x, d)
    axis, length = x.axes[place], x.shape[place]
    first, last, _ = slice(start, end, step).indices(length)
    if axis is None:
        return x.axes
    if at.asked("tensor_split", "chunk"):
        _even_parts(at, axis, (at.asked("tensor_split", "chunk") or (0,))[0])
    else:
        low, high = _bounds(at, start, end, length)
        _bound(at, axis, first, low)
        _bound(at, axis, last, high)
        if step != 1:
            _strided(at, axis, first, last, step)
    return replaced(x, place, axis[first:last:step])


def _even_parts(at: At, axis: Labels, parts: Any) -> None:
    if isinstance(parts, int) and len(axis) % parts == 0:
        at.tie_blocks(axis, parts)
    else:
        at.pin(axis, "divides it unevenly")


def _bound(at: At, axis: Labels, place: int, stated: SizeSource | int | None) -> None:
    """As many slots must be left before (a negative number: after) a bound as is stated."""
    if 0 < place < len(axis):
        if stated is not None and _value(stated) < 0:
            at.need(_negated(stated), axis[place:], len(axis) - place)
        else:
            at.need(stated if stated is not None else place, axis[:place], place)


def _value(stated: SizeSource | int) -> Number:
    return evaluate(stated, lambda leaf: leaf.length if isinstance(leaf, ShapeOf) else leaf.value)


def _negated(stated: SizeSource | int) -> SizeSource | int:
    return -stated if isinstance(stated, int) else Combined("sub", 0, stated)


def _bounds(at: At, start: int | None, end: int | None, length: int) -> tuple[Any, Any]:
    """What the user's own index says about this slice's bounds: sources, or plain numbers."""
    asked = at.asked("narrow")
    if asked and len(asked) == 3:
        low, size = source(asked[1]), source(asked[2])
        return (low or start), (size if size is not None and start == 0 else end)
    stated = at.asked("slice")  # the operator itself, as an exported program calls it
    if stated:
        low, high = (*stated[1:3], None, None)[:2]
        return _known(low, start), _known(high, end)
    for given in _slices(at.asked("__getitem__", "__setitem__") or ()):
        same_start = (given.start or 0) in (start or 0, (start or 0) - length)
        whole = end is None or end >= length
        same_end = whole if given.stop is None else given.stop in (end, (end or 0) - length)
        if same_start and same_end:
            return _known(given.start, start), _known(given.stop, end)
    return start, end


def _known(given: Any, value: int | None) -> Any:
    return source(given) or (int(given) if isinstance(given, int) else value)


def _slices(tree: Any) -> Iterator[slice]:
    for entry in tree:
        if isinstance(entry, slice):
            yield entry
        elif isinstance(entry, (tuple, list)):
            yield from _slices(entry)


def _strided(at: At, axis: Labels, first: int, last: int, step: int) -> None:
    """Every step-th slot: whole steps leave together, so that the pattern stays in phase."""
    if first >= step or last < len(axis):
        at.pin(axis, f"takes every {step}th slot of a part of it")
        return
    whole = len(axis) - len(axis) % step
    steps = axis[:whole].reshape(-1, step)
    at.tie(np.repeat(steps[:, 0], step - 1), steps[:, 1:].reshape(-1))
    at.pin(axis[whole:], f"takes every {step}th slot")


def _sliced(_: Way, call: Call, box: Box, __: int) -> Demands:
    x, given = call.args[0], call.args[1:]
    d = given[0] % len(x.shape) if given else 0
    part = slice(*given[1:]) if given[1:] else slice(None)
    if len(given) == 2:
        part = slice(given[1], None)  # a start alone
    return [(x, exchanged(box, d, marked(x.shape[d], part, box[d])))]


register(taking(names=("aten.slice",), labels=slice_, scaling=_sliced, layout=Layout.LAYS))


def select(at: At, x: Labelled, d: int, index: int) -> Axes:
    """One slot, named by its place: it and all before it stay."""
    place = dim(x, d)
    axis = x.axes[place]
    if axis is not None:
        at.pin(axis[: index + 1] if index >= 0 else axis[index:], "takes one slot by its place")
    return (*x.axes[:place], *x.axes[place + 1 :])


def _selected(_: Way, call: Call, box: Box, __: int) -> Demands:
    x, d, index = call.args
    return [(x, _inserted(box, d % len(x.shape), marked(x.shape[d], index)))]


def _inserted(box: Box, axis: int, flags: Flags) -> Box:
    return (*box[:axis], flags, *box[axis:])


register(taking(names=("aten.select",), labels=select, scaling=_selected))


def unbind(at: At, x: Labelled, d: int = 0) -> list[Axes]:
    """Each slot becomes a tensor: their number stays."""
    place = dim(x, d)
    at.pin(x.axes[place], "makes a tensor of each slot")
    return [(*x.axes[:place], *x.axes[place + 1 :])] * x.shape[place]


def _unbound(_: Way, call: Call, box: Box, place: int) -> Demands:
    x, d = call.args[0], (*call.args[1:], 0)[0]
    return [(x, _inserted(box, d % len(x.shape), marked(x.shape[d], place)))]


register(taking(names=("aten.unbind",), labels=unbind, scaling=_unbound))


def split(at: At, x: Labelled, size: int, d: int = 0) -> list[Axes]:
    """Parts of equal size: chunk keeps them equal, a stated size stays."""
    place = dim(x, d)
    axis, length = x.axes[place], x.shape[place]
    if axis is None:
        return [x.axes] * -(-length // size)
    parts = [axis[i : i + size] for i in range(0, length, size)]
    chunks = at.asked("chunk", "unsafe_chunk")
    if chunks:
        _even_parts(at, axis, chunks[0])
    else:
        asked = at.number("split", "unsafe_split", place=1, key="split_size_or_sections")
        stated = asked if asked is not None else size
        for part in parts if not isinstance(stated, int) else parts[:-1]:
            at.need(stated, part, len(part))
    return [replaced(x, place, part) for part in parts]


def _divided(_: Way, call: Call, box: Box, place: int) -> Demands:
    x, d = call.args[0], (*call.args[2:], 0)[0] % len(call.args[0].shape)
    first = sum(out.shape[d] for out in call.outputs[:place])
    part = slice(first, first + call.outputs[place].shape[d])
    return [(x, exchanged(box, d, marked(x.shape[d], part, box[d])))]


register(
    taking(
        names=("aten.split", "aten.split_copy", "aten.unsafe_split"),
        labels=split,
        scaling=_divided,
    )
)


def split_with_sizes(at: At, x: Labelled, sizes: list[int], d: int = 0) -> list[Axes]:
    """Parts of stated sizes."""
    place = dim(x, d)
    axis = x.axes[place]
    ends = np.cumsum(sizes)
    if axis is None:
        return [x.axes] * len(sizes)
    parts = [axis[end - n : end] for end, n in zip(ends, sizes, strict=True)]
    for part, given in zip(parts, at.sizes(sizes), strict=True):
        at.need(given, part, len(part))
    return [replaced(x, place, part) for part in parts]


register(
    taking(
        names=("aten.split_with_sizes", "aten.split_with_sizes_copy"),
        labels=split_with_sizes,
        sizes=("split", "split_with_sizes", "split_with_sizes_copy"),
        scaling=_divided,
    )
)
