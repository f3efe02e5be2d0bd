"""One thread at a time: for what torch and Python keep once for the whole process.

The switch of the fused attention, the stance of the compiler, the generators, the number of threads
of an operator, the collector, the import path, the streams, the global names of a user's code and
the attributes of a model that several threads share: whoever changes one of them, and puts it back,
does so inside :func:`exclusive`. Everything else runs in any number of threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Turn:
    """Whose turn it is; a thread that has it may take it again."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """A forked child has one thread: what others held is held by nobody there."""
        self.lock = threading.RLock()


_TURN = _Turn()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_TURN.renew)


@contextmanager
def exclusive() -> Iterator[None]:
    """Wait until no other thread is inside; the same thread may enter again, to any depth."""
    with _TURN.lock:
        yield
