"""A module's attributes beside tensors and children: lists, dicts, and objects such as a config.

A place is the name of a module's attribute and the steps from there: an index, a key, the name of
an object's attribute. Modules, tensors, functions and the like are no containers: what they hold
has no place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, TypeAlias

from torch import Tensor, nn

PathStep: TypeAlias = "int | str"
"""An index of a list or tuple, a key of a dict, or the name of an object's attribute."""

LONGEST = 64  # a longer list, tuple or dict is data, not a configuration
DEEPEST = 6  # steps from the module; sizes do not lie deeper


def entries(holder: Any) -> list[tuple[PathStep, Any]]:
    """What a container or object holds, each with the step that leads to it."""
    if isinstance(holder, (list, tuple)):
        return list(enumerate(holder)) if len(holder) <= LONGEST else []
    inside: dict[PathStep, Any] = {name: value for name, value in _attributes(holder).items()}  # noqa: C416
    if isinstance(holder, dict) and len(holder) <= LONGEST:
        inside |= {k: v for k, v in dict.items(holder) if type(k) in (int, str)}
    return list(inside.items())


def is_object(value: Any) -> bool:
    """Whether it is a plain object, such as a configuration: it has attributes and does nothing."""
    kind = type(value)
    return (
        kind.__module__.partition(".")[0] not in _CLOSED
        and not isinstance(value, (nn.Module, Tensor, Enum))
        and not callable(value)
        and _attributes_of(value) is not None
    )


_CLOSED = frozenset(("builtins", "torch", "numpy", "logging", "threading", "random"))


def _attributes_of(value: Any) -> dict[str, Any] | None:
    """Read directly: a user's class may define how its attributes are read."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return attributes if type(attributes) is dict else None


def _attributes(holder: Any) -> dict[str, Any]:
    return (_attributes_of(holder) or {}) if is_object(holder) else {}


def put(holder: Any, step: PathStep, value: Any) -> None:
    """Set one entry in place: of a dict, of an object, or of one that is both."""
    attributes = _attributes(holder)
    if step in attributes:
        attributes[str(step)] = value
    if isinstance(holder, list) or (isinstance(holder, dict) and step in holder):
        _set_item(holder, step, value)


def _set_item(holder: Any, step: Any, value: Any) -> None:
    """Set directly: a user's class may define how its items are set."""
    (list if isinstance(holder, list) else dict).__setitem__(holder, step, value)


def remade(holder: Any, values: list[Any]) -> Any:
    """A list or tuple of the same kind with these entries."""
    make = getattr(type(holder), "_make", type(holder))  # a named tuple takes no list
    return make(values)


def holders(values: Iterable[Any]) -> list[Any]:
    """Every container and object behind these values, each once."""
    seen: dict[int, Any] = {}
    level = list(values)
    for _ in range(DEEPEST):
        level = [value for value in level if id(value) not in seen and _holds(value)]
        seen.update({id(value): value for value in level})
        level = [entry for value in level for _, entry in entries(value)]
    return list(seen.values())


def _holds(value: Any) -> bool:
    return isinstance(value, (*_KINDS, tuple)) or is_object(value)


def as_they_are(values: Iterable[Any]) -> Callable[[], None]:
    """Note what every container and object behind these values holds; the result puts it back."""
    kept = [
        (holder, kind, copy, list(copy(holder)))
        for holder in holders(values)
        for kind, copy in _PARTS.items()
        if (is_object if kind is object else _is(kind))(holder)
    ]

    def put_back() -> None:
        for holder, kind, copy, before in kept:
            if not _same(list(copy(holder)), before):
                _REFILLED[kind](holder, before)

    return put_back


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _same(now: list[Any], before: list[Any]) -> bool:
    """Whether these are the same objects in the same order."""
    return len(now) == len(before) and all(map(_identical, now, before))


def _identical(a: Any, b: Any) -> bool:
    if type(a) is tuple and type(b) is tuple and len(a) == len(b) == 2:  # a key and its value
        return all(x is y for x, y in zip(a, b, strict=True))
    return a is b


def _refill(holder: Any, content: list[Any]) -> None:
    holder.clear()
    add = holder.extend if isinstance(holder, (list, deque)) else holder.update
    add(content)


_KINDS = (list, deque, set, dict)
_PARTS: dict[type, Callable[[Any], Iterable[Any]]] = {
    list: lambda holder: holder,
    deque: lambda holder: holder,
    set: lambda holder: holder,
    dict: lambda holder: dict.items(holder),
    object: lambda holder: _attributes(holder).items(),
}
_REFILLED: dict[type, Callable[[Any, list[Any]], None]] = {
    **dict.fromkeys(_KINDS, _refill),
    object: lambda holder, content: _refill(_attributes(holder), content),
}
