"""ONNX: compared with PyTorch, and timed against the dense network; also in float16, and in int8.

What is of few bits is timed against the float32 file of the same network.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from slimnet.export import Latency, OnnxExport, export_onnx
from slimnet.export.against import check_backend, measure_against
from slimnet.export.denormals import denormals_sentence
from slimnet.export.inputs import check_batch
from slimnet.export.int8 import Int8Export, Measured, export_int8, kernels_sentence
from slimnet.export.latency import measure_latency, three_digits
from slimnet.export.metadata import metadata_of
from slimnet.files.access import dense_of
from slimnet.formats import FORMATS, Calibrated, Exported, ExportFormat, ExportRequest
from slimnet.output import scratch, write_json
from slimnet.text import count


def write(request: ExportRequest) -> Exported:
    """The file, and a record of it beside: ``slim.onnx.json``."""
    check_batch(request.example, request.batch)
    int8 = request.variant.int8
    exported = _floating(request) if int8 is None else _integers(request, int8)
    target = request.target
    write_json(target.with_name(f"{target.name}.json"), exported.record)
    return exported


def _floating(request: ExportRequest) -> Exported:
    """In float32 or float16."""
    dense = None
    if request.latency:
        check_backend(request.backend, request.target)
    if request.latency and not request.variant.float16:
        dense = dense_of(request.opened, request.against, allow_pickle=request.allow_pickle)
    request.watch("exporting", 0.0)
    how, float16 = _how(request), request.variant.float16
    exported = export_onnx(
        request.opened.model, request.example, request.target, float16=float16, **how
    )
    latency = None
    if request.latency:
        request.watch("measuring latency", 0.5)
        latency = _beside_float32(request) if float16 else _beside_dense(request, dense)
    record = {
        "network": request.described,
        "onnx": exported.to_json(),
        "latency": None if latency is None else latency.to_json(),
    }
    kind = ", float16" if float16 else ""
    return Exported(
        record,
        f"written: {exported.parameters:,} numbers{kind}, {_shape(exported)}",
        tuple(_sentences(exported, latency)),
        "" if latency is None else latency.conditions(),
    )


def _how(request: ExportRequest) -> dict[str, Any]:
    """What every form of the file is written with."""
    artifact = request.opened.artifact
    return {
        "outputs": request.outputs,
        "opset": request.variant.opset,
        "dynamic_size": request.variant.dynamic_size,
        "extra": None
        if artifact is None
        else metadata_of(artifact.plan, artifact.certificate, trained=artifact.trained),
    }


def _beside_dense(request: ExportRequest, dense: Any) -> Latency:
    return measure_against(
        request.target, dense, request.example, outputs=request.outputs, **_clocked(request)
    )


def _clocked(request: ExportRequest) -> dict[str, Any]:
    """How it is timed."""
    return {name: getattr(request, name) for name in ("batch", "threads", "backend")}


def _beside_float32(request: ExportRequest) -> Latency:
    with scratch() as folder:
        file = folder / "float32.onnx"
        export_onnx(request.opened.model, request.example, file, verify=False, **_how(request))
        files = {"float32": file, "float16": request.target}
        return measure_latency(files, request.example, **_clocked(request))


def _shape(exported: OnnxExport) -> str:
    """Its opset, and which axes are free."""
    batch = "dynamic batch" if exported.dynamic_batch else f"fixed batch: {exported.static_reason}"
    if exported.recorded is not None:
        batch = f"images of {'any size' if exported.any_size else 'this size only'}"
    elif exported.any_size:
        batch = f"dynamic height and width, {batch}"
    return f"opset {exported.opset}, {batch}"


def _sentences(exported: OnnxExport, latency: Latency | None) -> Iterator[str]:
    """How it was written, how near it comes to PyTorch, and how long it takes."""
    yield from _remarks(exported)
    if latency is None:
        return
    if latency.speedups and latency.speedup.name == "float16":
        yield from _beside(latency)
        if latency.speedup.verdict != "faster":
            yield "most CPUs compute float16 in float32, between conversions; it is for GPUs"
        return
    yield f"latency: {latency.sentence()}"
    if not latency.speedups:
        yield "timed alone: --against DENSE.pt compares it with the dense network"
    yield from _notes(latency)


def _beside(latency: Latency) -> Iterator[str]:
    """How long it takes beside the float32 file of the same network."""
    speed, before = latency.speedup, latency.timing("float32")
    after = latency.timing(speed.name)
    yield (
        f"latency: {after.name} runs in {three_digits(after.median_ms)} ms, float32 in "
        f"{three_digits(before.median_ms)} ms: {speed.median:.2f}x the speed "
        f"({speed.low:.2f}-{speed.high:.2f})"
    )
    yield from _notes(latency)


def _notes(latency: Latency) -> Iterator[str]:
    """What spoke against trusting the times."""
    yield from (f"note: {remark}" for remark in latency.remarks)


def _remarks(exported: OnnxExport) -> Iterator[str]:
    """How a file was written, and how near it comes to PyTorch."""
    if exported.recorded is not None:
        yield f"written as it ran on the example (torch's older exporter): {exported.recorded}"
    if len(exported.outputs) > 1 or not exported.outputs[0].startswith("output"):
        yield f"outputs: {', '.join(exported.outputs)}"
    if exported.denormals:
        yield denormals_sentence(exported.denormals)
    if exported.runs is not None and (left := exported.runs.sentence()):
        yield left
    if exported.parity is not None:
        yield exported.parity.sentence("onnxruntime")


def _integers(request: ExportRequest, given: Calibrated) -> Exported:
    """In int8, with the table of what that gains and costs."""
    exported = export_int8(
        request.opened.model,
        request.example,
        request.target,
        given.task,
        samples=given.samples,
        seed=given.seed,
        latency=request.latency,
        keep_slower=given.keep_slower,
        watch=request.watch,
        **_clocked(request),
        **_how(request),
    )
    latency = exported.latency
    return Exported(
        {"network": request.described, "int8": exported.to_json()},
        f"written: int8, {_shape(exported.float32)}",
        tuple(_int8_sentences(exported)),
        "" if latency is None else latency.conditions(),
        tuple(_int8_table(exported)),
    )


def _int8_table(exported: Int8Export) -> Iterator[tuple[str, ...]]:
    """A row for each file, under the headings."""
    metric = exported.metric
    unit = f" {metric.unit}" if metric.unit else ""
    yield ("", "size", "ms", f"{metric.name}{unit}")
    for row in exported.files:
        yield (row.name, _megabytes(row), _ms(row), f"{row.metrics[metric.name]:.2f}")


def _megabytes(row: Measured) -> str:
    return f"{row.size_bytes / 1e6:.3g} MB"


def _ms(row: Measured) -> str:
    return "–" if row.median_ms is None else three_digits(row.median_ms)


def _int8_sentences(exported: Int8Export) -> Iterator[str]:
    """The float32 file that it was made from, the kernels, and how long it takes."""
    for remark in _remarks(exported.float32):
        yield f"float32: {remark}"
    bits = "7 bits (this CPU has no VNNI)" if exported.reduced else "8 bits"
    yield (
        f"int8: weights of {bits} per channel, ranges from {count(exported.samples, 'sample')}; "
        f"{kernels_sentence(exported.runs)}"
    )
    if exported.latency is not None:
        yield from _beside(exported.latency)


FORMATS.add(
    "onnx",
    ExportFormat("ONNX", (".onnx",), write, beside=(".json", ".data"), selects=True, varies=True),
)
