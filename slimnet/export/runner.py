"""What a latency backend is, and the registry of backends.

A backend prepares one candidate for one kind of runtime and yields a :class:`Runner`, whose ``run``
computes once and returns when the result is there. It may hold settings while it is open.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from slimnet.export.inputs import Example
from slimnet.registry import Registry


@dataclass(frozen=True)
class Runner:
    """A candidate that is ready to run; ``provider`` and ``device`` say on what."""

    run: Callable[[], object]
    provider: str
    device: str


Backend = Callable[
    [Any, Example, int], AbstractContextManager[Runner]
]  # candidate, inputs, threads
BACKENDS: Registry[Backend] = Registry("latency backend", "slimnet.backends")
