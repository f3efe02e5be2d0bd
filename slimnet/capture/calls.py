"""One call of a program: an ATen operator, and where its arguments come from.

Arguments are plain values; ``{"node": name}`` stands for the result of an earlier call, and dtypes
and the like for their names. A call's literal integers are lifted out of its arguments, so that
whoever runs it can give others.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from slimnet.capture.sites import Replayed, Site
from slimnet.errors import InputError

INTEGERS: dict[str, Callable[..., Any]] = {
    **{
        f"operator.{name}": getattr(operator, name)
        for name in (
            *("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "getitem"),
            *("eq", "ne", "ge", "le", "gt", "lt"),
        )
    },
    **{f"math.{name}": getattr(math, name) for name in ("trunc", "floor", "ceil")},
    **{f"torch.sym_{n}": getattr(torch, f"sym_{n}") for n in ("max", "min", "not", "int", "float")},
}
"""What a program may call beside ATen operators."""

CONSTANTS: dict[str, type] = {
    "dtype": torch.dtype,
    "device": torch.device,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}
"""Arguments that are neither tensors nor numbers: a program holds their names."""


@dataclass
class Scope:
    """What the arguments of calls are looked up in."""

    values: dict[str, Any]
    device: torch.device

    def value(self, argument: Any, literals: Sequence[int] = ()) -> Any:
        """An argument's value."""
        if isinstance(argument, _Literal):
            return literals[argument.place]
        if isinstance(argument, list):
            return [self.value(entry, literals) for entry in argument]
        if not isinstance(argument, dict):
            return argument
        ((kind, name),) = argument.items()
        if kind == "node":
            return self.values[name]
        if kind == "device":
            return self.device  # where the weights are now, not where they were recorded
        found = getattr(torch, name)
        if not isinstance(found, CONSTANTS[kind]):
            raise InputError(f"the embedded program is damaged: {name!r} is no {kind}")
        return found


class Call(Replayed):
    """One operator and what it is called with."""

    def __init__(self, number: int, row: Mapping[str, Any]) -> None:
        self.name: str = row["name"]
        self.target: str = row["target"]
        self.function = resolve(self.target)
        self.operator = self.target.split(".")[1]
        self.key = f"{self.operator}:{number}"
        self.literals: list[int] = []
        self.args, self.kwargs = _lifted((list(row["args"]), dict(row["kwargs"])), self.literals)
        *site, kind = row.get("site") or ("", 0, "", "", "")
        self.kind: str = kind  # the name of the class of the module that made it
        self.site = Site(*site)

    def run(self, scope: Scope, literals: Sequence[int]) -> Any:
        """The operator's result."""
        named = {key: scope.value(value, literals) for key, value in self.kwargs.items()}
        return self.function(*(scope.value(arg, literals) for arg in self.args), **named)

    def plain(self, literals: Sequence[int]) -> dict[str, Any]:
        """What it was made from, with these literals."""
        site = self.site
        return {
            "name": self.name,
            "target": self.target,
            "args": _lowered(self.args, literals),
            "kwargs": _lowered(self.kwargs, literals),
            "site": [site.file, site.line, site.function, site.module, self.kind],
        }


def resolve(target: str) -> Callable[..., Any]:
    """An ATen overload or integer operator by name; anything else is refused."""
    if target in INTEGERS:
        return INTEGERS[target]
    namespace, _, rest = target.partition(".")
    packet, _, overload = rest.partition(".")
    if namespace != "aten" or not packet.isidentifier() or not overload.isidentifier():
        raise ValueError(f"{target!r} is no ATen operator")
    found = getattr(getattr(torch.ops.aten, packet), overload)
    if any(argument.name == "filename" for argument in found._schema.arguments):
        raise ValueError(f"{target!r} reads or writes files")  # aten.save, aten.from_file
    return found  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Literal:
    """Stands in a call's arguments for one of its literal integers."""

    place: int


def _lifted(argument: Any, literals: list[int]) -> Any:
    """The argument with its integers moved into ``literals``."""
    if type(argument) is int:
        literals.append(argument)
        return _Literal(len(literals) - 1)
    if isinstance(argument, (list, tuple)):
        return type(argument)(_lifted(entry, literals) for entry in argument)
    if isinstance(argument, dict):
        return {key: _lifted(value, literals) for key, value in argument.items()}
    return argument


def _lowered(argument: Any, literals: Sequence[int]) -> Any:
    """The inverse of :func:`_lifted`."""
    if isinstance(argument, _Literal):
        return literals[argument.place]
    if isinstance(argument, list):
        return [_lowered(entry, literals) for entry in argument]
    if isinstance(argument, dict):
        return {key: _lowered(value, literals) for key, value in argument.items()}
    return argument


def last_uses(calls: Sequence[Call], output: Any) -> list[tuple[str, ...]]:
    """For each call the values that nobody reads after it: none is held longer than needed."""
    seen = set(nodes_of(output))
    ends: list[tuple[str, ...]] = []
    for call in reversed(calls):
        used = dict.fromkeys([*nodes_of([call.args, call.kwargs]), call.name])
        ends.append(tuple(name for name in used if name not in seen))
        seen.update(used)
    return ends[::-1]


def nodes_of(argument: Any) -> Iterator[str]:
    """The values that an argument, or the output, reads."""
    if isinstance(argument, dict):
        for kind, value in argument.items():
            yield from (value,) if kind == "node" and isinstance(value, str) else nodes_of(value)
    elif isinstance(argument, (list, tuple)):
        for entry in argument:
            yield from nodes_of(entry)
