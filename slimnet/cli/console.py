"""How the command line prints: stdout of its own, lines as they are, progress on stderr.

What it prints of results: :mod:`slimnet.cli.tables`.
"""

from __future__ import annotations

import ctypes
import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from slimnet.progress import Progress, not_shown
from slimnet.text import legible

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.table import Table


class _Console(Console):
    """A console that lets a reader's end be told like any other error."""

    def on_broken_pipe(self) -> None:
        """Rich would end the program itself; inside ``except``, this raises what was raised."""
        raise


def _console(*, stderr: bool = False) -> Console:
    """On a pipe nobody knows the width: lines may be as long as they are."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream is not None and stream.isatty() else 160
    return _Console(stderr=stderr, highlight=False, soft_wrap=True, emoji=False, width=width)


out = _console()
err = _console(stderr=True)


def take_any_text() -> None:
    """Streams of ASCII or Latin-1 spell out what they cannot show, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def reserved() -> Iterator[None]:
    """Stdout is the command's own: what users' code and libraries print goes to stderr.

    Also what they print in C, or from a process of theirs: ``--json`` stays JSON.
    """
    theirs = sys.stdout
    with ExitStack() as stack:
        out.file = stack.enter_context(_own(theirs))
        sys.stdout = sys.stderr
        stack.callback(setattr, sys, "stdout", theirs)
        stack.callback(setattr, out, "_file", None)
        yield


@contextmanager
def _own(stream: Any) -> Iterator[Any]:
    """What leads where ``stream`` does, while file descriptor 1 leads to stderr."""
    try:
        if stream.fileno() != 1:
            raise OSError
        stream.flush()
        place = os.dup(1)
        os.dup2(2, 1)
    except (
        OSError,
        ValueError,
        AttributeError,
    ):  # a test's, a notebook's, or closed: no descriptor
        yield stream
        return
    own = os.fdopen(place, "w", encoding=stream.encoding, errors=stream.errors)
    try:
        yield own
    finally:
        _flush_c()
        try:
            own.flush()
        finally:
            os.dup2(place, 1)
            _close(own)


def _flush_c() -> None:
    """What C has printed and not written yet, before it could reach stdout."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)


def _close(stream: Any) -> None:
    with suppress(OSError):  # its reader is gone, or its disk full; who wrote to it was told
        stream.close()


def shown(text: str, style: str = "") -> Text:
    """A text as it is: no markup is read from it, and no name in it reaches the terminal's own."""
    return Text(legible(text), style)


def say(text: str = "") -> None:
    """One line, as it is."""
    out.print(shown(text))


def warn(text: str) -> None:
    """A remark that must not be lost, nor get into what a program reads."""
    err.print(f"slimnet: {text}", markup=False)


def note(text: str) -> None:
    """A remark."""
    out.print(shown(text, "dim"))


def written(path: object, text: str = "written") -> None:
    """What was written, where."""
    out.print(shown(str(path), "bold") + shown(f" {text}"))


def show(table: Table) -> None:
    """A table and an empty line."""
    out.print(table, soft_wrap=False)
    out.print()


@contextmanager
def watching(*, quiet: bool = False) -> Iterator[Progress]:
    """Progress: a bar on a terminal, a plain line every few seconds elsewhere, on stderr."""
    if quiet:
        yield not_shown
    elif err.is_terminal:
        with _bar() as progress:
            task = progress.add_task("", total=1.0)
            yield lambda text, part: progress.update(
                task, description=legible(text), completed=part
            )
    else:
        yield _Lines().say


def _bar() -> Bar:
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    text = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), text, BarColumn(24), TimeElapsedColumn())
    return Bar(*columns, console=err, transient=True)


class _Lines:
    """Plain progress for logs: at most one line every few seconds."""

    def __init__(self, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self.next = 0.0

    def say(self, text: str, part: float) -> None:
        """Print unless something was printed a moment ago."""
        now = time.monotonic()
        if now >= self.next:
            self.next = now + self.seconds
            err.print(shown(f"{text} ({part:.0%})" if part else text))
