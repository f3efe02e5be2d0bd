"""onnxruntime, on the GPU where it has one, else on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime

from slimnet.errors import InputError
from slimnet.export.devices import cpu_name, gpu_name
from slimnet.export.inputs import Example, batch_of, images_of
from slimnet.export.runner import BACKENDS, Runner
from slimnet.export.session import CPU, feed, fixed_batch, open_session

CUDA = "CUDAExecutionProvider"


@BACKENDS.register("onnxruntime")
@contextmanager
def run_file(candidate: Any, inputs: Example, threads: int) -> Iterator[Runner]:
    """An ONNX file; on a GPU the time holds the copies of inputs and outputs."""
    available = onnxruntime.get_available_providers()
    providers = [name for name in (CUDA, CPU) if name in available]
    session = open_session(Path(candidate), providers=providers, threads=threads)
    batch = batch_of(inputs)
    fixed = len(session.get_inputs()) if images_of(inputs) else fixed_batch(session)
    if fixed not in (None, batch):
        raise InputError(
            f"{candidate} takes batch {fixed} only and was to run {batch}: set batch={fixed}"
        )
    arrays = feed(session, inputs)
    provider = session.get_providers()[0]  # what it took: CUDA may be listed and not load
    device = gpu_name() if provider == CUDA else cpu_name()
    yield Runner(lambda: session.run(None, arrays), provider, device)
