"""Time an ONNX file against the network that it was cut from."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from slimnet.export.inputs import Example
from slimnet.export.latency import Latency, measure_latency
from slimnet.export.onnx_file import export_onnx
from slimnet.output import scratch


def measure_against(
    slim: Path, dense: nn.Module | None, example: Example, *, batch: int, threads: int | None
) -> Latency:
    """The slim file and the dense network, interleaved; without a dense one the file alone."""
    with scratch() as folder:
        files = {"slim": slim}
        if dense is not None:
            export_onnx(dense, example, folder / "dense.onnx", verify=False)
            files = {"dense": folder / "dense.onnx", "slim": slim}
        return measure_latency(files, example, batch=batch, threads=threads)
