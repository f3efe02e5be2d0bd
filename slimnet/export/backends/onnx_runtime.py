"""onnxruntime, on the GPU where it has one, else on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnxruntime

from slimnet.export.devices import cpu_name, gpu_name
from slimnet.export.inputs import Example
from slimnet.export.runner import BACKENDS, Runner, file_of
from slimnet.export.session import CPU, check_batch_of, feed, open_session

CUDA = "CUDAExecutionProvider"


@BACKENDS.register("onnxruntime")
@contextmanager
def run_file(candidate: Any, inputs: Example, threads: int) -> Iterator[Runner]:
    """An ONNX file; on a GPU the time holds the copies of inputs and outputs."""
    yield session_runner(candidate, inputs, threads, (CUDA, CPU))


def session_runner(
    candidate: Any, inputs: Example, threads: int, providers: Sequence[str]
) -> Runner:
    """An ONNX file on the first of these providers that is here and takes it."""
    path, available = file_of(candidate), onnxruntime.get_available_providers()
    wanted = [name for name in providers if name in available]
    session = open_session(path, providers=wanted, threads=threads)
    check_batch_of(path, session, inputs)
    arrays = feed(session, inputs)
    provider = session.get_providers()[0]  # what it took: CUDA may be listed and not load
    on_cpu = provider == CPU
    device = cpu_name() if on_cpu else gpu_name()
    return Runner(lambda: session.run(None, arrays), provider, device, on_cpu, in_caller=on_cpu)
