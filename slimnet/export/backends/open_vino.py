"""OpenVINO on the CPU, in the number type that it takes for this processor by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from slimnet.errors import InputError
from slimnet.export.devices import cpu_name
from slimnet.export.inputs import Example
from slimnet.export.runner import BACKENDS, Runner, file_of
from slimnet.export.session import check_batch_of, feed, open_session
from slimnet.text import first_line


@BACKENDS.register("openvino")
@contextmanager
def run_openvino(candidate: Any, inputs: Example, threads: int) -> Iterator[Runner]:
    """An ONNX file, compiled for the shapes of these inputs."""
    path, openvino = file_of(candidate), _openvino()
    session = open_session(path)
    check_batch_of(path, session, inputs)
    arrays = feed(session, inputs)
    del session
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # that is done already
    }
    try:
        core = openvino.Core()
        model = core.read_model(path)
        model.reshape({name: array.shape for name, array in arrays.items()})
        compiled = core.compile_model(model, "CPU", settings)
    except Exception as error:  # openvino's exceptions are RuntimeErrors of many lines
        raise InputError(f"{path.name}: OpenVINO cannot run it: {first_line(error)}") from error
    request = compiled.create_infer_request()
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    provider = f"OpenVINO {openvino.__version__.partition('-')[0]} ({precision})"
    yield Runner(lambda: request.infer(arrays), provider, cpu_name(), on_cpu=True)


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise InputError(
            "OpenVINO is not installed: pip install 'slimnet[openvino]', or take another backend"
        ) from error
    return openvino
