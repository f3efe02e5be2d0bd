"""What a latency backend is, and the registry of backends.

A backend prepares one candidate for one kind of runtime and yields a :class:`Runner`, whose ``run``
computes once and returns when the result is there. It may hold settings while it is open.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimnet.errors import InputError
from slimnet.export.inputs import Example
from slimnet.registry import Registry


@dataclass(frozen=True)
class Runner:
    """A candidate that is ready to run; ``provider`` and ``device`` say on what.

    ``on_cpu`` says that threads of this process compute it all, so that their CPU time is its time;
    ``in_caller`` that, on one thread, the one that calls ``run`` does.
    """

    run: Callable[[], object]
    provider: str
    device: str
    on_cpu: bool = False
    in_caller: bool = False


Backend = Callable[
    [Any, Example, int], AbstractContextManager[Runner]
]  # candidate, inputs, threads
BACKENDS: Registry[Backend] = Registry("latency backend", "slimnet.backends")


def file_of(candidate: Any) -> Path:
    """The ONNX file that a runtime of such files is given; InputError for a network."""
    if isinstance(candidate, (str, Path)):
        return Path(candidate)
    raise InputError(
        f"this backend times ONNX files, and was given a {type(candidate).__name__}: export it "
        "first (slimnet export), or take the backend torch"
    )
