"""Options as the fields of a frozen dataclass, and a signature made from them.

A field that :func:`option` makes is one option with everything that is said of it: its type, its
default, its help, how a command line writes it, and what is refused. :func:`keywords` makes the
public function from it, the command line makes its options (:mod:`slimnet.cli.typed`).
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, get_type_hints

P = ParamSpec("P")
First = TypeVar("First")
Options = TypeVar("Options")
Result = TypeVar("Result")

WIDTH = 100  # columns of a docstring


@dataclass(frozen=True)
class Option:
    """What is said of an option beside its name, its type and its default.

    ``{name}`` in its texts stands for another option, as it is written where the text is read.
    """

    help: str
    typed: str = ""  # what the command line's help adds
    python: str = ""  # what the docstring adds
    flags: tuple[str, ...] = ()  # ("-o", "--output"); --name by itself
    kind: Any = None  # the type on the command line, where it is not the field's own
    parse: Callable[[Any], Any] | None = None  # what was typed → the value
    check: Callable[[str, Any], None] | None = None  # (name, value); raises InputError
    bounds: tuple[float | None, float | None] = (None, None)  # of a number, on the command line
    needs: str = ""  # the option without which it means nothing, on the command line
    replaces: str = ""  # the option that means nothing beside it, there too
    positional: bool = False  # on the command line
    hidden: bool = False  # from the command line
    asked: bool = True  # part of what was asked for, as a plan remembers it


def option(default: Any, row: Option | str, **more: Any) -> Any:
    """One field of a dataclass of options."""
    row = row if isinstance(row, Option) else Option(row, **more)
    return field(default=default, metadata={"option": row})


def required(row: Option | str, **more: Any) -> Any:
    """One that must be given."""
    return option(MISSING, row, **more)


def shared(kind: type, name: str, **more: Any) -> Any:
    """The option that another dataclass has under this name; ``more`` is said of it otherwise."""
    (row,) = (row for row in fields(kind) if row.name == name)
    return field(default=row.default, metadata={"option": replace(options_of(kind)[name], **more)})


def options_of(kind: Any) -> dict[str, Option]:
    """The options of a dataclass, by name."""
    rows = {row.name: row.metadata.get("option") for row in fields(kind)}
    return {name: row for name, row in rows.items() if isinstance(row, Option)}


def check_option(kind: type, name: str, value: Any) -> None:
    """Raise :class:`~slimnet.errors.InputError` for a value that this option never has."""
    check = options_of(kind)[name].check
    if check is not None and value is not None:
        check(name, value)


def keywords(
    kind: Callable[P, Options],
) -> Callable[[Callable[[First, Options], Result]], Callable[Concatenate[First, P], Result]]:
    """The public form of a function of something and its options: each option is an argument.

    ``{options}`` in its docstring becomes the list of them.
    """

    def spelled(
        function: Callable[[First, Options], Result],
    ) -> Callable[Concatenate[First, P], Result]:
        signature = _signature(function, kind)
        (first, *_) = signature.parameters

        @wraps(function)
        def public(*args: Any, **named: Any) -> Result:
            try:
                arguments = signature.bind(*args, **named).arguments
            except TypeError as error:
                raise TypeError(f"{function.__name__}() {error}") from None
            return function(arguments.pop(first), kind(**arguments))  # type: ignore[call-arg]

        parameters = signature.parameters.values()
        public.__annotations__ = {row.name: row.annotation for row in parameters}
        public.__annotations__["return"] = signature.return_annotation
        public.__signature__ = signature  # type: ignore[attr-defined]
        if function.__doc__:
            listed = _listed(options_of(kind), list(signature.parameters)[1:])
            public.__doc__ = function.__doc__.replace("{options}", listed.lstrip())
        return public

    return spelled


def _signature(function: Callable[..., Any], kind: Callable[..., Any]) -> inspect.Signature:
    """The function's own, its last parameter replaced by the fields of the dataclass."""
    own, types = inspect.signature(function), get_type_hints(function)
    first, *_ = own.parameters.values()
    rows, row_types = inspect.signature(kind), get_type_hints(kind)
    named = [row.replace(annotation=row_types[row.name]) for row in rows.parameters.values()]
    parameters = [first.replace(annotation=types[first.name]), *named]
    return own.replace(parameters=parameters, return_annotation=types["return"])


def _listed(rows: Mapping[str, Option], order: Sequence[str]) -> str:
    """The lines of an ``Args`` section."""
    written = {name: f"``{name}``" for name in rows}
    texts = {name: (rows[name].help + rows[name].python).format_map(written) for name in order}
    return "\n".join(
        textwrap.fill(
            f"{name}: {text}.",
            WIDTH,
            initial_indent=" " * 8,
            subsequent_indent=" " * 12,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, text in texts.items()
    )
