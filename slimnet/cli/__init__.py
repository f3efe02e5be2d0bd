"""The command line: parse, call the API, print; each command has its file.

Every refusal is one sentence on stderr and exit code 2. Help, versions and typing errors answer at
once: what takes seconds to import (torch, runtimes, data sets, plots) is imported by the commands
that use it, when they run. :mod:`.commands` says what each takes, :mod:`.typed` makes options of
it, :mod:`.console` prints, and :mod:`.tables` shows results; :mod:`.stopping` hears the signals.
Commands share :mod:`.shared`, :mod:`.calibration`, :mod:`.training` and :mod:`.targets`, and are:
:mod:`.inspect`, :mod:`.prune`, :mod:`.repair`, :mod:`.retrain`, :mod:`.sensitivity`,
:mod:`.verify`, :mod:`.auto`, :mod:`.frontier`, :mod:`.export`, :mod:`.latency`, :mod:`.compare`,
:mod:`.train`, :mod:`.sparsify`, :mod:`.demo`, :mod:`.cache`. All steps together begin in
:mod:`.whole`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from inspect import Parameter, Signature
from typing import Annotated, Any

import typer

from slimnet.cli import console
from slimnet.cli.commands import COMMANDS
from slimnet.cli.stopping import Stopped, farewell, stoppable
from slimnet.cli.typed import built, check_together, signature
from slimnet.errors import InputError, SlimnetError, short
from slimnet.version import used

app = typer.Typer(
    help="Make a trained PyTorch network smaller and really faster, with a proof of every cut.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _command_of(name: str) -> Callable[..., None]:
    """A command for typer; while it runs, nobody else writes to stdout."""

    def run(context: typer.Context, **typed: Any) -> None:
        options = built(COMMANDS[name], typed)
        given = [option for option in typed if _is_given(context, option)]
        check_together(COMMANDS[name], typed, given)
        try:
            with console.reserved():
                getattr(import_module(f"slimnet.cli.{name}"), name)(options)
        except BrokenPipeError:  # the reader, such as head, has seen enough; typer would say 1
            _forget_stdout()
            sys.exit(141)

    run.__name__, run.__doc__ = name, COMMANDS[name].__doc__
    context = Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *signature(COMMANDS[name]).parameters.values()]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {}
    return run


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether it was typed, or has its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


for name in COMMANDS:
    app.command()(_command_of(name))
_UsageError: Any = typer.BadParameter.__mro__[1]  # click's, wherever this typer keeps it


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: a refusal is one sentence and exit code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    console.take_any_text()
    try:
        if "" in words:
            raise InputError("an argument is empty: is a variable of the shell not set?")
        with stoppable():
            done = app(words or ["--help"], prog_name="slimnet", standalone_mode=False)
        sys.exit(done or 0)
    except SlimnetError as error:
        _refuse(str(error))
    except _UsageError as error:
        _refuse(f"{error.format_message().rstrip('.')} ({_help(words)})")
    except (Stopped, KeyboardInterrupt, typer.Abort) as error:
        console.err.print(f"slimnet: {farewell(_command(words))}")
        sys.exit(error.code if isinstance(error, Stopped) else 130)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        if error.filename is not None:  # no file can be called so
            _refuse(f"{os.fsdecode(error.filename)}: {why}")
        _forget_stdout()
        _refuse(f"what is to be said cannot be written: {why}")
    except SystemExit as error:
        if error.code != 1:
            raise
        _forget_stdout()  # typer's word for a reader of --help that has seen enough
        sys.exit(141)


def _forget_stdout() -> None:
    """What is still to be flushed when Python ends would fail again."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(sentence: str) -> None:
    text = short(" ".join(sentence.split()))
    console.err.print(console.shown(f"slimnet: {text}"))
    sys.exit(2)


def _help(words: Sequence[str]) -> str:
    return f"{' '.join(['slimnet', _command(words)]).strip()} --help shows how"


def _command(words: Sequence[str]) -> str:
    return words[0] if words and words[0] in COMMANDS else ""


def _version(value: bool) -> None:
    if value:
        console.say(used())
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="print the versions: slimnet, torch"
        ),
    ] = False,
) -> None:
    pass
