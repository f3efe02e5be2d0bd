"""SIGTERM and a closed terminal end a command as Ctrl-C does: cleaned up, with a word how to go on.

A second signal of the same kind ends it at once; what is then left beside an output is removed by
the next command that writes it (:mod:`slimnet.temporary`).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, the signals raise :class:`Stopped`, except those that somebody handles or ignores."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        taken = []  # only the main thread may
    for number in taken:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise Stopped(number)


def code_of(error: BaseException) -> int:
    """What the program exits with: 130 after Ctrl-C, 143 after SIGTERM."""
    stopped = error if isinstance(error, Stopped) else error.__cause__
    return stopped.code if isinstance(stopped, Stopped) else 128 + signal.SIGINT


_CELLS = "finished cells are kept, and the same command goes on from there"
_GO_ON = {
    "compare": _CELLS,
    "demo": _CELLS,
    "sparsify": "the last full epoch is kept, and the same command goes on from there",
}


def farewell(command: str) -> str:
    """What is left, and how to go on."""
    return f"stopped; {_GO_ON.get(command, 'no file was left half written')}"
