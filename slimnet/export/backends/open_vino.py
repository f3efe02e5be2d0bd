"""OpenVINO on the CPU, in the number type that it takes for this processor by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimnet.errors import InputError
from slimnet.export.devices import cpu_name
from slimnet.export.inputs import Example
from slimnet.export.runner import BACKENDS, Runner, file_of
from slimnet.export.session import check_batch_of, feed


@BACKENDS.register("openvino")
@contextmanager
def run_openvino(candidate: Any, inputs: Example, threads: int) -> Iterator[Runner]:
    """An ONNX file, compiled for the shapes of these inputs."""
    path, openvino = file_of(candidate), _openvino()
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give an ONNX file")
    with _refusing(path):
        core = openvino.Core()
        model = core.read_model(path)
    stated = _Stated([_Entry.of(port) for port in model.inputs])
    check_batch_of(path, stated, inputs)
    arrays = feed(stated, inputs)
    with _refusing(path):
        model.reshape({name: array.shape for name, array in arrays.items()})
        compiled = core.compile_model(model, "CPU", _settings(threads))
    request = compiled.create_infer_request()
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    provider = f"OpenVINO {openvino.__version__.partition('-')[0]} ({precision})"
    yield Runner(lambda: request.infer(arrays), provider, cpu_name(), on_cpu=True)


def _settings(threads: int) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # that is done already
    }


@dataclass(frozen=True)
class _Entry:
    """An input as onnxruntime tells of it."""

    name: str
    shape: list[int | str]

    @classmethod
    def of(cls, port: Any) -> _Entry:
        axes = port.get_partial_shape()
        return cls(port.get_any_name(), [n.get_length() if n.is_static else str(n) for n in axes])


@dataclass(frozen=True)
class _Stated:
    """The inputs of a file, in the place of a session that has it open."""

    entries: list[_Entry]

    def get_inputs(self) -> list[_Entry]:
        return self.entries


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # RuntimeErrors of many lines, the last of which says most
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = lines[-1] if lines else type(error).__name__
        raise InputError(f"{path.name}: OpenVINO cannot run it: {why}") from error


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise InputError(
            "OpenVINO is not installed: pip install 'slimnet[openvino]', or take another backend"
        ) from error
    return openvino
