"""Time an ONNX file against the network that it was cut from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import nn

from slimnet.export.inputs import Example
from slimnet.export.latency import Latency, measure_latency
from slimnet.export.onnx_file import export_onnx
from slimnet.export.runner import BACKENDS
from slimnet.output import scratch


def measure_against(
    slim: Path,
    dense: nn.Module | None,
    example: Example,
    *,
    batch: int,
    threads: int | None,
    outputs: Sequence[str] = (),
    backend: str = "onnxruntime",
) -> Latency:
    """The slim file and the dense network, interleaved; without a dense one the file alone.

    Of both the same ``outputs`` are written, all by default.
    """
    with scratch() as folder:
        files = {"slim": slim}
        if dense is not None:
            file = folder / "dense.onnx"
            export_onnx(dense, example, file, outputs=outputs, verify=False)
            files = {"dense": file, "slim": slim}
        return measure_latency(files, example, batch=batch, threads=threads, backend=backend)


def check_backend(name: str, file: Path) -> None:
    """Raise :class:`~slimnet.errors.InputError` where this backend cannot time ONNX files here.

    It is tried on a file of one node, which is called as ``file`` will be.
    """
    with scratch() as folder:
        path = folder / file.name
        _write_smallest(path)
        with BACKENDS[name](path, (torch.zeros(1, 1),), 1):
            pass


def _write_smallest(path: Path) -> None:
    make = onnx.helper
    shape = (onnx.TensorProto.FLOAT, [1, 1])
    ends = [make.make_tensor_value_info(name, *shape) for name in ("x", "y")]
    node = make.make_node("Neg", ["x"], ["y"])
    graph = make.make_graph([node], "smallest", ends[:1], ends[1:])
    opset = make.make_opsetid("", 18)
    onnx.save(make.make_model(graph, opset_imports=[opset], ir_version=9), str(path))
