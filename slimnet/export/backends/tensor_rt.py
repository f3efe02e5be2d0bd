"""TensorRT inside onnxruntime; what it cannot run goes to CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnxruntime

from slimnet.errors import InputError
from slimnet.export.backends.onnx_runtime import CUDA, session_runner
from slimnet.export.inputs import Example
from slimnet.export.runner import BACKENDS, Runner
from slimnet.export.session import CPU

TENSORRT = "TensorrtExecutionProvider"


@BACKENDS.register("tensorrt")
@contextmanager
def run_tensorrt(candidate: Any, inputs: Example, threads: int) -> Iterator[Runner]:
    """An ONNX file; the engine is built before anything is timed (minutes)."""
    if TENSORRT not in onnxruntime.get_available_providers():
        raise InputError(
            "this onnxruntime has no TensorRT: pip install onnxruntime-gpu, on a machine with "
            "CUDA and TensorRT, or take another backend"
        )
    yield session_runner(candidate, inputs, threads, (TENSORRT, CUDA, CPU))
