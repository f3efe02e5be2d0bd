"""Where a size came from: numbers that remember it through arithmetic.

While a network is recorded, what ``x.shape`` gives and what the modules' integer attributes hold is
a :class:`Size`: an ``int`` that carries its :data:`SizeSource`; divided or multiplied by a float it
is an :class:`Amount`, a ``float`` that does. So in the arguments of ``view``, ``split`` or
``expand`` three kinds differ: a size that follows the tensors by itself, one that an attribute
holds (which a cut can change) and a literal in the user's code (which it cannot). Where such a
number loses its source, and what the code compares it with, stands in the pass's
:class:`~slimnet.capture.journal.Journal`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from slimnet.capture.belongings import PathStep
from slimnet.capture.journal import journal

Number: TypeAlias = "int | float"


@dataclass(frozen=True)
class ShapeOf:
    """The length of one axis of one recorded tensor."""

    tensor: int
    axis: int
    length: int


@dataclass(frozen=True)
class AttributeOf:
    """An integer attribute of a module, or an entry of what is one: a list, a dict, an object."""

    module: str
    name: str
    value: int = 0
    path: tuple[PathStep, ...] = ()

    def __str__(self) -> str:
        entry = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in self.path)
        return f"{self.module}.{self.name}{entry}".lstrip(".")


@dataclass(frozen=True)
class Combined:
    """Arithmetic on two sources, one of which may be a plain number."""

    symbol: str
    left: SizeSource | Number
    right: SizeSource | Number = 0


Leaf: TypeAlias = ShapeOf | AttributeOf
SizeSource: TypeAlias = Leaf | Combined

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    name: getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "truediv", "pow", "lshift", "rshift")
} | {name: getattr(operator, f"{name}_") for name in ("and", "or")}
_ARITHMETIC["xor"] = operator.xor

_OF_ONE: dict[str, Callable[[Any, Any], Any]] = {
    "floor": lambda value, _: math.floor(value),
    "ceil": lambda value, _: math.ceil(value),
    "trunc": lambda value, _: math.trunc(value),
    "abs": lambda value, _: abs(value),
    "round": lambda value, _: round(value),
    "decimals": round,
}
_OPERATIONS = {**_ARITHMETIC, **_OF_ONE, "eq": operator.eq}


def evaluate(source: SizeSource | Number, read: Callable[[Leaf], Number]) -> Number:
    """The value of a source when each leaf has the value that ``read`` gives.

    -1, which is no length, where it has none: a division by nothing, a root of a negative number.
    """
    value = _evaluate(source, read)
    return value if isinstance(value, (int, float)) and math.isfinite(value) else -1


def _evaluate(source: SizeSource | Number, read: Callable[[Leaf], Number]) -> Any:
    if isinstance(source, Combined):
        left, right = _evaluate(source.left, read), _evaluate(source.right, read)
        try:
            return _OPERATIONS[source.symbol](left, right)
        except (ArithmeticError, ValueError, TypeError):
            return math.nan
    return source if isinstance(source, (int, float)) else read(source)


def leaves(source: SizeSource | Number) -> Iterator[Leaf]:
    """Every shape and attribute that a source was computed from."""
    if isinstance(source, Combined):
        yield from leaves(source.left)
        yield from leaves(source.right)
    elif not isinstance(source, (int, float)):
        yield source


class Size(int):
    """An integer that remembers where it came from."""

    source: SizeSource

    def __new__(cls, value: int, source: SizeSource) -> Size:
        """An integer of this value that came from ``source``."""
        size = super().__new__(cls, value)
        size.source = source
        return size

    def __int__(self) -> int:
        return _converted(int.__int__(self))

    def __reduce__(self) -> Any:
        return int, (int.__int__(self),)


class Amount(float):
    """A float that was computed from a :class:`Size`, and remembers it."""

    source: SizeSource

    def __new__(cls, value: float, source: SizeSource) -> Amount:
        """A float of this value that came from ``source``."""
        amount = super().__new__(cls, value)
        amount.source = source
        return amount

    def __int__(self) -> int:
        return _converted(int(float.__float__(self)))

    def __reduce__(self) -> Any:
        return float, (float.__float__(self),)


class NumpySize(Size):
    """A :class:`Size` in place of one of numpy's integers: it has their methods too."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np.int64(int.__int__(self)), name)


def _converted(value: int) -> int:
    """``int()`` makes a plain integer of any number: the journal notes whose code called it."""
    notes = journal()
    if notes is not None:
        notes.converted()
    return value


def _remembered(value: Any, source: SizeSource) -> Any:
    """The result of arithmetic, with its source."""
    kind = _REMEMBERING.get(type(value))
    return value if kind is None else kind(value, source)


_REMEMBERING: dict[type, Callable[[Any, SizeSource], Any]] = {int: Size, float: Amount}


def _bare(value: Any) -> Any:
    """The number without its memory."""
    return int.__int__(value) if isinstance(value, int) else float.__float__(value)


def _source(value: Any) -> SizeSource | Number:
    """Where an operand came from."""
    if isinstance(value, (Size, Amount)):
        return value.source
    bare: Number = _bare(value)
    return bare


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _give(kind: type, **methods: Any) -> None:
    """Special methods, by their names without underscores."""
    for name, method in methods.items():
        setattr(kind, f"__{name}__", method)


def _give_arithmetic(kind: type, symbol: str, compute: Callable[[Any, Any], Any]) -> None:
    """One operator, from the left and from the right."""

    def forward(self: Any, other: Any, *modulus: Any) -> Any:
        if not _is_number(other) or modulus:
            return NotImplemented
        value = compute(_bare(self), _bare(other))
        return _remembered(value, Combined(symbol, self.source, _source(other)))

    def backward(self: Any, other: Any) -> Any:
        if not _is_number(other):
            return NotImplemented
        value = compute(_bare(other), _bare(self))
        return _remembered(value, Combined(symbol, _source(other), self.source))

    _give(kind, **{symbol: forward, f"r{symbol}": backward})


def _give_pairs(kind: type) -> None:
    """``divmod``, from the left and from the right."""

    def forward(self: Any, other: Any) -> Any:
        return (self // other, self % other) if _is_number(other) else NotImplemented

    def backward(self: Any, other: Any) -> Any:
        return (other // self, other % self) if _is_number(other) else NotImplemented

    _give(kind, divmod=forward, rdivmod=backward)


def _give_rounding(kind: type) -> None:
    """What takes one number: rounding in its ways, the sign."""

    def of_one(symbol: str) -> Callable[[Any], Any]:
        def compute(self: Any) -> Any:
            value = _OF_ONE[symbol](_bare(self), None)
            return _remembered(value, Combined(symbol, self.source))

        return compute

    def rounded(self: Any, digits: int | None = None) -> Any:
        if digits is None:
            return of_one("round")(self)
        value = round(_bare(self), _bare(digits))
        return _remembered(value, Combined("decimals", self.source, _source(digits)))

    _give(kind, **{symbol: of_one(symbol) for symbol in ("floor", "ceil", "trunc", "abs")})
    _give(kind, round=rounded, pos=lambda self: self, neg=lambda self: 0 - self)


def _give_equality(kind: type, base: Any) -> None:
    """What the code finds equal must stay equal: the journal writes it down."""

    def equal(self: Any, other: Any) -> Any:
        outcome = base.__eq__(self, other)
        if outcome is True:
            _found_equal(self, other)
        return outcome

    def unequal(self: Any, other: Any) -> Any:
        outcome = base.__ne__(self, other)
        if outcome is False:
            _found_equal(self, other)
        return outcome

    def hashed(self: Any) -> int:
        notes = journal()
        if notes is not None:
            notes.hashed()
        return int(base.__hash__(self))

    _give(kind, eq=equal, ne=unequal, hash=hashed)


def _found_equal(left: Any, right: Any) -> None:
    notes = journal()
    if notes is not None:
        notes.equal(Combined("eq", left.source, _source(right)))


for _kind, _base in ((Size, int), (Amount, float)):
    for _symbol, _compute in _ARITHMETIC.items():
        if hasattr(_base, f"__{_symbol}__"):
            _give_arithmetic(_kind, _symbol, _compute)
    _give_pairs(_kind)
    _give_rounding(_kind)
    _give_equality(_kind, _base)


class Shape(tuple[int, ...]):
    """What ``x.shape`` gives while recording: a tuple of sizes that behaves like a torch.Size."""

    __slots__ = ()

    def numel(self) -> int:
        """The product of the sizes."""
        product = 1
        for size in self:
            product = size * product
        return product

    def prod(self, axis: None = None, out: None = None) -> int:
        """What ``np.prod`` asks for."""
        return self.numel()

    def __getitem__(self, item: Any) -> Any:
        entry = super().__getitem__(item)
        return Shape(entry) if isinstance(item, slice) else entry


def shape_of(tensor: int, lengths: Iterable[int]) -> Shape:
    """The shape of a recorded tensor, each length knowing its axis."""
    return Shape(Size(n, ShapeOf(tensor, axis, n)) for axis, n in enumerate(lengths))
