"""ONNX: compared with PyTorch, and timed against the dense network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from slimnet.export import Latency, OnnxExport, export_onnx
from slimnet.export.against import check_backend, measure_against
from slimnet.export.inputs import check_batch
from slimnet.export.weights import denormal_remarks
from slimnet.files.access import dense_of
from slimnet.formats import FORMATS, Exported, ExportFormat, ExportRequest
from slimnet.output import write_json


def write(request: ExportRequest) -> Exported:
    """The file, and a record of it beside: ``slim.onnx.json``."""
    target, inputs, dense, latency = request.target, request.example, None, None
    check_batch(inputs, request.batch)
    if request.latency:
        check_backend(request.backend, target)
        dense = dense_of(request.opened, request.against, allow_pickle=request.allow_pickle)
    request.watch("exporting", 0.0)
    exported = export_onnx(request.opened.model, inputs, target, outputs=request.outputs)
    if request.latency:
        request.watch("measuring latency", 0.5)
        how: dict[str, Any] = {
            name: getattr(request, name) for name in ("batch", "threads", "backend")
        }
        latency = measure_against(target, dense, inputs, outputs=request.outputs, **how)
    record = {
        "network": request.described,
        "onnx": exported.to_json(),
        "latency": None if latency is None else latency.to_json(),
    }
    write_json(target.with_name(f"{target.name}.json"), record)
    batch = "dynamic batch" if exported.dynamic_batch else f"fixed batch: {exported.static_reason}"
    if exported.recorded is not None:
        batch = f"images of {'any size' if exported.any_size else 'this size only'}"
    return Exported(
        record,
        f"written: {exported.parameters:,} numbers, opset {exported.opset}, {batch}",
        (*_sentences(exported, latency), *denormal_remarks(target.name, target)),
        "" if latency is None else latency.conditions(),
    )


def _sentences(exported: OnnxExport, latency: Latency | None) -> Iterator[str]:
    """How it was written, how near it comes to PyTorch, and how long it takes."""
    if exported.recorded is not None:
        yield f"written as it ran on the example (torch's older exporter): {exported.recorded}"
    if len(exported.outputs) > 1 or not exported.outputs[0].startswith("output"):
        yield f"outputs: {', '.join(exported.outputs)}"
    if exported.parity is not None:
        yield exported.parity.sentence("onnxruntime")
    if latency is not None:
        yield f"latency: {latency.sentence()}"
        if not latency.speedups:
            yield "timed alone: --against DENSE.pt compares it with the dense network"
        yield from (f"note: {remark}" for remark in latency.remarks)


FORMATS.add(
    "onnx", ExportFormat("ONNX", (".onnx",), write, beside=(".json", ".data"), selects=True)
)
