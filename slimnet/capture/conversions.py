"""``int`` and ``len`` that keep a size's source.

Python's own make a plain integer of any number. Where a user's code applied them to a size, it is
recorded again with these in their place: in the global names of that code alone, and until the
pass is over. For everything else they give what Python's own give.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from slimnet.capture.sizes import Amount, Size


class _Integers(type):
    """What makes a class pass for ``int`` wherever code asks what is one."""

    def __call__(cls, *args: Any, **named: Any) -> Any:
        if len(args) == 1 and not named and isinstance(args[0], (Size, Amount)):
            return math.trunc(args[0])
        return int(*args, **named)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, int)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, int)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is int or other is Size

    def __hash__(cls) -> int:
        return hash(int)


class Integer(int, metaclass=_Integers):
    """In place of ``int``."""


def length(value: Any) -> int:
    """In place of ``len``: of a tensor, the length of its first axis."""
    number = len(value)
    return value.shape[0] if isinstance(value, Tensor) else number


@contextmanager
def remembering_conversions(names: Iterable[dict[str, Any]]) -> Iterator[None]:
    """Inside, ``int`` and ``len`` of these global names remember."""
    changed = [table for table in names if not table.keys() & _KEEPING.keys()]
    for table in changed:
        table.update(_KEEPING)
    try:
        yield
    finally:
        for table in changed:
            for name in _KEEPING:
                table.pop(name, None)


_KEEPING: dict[str, Any] = {"int": Integer, "len": length}
