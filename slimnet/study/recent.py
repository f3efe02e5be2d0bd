"""The last few values that were read from files, so that not every cell of a study reads them anew.

Every worker of every study has its own. Values do not travel: an unpickled one is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """At most ``size`` values by their keys; the one that was not asked for longest goes first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: dict[Hashable, T] = {}

    def get(self, key: Hashable, read: Callable[[], T]) -> T:
        """The value of a key; ``read`` where it is not held. A key decides its value."""
        value = self._values[key] if key in self._values else read()
        others = [(k, v) for k, v in self._values.items() if k != key]
        # replaced, not changed: another thread sees the values before or after, and both are right
        self._values = dict([*others, (key, value)][-self.size :])
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        return Recent, (self.size,)
