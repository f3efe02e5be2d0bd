"""A dataclass of options as a command line takes it, and its value from what was typed.

Fields of :func:`~slimnet.signature.option` are options of typer; a field of :func:`part` stands for
the options of another dataclass, or for some of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from slimnet.errors import InputError
from slimnet.signature import Option, options_of

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Part:
    """Which options of another dataclass, and what they are by default in this command."""

    names: tuple[str, ...]  # none: every one that is not hidden
    defaults: Mapping[str, Any]


def part(*names: str, **defaults: Any) -> Any:
    """A field that holds other options."""
    return field(metadata={"part": Part(names, defaults)})


def signature(kind: type) -> Signature:
    """One parameter for each option, in their order, as typer reads it."""
    return Signature(list(_parameters(kind)))


def built(kind: type[Kind], typed: Mapping[str, Any]) -> Kind:
    """The options from what was typed; raises :class:`~slimnet.errors.InputError`.

    What is not among ``typed`` is as it is by default.
    """
    types, rows = get_type_hints(kind), options_of(kind)
    values = {}
    for row in fields(kind):  # type: ignore[arg-type]
        if "part" in row.metadata:
            names = _names(row.metadata["part"], types[row.name])
            values[row.name] = built(types[row.name], {name: typed[name] for name in names})
        elif typed.get(row.name) not in (None, []):
            parse = rows[row.name].parse
            values[row.name] = parse(typed[row.name]) if parse else typed[row.name]
    return kind(**values)


def check_together(kind: type, typed: Mapping[str, Any], given: Collection[str]) -> None:
    """Raise :class:`~slimnet.errors.InputError` for an option that would do nothing.

    ``given`` are those that were typed, the others have their defaults.
    """
    for name, row in options_of(kind).items():
        if name not in given:
            continue
        flag = _Written()[name]
        if row.needs and not typed[row.needs]:
            needed = _Written()[row.needs]
            raise InputError(f"{flag} means nothing without {needed}: add that, or leave it out")
        if row.replaces in given:
            other = _Written()[row.replaces]
            raise InputError(f"{flag} and {other} say the same in two ways: give one of them")


def _parameters(kind: type) -> Iterator[Parameter]:
    types = get_type_hints(kind)
    for row in fields(kind):
        if "part" not in row.metadata:
            yield _parameter(row, types[row.name], row.default, getattr(kind, "PANEL", None))
            continue
        some: Part = row.metadata["part"]
        within = {parameter.name: parameter for parameter in _parameters(types[row.name])}
        for name in _names(some, types[row.name]):
            default = some.defaults.get(name, within[name].default)
            yield within[name].replace(default=default)


def _names(some: Part, kind: type) -> tuple[str, ...]:
    shown = [name for name, row in options_of(kind).items() if not row.hidden]
    return some.names or tuple(shown)


def _parameter(row: Field[Any], kind: Any, default: Any, panel: str | None) -> Parameter:
    option: Option = row.metadata["option"]
    if option.positional:
        info = typer.Argument(help=_help(option), show_default=default is not MISSING)
    else:
        low, high = option.bounds
        flags = option.flags or (f"--{row.name.replace('_', '-')}",)
        info = typer.Option(*flags, help=_help(option), min=low, max=high, rich_help_panel=panel)
    return Parameter(
        row.name,
        Parameter.KEYWORD_ONLY,
        default=Parameter.empty if default is MISSING else _typed(default),
        annotation=Annotated[option.kind or kind, info],
    )


def _typed(default: Any) -> Any:
    """The default as the help shows it; None where there is nothing to show."""
    return default if isinstance(default, (str, int, float, Path)) else None


def _help(option: Option) -> str:
    return (option.help + option.typed).format_map(_Written())


class _Written(dict[str, str]):
    """Options by name, as they are typed."""

    def __missing__(self, name: str) -> str:
        return f"--{name.replace('_', '-')}"
