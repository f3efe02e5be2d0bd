"""One call of a program: an ATen operator, and where its arguments come from.

Arguments are plain values; ``{"node": name}`` stands for the result of an earlier call, and dtypes
and the like for their names. A call's literal integers are lifted out of its arguments, so that
other numbers can be put in their place. A row may come from any file: whatever it holds beyond
this is refused when the call is made, not when it runs.
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
from slimnet.limits import checked_name
from slimnet.operator import Double, of
from slimnet.program.allowance import Unlimited
from slimnet.program.permitted import refusal, trouble

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

_KINDS = {"ScalarType": "dtype", "Device": "device", "Layout": "layout"} | {
    "MemoryFormat": "memory_format"
}
"""The types of a schema that take them: a number in such a place is no check of torch's."""

_NAMED: dict[str, Mapping[str, Any]] = {
    kind: {
        str(value).removeprefix("torch."): value
        for value in vars(torch).values()
        if isinstance(value, wanted)
    }
    for kind, wanted in CONSTANTS.items()
}


@dataclass
class Environment:
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
        return _NAMED[kind][name]


class ProgramCall(Replayed):
    """One operator and what it is called with."""

    def __init__(self, number: int, row: Mapping[str, Any]) -> None:
        self.name = checked_name(row["name"], "value's name")
        self.target: str = row["target"]
        self.function = resolve(self.target)
        self.operator = self.target.split(".")[1]
        self.key = f"{self.operator}:{number}"
        self.literals: list[int] = []
        args, kwargs = list(row["args"]), dict(row["kwargs"])
        _check_arguments(self.function, args, kwargs)
        self.args, self.kwargs = _lifted((args, kwargs), self.literals)
        *site, kind = row.get("site") or ("", 0, "", "", "")
        self.kind = str(kind)  # the name of the class of the module that made it
        self.site = _site(*site)

    def run(self, environment: Environment, literals: Sequence[int], allowed: Unlimited) -> Any:
        """The operator's result; InputError where it takes more memory than is ``allowed``."""
        named = {key: environment.value(value, literals) for key, value in self.kwargs.items()}
        args = [environment.value(arg, literals) for arg in self.args]
        if not isinstance(self.function, torch._ops.OpOverload):
            return _computed(self.target, self.function, args)
        if (why := trouble(self.function, args, named)) is not None:
            raise InputError(f"{self.target} is called with {why}, which its kernel would not see")
        allowed.check(self.function, args, named)
        result = self.function(*args, **named)
        allowed.hold(self.name, result)
        return result.zero_() if of(self.function).double is Double.ZEROS else result

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
    """A permitted ATen overload or an integer operator, by name; anything else is refused."""
    if target in INTEGERS:
        return INTEGERS[target]
    namespace, _, rest = target.partition(".")
    packet, _, overload = rest.partition(".")
    if namespace != "aten" or not packet.isidentifier() or not overload.isidentifier():
        raise ValueError(f"{target!r} is no ATen operator")
    function: torch._ops.OpOverload = getattr(getattr(torch.ops.aten, packet), overload)
    if (why := refusal(function)) is not None:
        raise InputError(
            f"it calls {target}, which a program may not ({why}): open the network's weights with "
            "its class, --arch path/to/file.py:make_model"
        )
    return function


def _check_arguments(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Refuse arguments that the operator does not have, and what is no argument at all."""
    if not isinstance(function, torch._ops.OpOverload):
        if kwargs:
            raise ValueError(f"{function.__name__} takes no {min(kwargs)}")
        for value in args:
            check_argument(value, None)
        return
    declared = {argument.name: argument for argument in function._schema.arguments}
    placed = [argument for argument in declared.values() if not argument.kwarg_only]
    if len(args) > len(placed) or kwargs.keys() - declared.keys():
        raise ValueError(f"{function} is called with arguments that it does not have")
    for argument, value in zip(placed, args, strict=False):
        check_argument(value, _constant_kind(argument))
    for name, value in kwargs.items():
        check_argument(value, _constant_kind(declared[name]))


def _constant_kind(argument: Any) -> str | None:
    """Which kind of constant a parameter of an operator takes, if it takes one."""
    kind = str(argument.real_type).removeprefix("Optional[").removesuffix("]")
    return _KINDS.get(kind)


def check_argument(value: Any, constant: str | None) -> None:
    """Refuse anything but a plain value, a list, an earlier result, or a constant of this kind."""
    if isinstance(value, dict):
        ((kind, name),) = value.items()
        if kind in _NAMED and kind != "device" and name not in _NAMED[kind]:
            raise ValueError(f"{name!r:.80} is no {kind}")
        if kind != (constant or "node"):
            raise ValueError(f"{value!r:.80} is no {constant or 'value'}")
    elif constant is not None and value is not None:
        raise ValueError(f"{value!r:.80} is no {constant}")
    elif isinstance(value, (list, tuple)):
        for entry in value:
            check_argument(entry, None)
    elif isinstance(value, str):
        checked_name(value, "word")
    elif type(value) not in _NUMBERS and value is not None:
        raise ValueError(f"an argument is a {type(value).__name__}")
    elif type(value) is int and not -_WIDEST <= value < _WIDEST:
        raise ValueError(f"a number has {len(str(value))} digits")


_NUMBERS = (bool, int, float, complex)
_WIDEST = 2**63  # of an integer


def _site(file: Any, line: Any, function: Any, module: Any) -> Site:
    return Site(str(file), int(line), str(function), str(module))


def _computed(target: str, function: Callable[..., Any], args: Sequence[Any]) -> Any:
    """Arithmetic on numbers: on lists it would repeat them, and on itself grow without end."""
    if target == "operator.getitem":
        results, place = args
        if isinstance(results, (tuple, list)) and isinstance(place, int):
            return results[place]
    elif all(isinstance(arg, _COUNTED) for arg in args):
        number = function(*args)
        if not isinstance(number, int) or -_WIDEST <= number < _WIDEST:
            return number
    raise InputError(f"{target} is called with something else than numbers of 64 bits")


_COUNTED = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)


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


def last_uses(calls: Sequence[ProgramCall], output: Any) -> list[tuple[str, ...]]:
    """For each call the values that none after it reads: no value is held longer than needed."""
    read_later = set(nodes_of(output))
    ends: list[tuple[str, ...]] = []
    for call in reversed(calls):
        names = dict.fromkeys([*nodes_of([call.args, call.kwargs]), call.name])
        ends.append(tuple(name for name in names if name not in read_later))
        read_later.update(names)
    return ends[::-1]


def nodes_of(argument: Any) -> Iterator[str]:
    """The values that an argument, or the output, reads."""
    if isinstance(argument, dict):
        for kind, value in argument.items():
            yield from (value,) if kind == "node" and isinstance(value, str) else nodes_of(value)
    elif isinstance(argument, (list, tuple)):
        for entry in argument:
            yield from nodes_of(entry)
