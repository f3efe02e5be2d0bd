"""Where a size came from: integers that remember it through arithmetic.

While a network is recorded, what ``x.shape`` gives and what the modules' integer attributes hold is
a :class:`Size`: an ``int`` that carries its :data:`Source`. When it arrives in ``view``, ``split``
or ``expand``, a size that follows the tensors by itself, a size that an attribute holds (and that
can be mended) and a literal in the user's code (which cannot) are told apart exactly.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class ShapeOf:
    """The length of one axis of one recorded tensor."""

    tensor: int
    axis: int
    length: int


@dataclass(frozen=True)
class AttributeOf:
    """An integer attribute of a module, or an entry of a tuple or list that is one."""

    module: str
    name: str
    value: int = 0
    path: tuple[int, ...] = ()

    def __str__(self) -> str:
        entry = "".join(f"[{i}]" for i in self.path)
        return f"{self.module}.{self.name}{entry}".lstrip(".")


@dataclass(frozen=True)
class Combined:
    """Integer arithmetic on two sources, one of which may be a plain number."""

    symbol: str
    left: Source | int
    right: Source | int


Leaf: TypeAlias = ShapeOf | AttributeOf
Source: TypeAlias = Leaf | Combined

_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
}


def evaluate(source: Source | int, read: Callable[[Leaf], int]) -> int:
    """The value of a source when each leaf has the value that ``read`` gives."""
    if isinstance(source, Combined):
        left, right = evaluate(source.left, read), evaluate(source.right, read)
        if right == 0 and source.symbol in ("floordiv", "mod"):
            return -1
        return _ARITHMETIC[source.symbol](left, right)
    return source if isinstance(source, int) else read(source)


def leaves(source: Source | int) -> Iterator[Leaf]:
    """Every shape and attribute that a source was computed from."""
    if isinstance(source, Combined):
        yield from leaves(source.left)
        yield from leaves(source.right)
    elif not isinstance(source, int):
        yield source


class Size(int):
    """An integer that remembers where it came from."""

    source: Source

    def __new__(cls, value: int, source: Source) -> Size:
        """An integer of this value that came from ``source``."""
        size = super().__new__(cls, value)
        size.source = source
        return size

    def __neg__(self) -> Size:
        return Size(-int(self), Combined("sub", 0, self.source))

    def __reduce__(self) -> Any:
        return int, (int(self),)


def _plain(value: int) -> Source | int:
    return value.source if isinstance(value, Size) else int(value)


def _install(symbol: str, compute: Callable[[int, int], int]) -> None:
    """Give :class:`Size` one arithmetic operator, from the left and from the right."""

    def forward(self: Size, other: Any) -> Any:
        if not isinstance(other, int) or isinstance(other, bool):
            return NotImplemented
        return Size(compute(int(self), int(other)), Combined(symbol, self.source, _plain(other)))

    def backward(self: Size, other: Any) -> Any:
        if not isinstance(other, int) or isinstance(other, bool):
            return NotImplemented
        return Size(compute(int(other), int(self)), Combined(symbol, _plain(other), self.source))

    setattr(Size, f"__{symbol}__", forward)
    setattr(Size, f"__r{symbol}__", backward)


for _symbol, _compute in _ARITHMETIC.items():
    _install(_symbol, _compute)


class Shape(tuple[int, ...]):
    """What ``x.shape`` gives while recording: a tuple of sizes that behaves like a torch.Size."""

    __slots__ = ()

    def numel(self) -> int:
        """The product of the sizes."""
        product = 1
        for size in self:
            product = size * product
        return product

    def __getitem__(self, item: Any) -> Any:
        found = super().__getitem__(item)
        return Shape(found) if isinstance(item, slice) else found


def shape_of(tensor: int, lengths: Iterable[int]) -> Shape:
    """The shape of a recorded tensor, each length knowing its axis."""
    return Shape(Size(n, ShapeOf(tensor, axis, n)) for axis, n in enumerate(lengths))


def tracked(value: Any, module: str, name: str, path: tuple[int, ...] = ()) -> Any:
    """A copy of an attribute's value in which every integer is a :class:`Size`.

    Returns the value itself where it holds none.
    """
    if type(value) is int:
        return Size(value, AttributeOf(module, name, value, path))
    if type(value) in (tuple, list) and len(value) <= _LONGEST:
        entries = [tracked(entry, module, name, (*path, i)) for i, entry in enumerate(value)]
        changed = any(new is not old for new, old in zip(entries, value, strict=True))
        return type(value)(entries) if changed else value
    return value


_LONGEST = 64  # a longer tuple or list is data, not a configuration
