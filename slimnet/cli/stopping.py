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


class Stopped(BaseException):
    """A signal asked the program to end; no KeyboardInterrupt, which typer keeps for itself."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number  # 130 after Ctrl-C, 143 after SIGTERM


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, the signals raise :class:`Stopped`, except those that somebody handles or ignores."""
    before = {number: signal.getsignal(number) for number in _numbers()}
    usual = (signal.SIG_DFL, signal.default_int_handler)
    taken = {number: handler for number, handler in before.items() if handler in usual}
    for number in taken:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)


def _numbers() -> list[int]:
    """Those that end a program here; none outside the main thread, which alone may be told."""
    if threading.current_thread() is not threading.main_thread():
        return []
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def _stop(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise Stopped(number)


_CELLS = "finished cells are kept, and the same command goes on from there"
_STEPS = "finished steps are kept, and the same command goes on from there"
_EPOCHS = "the last full epoch is kept, and the same command goes on from there"
_GO_ON = {
    "auto": _STEPS,
    "frontier": _STEPS,
    "compare": _CELLS,
    "demo": _CELLS,
    **dict.fromkeys(("train", "sparsify"), _EPOCHS),
    "retrain": "what was trained is kept, and the same command goes on from there",
}


def farewell(command: str) -> str:
    """What is left, and how to go on."""
    return f"stopped; {_GO_ON.get(command, 'no file was left half written')}"
