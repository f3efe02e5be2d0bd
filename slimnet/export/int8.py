"""Write a network as an int8 ONNX file, measured beside its float32 file before it is kept.

Takes a model, an example and a task; gives the file and a record: metric, milliseconds and size of
both. The float32 file is written and compared with PyTorch first, then quantised by onnxruntime's
own quantiser: weights per channel, activations by the range that they have on calibration samples,
as pairs of QuantizeLinear and DequantizeLinear, which the runtime turns into integer kernels. A
file that is slower than float32 is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from slimnet.capture.randomness import drawing_from
from slimnet.errors import InputError
from slimnet.example import positional
from slimnet.export.devices import multiplies_bytes
from slimnet.export.inputs import Example, images_of
from slimnet.export.latency import Latency, measure_latency, three_digits
from slimnet.export.metadata import write_metadata
from slimnet.export.onnx_file import OnnxExport, export_onnx, sha256_of
from slimnet.export.onnx_module import OnnxModule
from slimnet.export.runtime_graph import RuntimeGraph, runtime_graph
from slimnet.export.runtime_tools import runtime_tools
from slimnet.export.session import Feed, feed, open_session, reason_of
from slimnet.export.translate import ExportError
from slimnet.export.weights import file_bytes
from slimnet.network import Network
from slimnet.output import replacing_all, scratch
from slimnet.progress import Progress, not_shown
from slimnet.samples import Samples
from slimnet.task import Metric, Task, samples_from
from slimnet.text import count

SAMPLES = 256
"""How many give the ranges of activations: more widen them by outliers."""

BATCH = 32  # samples in one run of the calibration


@dataclass(frozen=True)
class Measured:
    """One of the two files: how large, how good, how fast."""

    name: str  # "float32" or "int8"
    size_bytes: int
    metrics: Mapping[str, float]  # of the task, on all that it tests on, by onnxruntime
    median_ms: float | None  # None where it was not timed


@dataclass(frozen=True)
class Int8Export:
    """What was written, beside the float32 file that it was made from."""

    path: str
    sha256: str
    float32: OnnxExport
    files: tuple[Measured, Measured]  # float32, int8
    metric: Metric  # the task's first
    samples: int  # that the ranges of activations come from
    reduced: bool  # weights of 7 bits, for a CPU without VNNI
    runs: RuntimeGraph  # what onnxruntime makes of the file
    latency: Latency | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        latency = None if self.latency is None else self.latency.to_json()
        own = {"float32": self.float32.to_json(), "latency": latency, "runs": asdict(self.runs)}
        return {**asdict(self), **own, "metric": self.metric.to_json()}


def export_int8(
    model: nn.Module,
    example: Example | Mapping[str, Any],
    path: str | Path,
    task: Task,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    outputs: Sequence[str] = (),
    dynamic_size: bool = False,
    opset: int | None = None,
    extra: Mapping[str, str] | None = None,
    batch: int = 1,
    threads: int | None = None,
    backend: str = "onnxruntime",
    latency: bool = True,
    keep_slower: bool = False,
    watch: Progress = not_shown,
) -> Int8Export:
    """Write ``model`` in evaluation mode to ``path`` in int8; the model itself stays as it is.

    About so many training ``samples`` of the task, drawn with the seed, give the ranges; its
    metrics are measured on what it tests on. ``batch``, ``threads`` and ``backend`` are of the
    latency. The others are as :func:`~slimnet.export.onnx_file.export_onnx` takes them, and it
    raises as that. Raises :class:`ExportError` also where int8 is slower, unless ``keep_slower``,
    and where the quantiser fails; nothing is written then.
    """
    inputs, target, network = positional(model, example), Path(path), Network.of(model)
    if images_of(inputs):
        raise InputError(
            f"{network.name} takes a list of images, and int8 is written of networks that take "
            "tensors: leave int8 out"
        )
    shape: dict[str, Any] = {"outputs": outputs, "dynamic_size": dynamic_size, "opset": opset}
    with scratch() as folder, replacing_all(target) as place:
        watch("exporting float32", 0.0)
        source, result = folder / "float32.onnx", place / target.name
        float32 = export_onnx(model, inputs, source, extra=extra, **shape)
        _check_any_batch(float32)
        watch("calibrating int8", 0.2)
        drawn = samples_from(task, samples, seed, model)
        reduced = multiplies_bytes() is False
        quantise(source, result, drawn, reduced=reduced)
        _describe(result, extra or {})
        watch("measuring latency", 0.5)
        both = {"float32": source, "int8": result}
        timed = None
        if latency:
            timed = measure_latency(both, inputs, batch=batch, threads=threads, backend=backend)
            if not keep_slower:
                _check_faster(timed)
        watch("measuring the metric", 0.7)
        modules = {
            name: OnnxModule(file, network, inputs, outputs, threads=threads or 0)
            for name, file in both.items()
        }
        float_row, int8_row = (
            Measured(
                name,
                file_bytes(both[name]),
                _measured(task, module),
                None if timed is None else timed.timing(name).median_ms,
            )
            for name, module in modules.items()
        )
        return Int8Export(
            str(path),
            sha256_of(result),
            float32,
            (float_row, int8_row),
            task.metrics[0],
            len(drawn),
            reduced,
            runtime_graph(result),
            timed,
        )


def _check_any_batch(float32: OnnxExport) -> None:
    if not float32.dynamic_batch:
        raise InputError(
            "int8 is calibrated and measured on batches of any size, and the file takes one only: "
            f"{float32.static_reason or float32.recorded}"
        )


def quantise(source: Path, target: Path, samples: Samples, *, reduced: bool) -> None:
    """Write an ONNX file in int8; raises :class:`ExportError` where the quantiser fails."""
    session = open_session(source)
    feeds = [feed(session, part.inputs) for part in samples.batches(BATCH)]
    _check_shapes(session, feeds)
    try:
        with runtime_tools():
            _quantise(source, target, feeds, reduced=reduced)
    except Exception as error:  # the quantiser's and the runtime's have no common base
        raise ExportError(f"the network cannot be written in int8: {reason_of(error)}") from error


def _check_shapes(session: Any, feeds: Sequence[Feed]) -> None:
    """Refuse samples that are not of the shape of the file's inputs, whose free axes are texts."""
    for entry in session.get_inputs():
        wanted = entry.shape
        for shape in {batch[entry.name].shape for batch in feeds}:
            fits = len(shape) == len(wanted) and all(
                isinstance(n, str) or n == m for n, m in zip(wanted, shape, strict=True)
            )
            if not fits:
                given, taken = ("x".join(map(str, axes)) for axes in (shape, wanted))
                raise InputError(
                    f"the data give inputs of {given}, and the network is written for {taken}: "
                    "give other data, or another input"
                )


def _quantise(source: Path, target: Path, feeds: Iterable[Feed], *, reduced: bool) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with scratch() as folder:
        folded = folder / "folded.onnx"
        quant_pre_process(source, folded, skip_symbolic_shape=True)  # batch norms, constants
        quantize_static(
            folded,
            target,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(INTEGER),
            per_channel=True,
            reduce_range=reduced,
            activation_type=QuantType.QUInt8,  # for the fast kernels of x86, with signed weights
            weight_type=QuantType.QInt8,
        )


INTEGER = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "Relu", "Clip", "LeakyRelu", "Sigmoid"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Pad", "Split"),
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice"),
)
"""What onnxruntime computes on integers on a CPU; all else stays float32, between conversions."""


class _Reader:
    """Batches one by one, as the quantiser asks for them."""

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        """The next; None at the end."""
        return next(self._feeds, None)


def _describe(path: Path, extra: Mapping[str, str]) -> None:
    """In place of what the quantiser says of the file."""
    file = onnx.load(str(path))
    write_metadata(file, extra)
    onnx.save(file, str(path))


def _check_faster(timed: Latency) -> None:
    if timed.speedup.median < 1:
        before, after = timed.timing("float32"), timed.timing("int8")
        raise ExportError(
            f"int8 is slower than float32 here, {three_digits(after.median_ms)} ms against "
            f"{three_digits(before.median_ms)} ms, so nothing is written: keep float32, or write "
            "it all the same with --keep-slower"
        )


def _measured(task: Task, module: nn.Module) -> dict[str, float]:
    """Every metric, on all that the task tests on."""
    with torch.no_grad(), drawing_from(0, devices=[]):
        return dict(task.measure(module.eval(), task.batches("test", BATCH)))


def kernels_sentence(runs: RuntimeGraph) -> str:
    """How many convolutions run on integers, and what beside them does not."""
    whole, float_ones = runs.number("QLinearConv"), runs.number(*_FLOAT_CONVOLUTIONS)
    run = "runs" if whole + float_ones == 1 else "run"
    text = f"{whole} of {count(whole + float_ones, 'convolution')} {run} on integers"
    left = runs.number("Relu", "Clip", "LeakyRelu")
    if float_ones:
        text += f"; {float_ones} stay in float32"
    return f"{text}; {count(left, 'activation')} not joined to any" if left else text


_FLOAT_CONVOLUTIONS = ("Conv", "FusedConv", "ConvTranspose", "ConvInteger")
