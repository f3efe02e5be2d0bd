"""Time an ONNX file against the network that it was cut from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from slimnet.export.inputs import Example
from slimnet.export.latency import Latency, measure_latency
from slimnet.export.onnx_file import export_onnx
from slimnet.output import scratch


def measure_against(
    slim: Path,
    dense: nn.Module | None,
    example: Example,
    *,
    batch: int,
    threads: int | None,
    outputs: Sequence[str] = (),
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
        return measure_latency(files, example, batch=batch, threads=threads)
