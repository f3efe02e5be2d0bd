"""What this thread warns, logs and prints is kept from the user; what others say arrives.

Filters, handlers and streams are the process's. Each is given something here that looks at which
thread is speaking, so that nothing another thread says is lost, and nothing that it set is put
back to what it was before.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from slimnet.exclusive import exclusive


@contextmanager
def quiet(*, stdout: bool = False) -> Iterator[None]:
    """Drop this thread's warnings, logs and lines to stderr, and with ``stdout`` to stdout."""
    with ExitStack() as stack:
        stack.enter_context(exclusive())  # streams are put back in the order in which they came
        stack.enter_context(unwarned())
        stack.enter_context(_unlogged())
        for name in ("stderr", "stdout") if stdout else ("stderr",):
            stack.enter_context(_unprinted(name))
        yield


@contextmanager
def unwarned() -> Iterator[None]:
    """Drop this thread's warnings."""
    filters: list[Any] = warnings.filters  # type: ignore[assignment]  # typeshed says: hands off
    row = ("ignore", _Own(), Warning, None, 0)
    filters.insert(0, row)
    try:
        yield
    finally:
        for table in (filters, warnings.filters):  # another, where somebody catches warnings
            with suppress(ValueError):
                table.remove(row)  # type: ignore[union-attr]


class _Own:
    """Stands in a filter for the text of a warning, or the record of a log: is it this thread's?"""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def match(self, _: str) -> bool:
        """Whether this thread warns."""
        return threading.get_ident() == self.thread

    def filter(self, _: logging.LogRecord) -> bool:
        """Whether a record is handled: another thread's."""
        return threading.get_ident() != self.thread


@contextmanager
def _unlogged() -> Iterator[None]:
    """What this thread logs reaches no handler."""
    own, handlers = _Own(), list(_handlers())
    for handler in handlers:
        handler.addFilter(own)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(own)


def _handlers() -> Iterable[logging.Handler]:
    """Of all loggers that there are, and the one for those without."""
    loggers = [logging.root, *list(logging.root.manager.loggerDict.values())]
    handlers = [h for x in loggers if isinstance(x, logging.Logger) for h in x.handlers]
    last = [] if logging.lastResort is None else [logging.lastResort]
    return dict.fromkeys([*handlers, *last])


@contextmanager
def _unprinted(name: str) -> Iterator[None]:
    """What this thread writes to a stream goes nowhere."""
    before = getattr(sys, name)
    aside = _Aside(before)
    setattr(sys, name, aside)
    try:
        yield
    finally:
        aside.thread = None  # who kept the stream speaks again
        setattr(sys, name, before)


class _Aside:
    """A stream that takes nothing from one thread, and hands on what others write."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.thread: int | None = threading.get_ident()

    def write(self, text: str) -> int:
        """The number of characters, wherever they went."""
        if threading.get_ident() == self.thread or self.stream is None:
            return len(text)
        return int(self.stream.write(text))

    def writelines(self, lines: Iterable[str]) -> None:
        """One after the other."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """There may be no stream at all."""
        if self.stream is not None:
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
