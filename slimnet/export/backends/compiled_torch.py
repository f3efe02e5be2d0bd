"""torch.compile: a module that inductor has compiled, on the device of its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from slimnet.errors import InputError
from slimnet.export.backends.eager_torch import prepared, runner
from slimnet.export.inputs import Example
from slimnet.export.runner import BACKENDS, Runner
from slimnet.quiet import quiet
from slimnet.text import first_line_with_kind

COMPILER = "inductor"


@BACKENDS.register("torch-compile")
@contextmanager
def run_compiled(candidate: Any, inputs: Example, threads: int) -> Iterator[Runner]:
    """A module that is compiled for these inputs before anything is timed (a minute, say)."""
    from torch._dynamo import config, reset  # which takes a second

    with prepared(candidate, inputs, threads) as (module, moved, device):
        try:
            compiled: Any = torch.compile(module, backend=COMPILER, dynamic=False)
            # past its limit torch would quietly run the module as it is
            with quiet(), config.patch(fail_on_recompile_limit_hit=True):
                compiled(*moved)
        except Exception as error:  # whatever compilers raise: there may be none here
            raise InputError(
                f"torch.compile cannot compile it here ({first_line_with_kind(error)}): it needs a "
                "C++ compiler such as g++; the torch backend runs without"
            ) from error
        try:
            yield runner(compiled, moved, device, "torch.compile")
        finally:
            reset()
