"""Write a network as one ONNX file that is checked before anybody sees it.

Takes a model and an example, gives the file and a record of what is in it. The file is written in
a folder beside its place, passes the ONNX checker and the comparison with PyTorch there, and only
then moves to its name. A dynamic batch is tried first; a network that cannot take one is written
with the example's batch size, and the record says why. Where its code decides by values, as
detectors do, it is written as it ran (:mod:`.tracing`), for images of any size where that holds.
Denormal weights are set to zero (:mod:`.denormals`), the file says where it comes from
(:mod:`.metadata`), and the record what onnxruntime makes of it (:mod:`.runtime_graph`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from slimnet.errors import InputError
from slimnet.example import positional, tensors_of
from slimnet.export.denormals import flush_denormals
from slimnet.export.half import to_float16
from slimnet.export.inputs import Example, batch_of, images_of, is_picture
from slimnet.export.metadata import write_metadata
from slimnet.export.parity import TOLERANCES, Parity, ParityError, parity_of, tolerance_of
from slimnet.export.runtime_graph import RuntimeGraph, runtime_graph
from slimnet.export.session import reason_of
from slimnet.export.tracing import write_recorded
from slimnet.export.translate import (
    BATCH,
    SIZES,
    DecidesByValues,
    ExportError,
    names_read,
    translate,
)
from slimnet.network import Network
from slimnet.output import replacing_all


@dataclass(frozen=True)
class OnnxExport:
    """What was written: names, sizes, and how near it comes to PyTorch."""

    path: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic_batch: bool
    static_reason: str | None  # why the batch is fixed; None where it is dynamic or was asked for
    parameters: int  # floating-point numbers in the file's initializers
    batch_norms: int  # BatchNormalization nodes left; the others are folded into convolutions
    size_bytes: int
    sha256: str  # of the file itself, 64 hexadecimal digits
    parity: Parity | None  # None where the check was turned off
    recorded: str | None = None  # why it is written as it ran; None where torch.export followed it
    any_size: bool = False  # whether it takes images of any height and width
    denormals: int = 0  # weights below the smallest normal number that were set to zero
    runs: RuntimeGraph | None = None  # what onnxruntime makes of it; None without the check

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def export_onnx(
    model: nn.Module,
    example: Example | Mapping[str, Any],
    path: str | Path,
    *,
    outputs: Sequence[str] = (),
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    opset: int | None = None,
    float16: bool = False,
    extra: Mapping[str, str] | None = None,
    verify: bool = True,
    tolerance: float | None = None,
) -> OnnxExport:
    """Write ``model`` in evaluation mode to ``path``; the model itself stays as it is.

    ``example`` is a tuple of positional inputs, or a dict of keyword inputs. Of ``outputs`` only
    those that are named are written; all without names. With ``dynamic_size`` the height and width
    of its images are free, beside the batch. ``opset=None`` takes torch's own. With ``float16``
    weights and arithmetic are of that type, inputs and outputs stay as they are. ``extra`` are
    texts that the file carries (:func:`~slimnet.export.metadata.metadata_of`). ``tolerance=None``
    takes that of the number type. The weights lie inside the file, or in ``path`` + ".data" beside
    it above 2 GB.
    Raises :class:`ExportError` where the network has no ONNX form, :class:`ParityError` where the
    file differs from PyTorch, InputError for a path that cannot be written, or an output that is
    not there; nothing is left behind then.
    """
    inputs = positional(model, example)
    batch_of(inputs)
    target = Path(path)
    network = Network.of(model)
    allowed = _tolerance(network, float16=float16) if tolerance is None else tolerance
    read = tuple(names_read(network, inputs, outputs)) if outputs else ()
    if dynamic_size:
        _check_pictures(network, inputs)
    request = _Request(
        network,
        inputs,
        read,
        opset,
        allowed if verify else None,
        dynamic_size=dynamic_size,
        float16=float16,
        extra=extra or {},
    )
    with replacing_all(target) as folder:
        record = _written(request, folder / target.name, dynamic_batch)
    return replace(record, path=str(path))


def _tolerance(network: Network, *, float16: bool) -> float:
    own = tolerance_of(network)
    return max(own, TOLERANCES[torch.float16]) if float16 else own


def _check_pictures(network: Network, inputs: Example) -> None:
    if not images_of(inputs) and not any(map(is_picture, tensors_of(inputs))):
        raise InputError(
            f"{network.name} takes no images [N, C, H, W], whose height and width could be free: "
            "leave the dynamic size out"
        )


@dataclass(frozen=True)
class _Request:
    network: Network
    example: Example
    read: tuple[str, ...]  # outputs, each by its own name; all where empty
    opset: int | None
    tolerance: float | None
    dynamic_size: bool
    float16: bool
    extra: Mapping[str, str]


def _written(request: _Request, path: Path, dynamic_batch: bool) -> OnnxExport:
    """The file; of images of any size where that is asked for, or none."""
    if not request.dynamic_size:
        return _either(request, path, dynamic_batch)
    try:
        record = _either(request, path, dynamic_batch)
    except (ExportError, ParityError) as error:
        raise ExportError(f"{_one_size(request)}: {error}") from error
    if not record.any_size:
        raise ExportError(f"{_one_size(request)}: it is written as it ran, {record.recorded}")
    return record


def _one_size(request: _Request) -> str:
    return (
        f"{request.network.name} cannot be written for images of any height and width, so leave "
        "the dynamic size out"
    )


def _either(request: _Request, path: Path, dynamic_batch: bool) -> OnnxExport:
    """As ``torch.export`` follows the network; where that stops at a value, as it ran."""
    try:
        return _best(request, path) if dynamic_batch else _followed(request, path, False)
    except DecidesByValues as error:
        return _recorded(request, path, error)


def _best(request: _Request, path: Path) -> OnnxExport:
    """With a dynamic batch where that holds, else with the example's."""
    try:
        if images_of(request.example):
            raise ExportError("it takes a list of images, each an input of the file")
        return _followed(request, path, True)
    except (ExportError, ParityError) as error:
        reason = str(error)
    return replace(_followed(request, path, False), static_reason=reason)


def _followed(request: _Request, path: Path, dynamic_batch: bool) -> OnnxExport:
    """One file, as ``torch.export`` follows the network."""
    program = translate(
        request.network,
        request.example,
        request.read,
        dynamic_batch=dynamic_batch,
        dynamic_size=request.dynamic_size,
        opset=request.opset,
    )
    _clear(path)
    program.save(str(path))
    return replace(_finished(request, path), any_size=request.dynamic_size)


def _recorded(request: _Request, path: Path, cause: DecidesByValues) -> OnnxExport:
    """One file of what ran; for images of any size where that is right, else of the example's."""
    if images_of(request.example):
        with suppress(ExportError, ParityError):
            return _as_it_ran(request, path, cause, any_size=True)
    try:
        return _as_it_ran(request, path, cause, any_size=False)
    except (ExportError, ParityError) as error:
        raise type(error)(f"{cause}, and written as it ran: {error}") from error


def _as_it_ran(
    request: _Request, path: Path, cause: DecidesByValues, *, any_size: bool
) -> OnnxExport:
    _clear(path)
    network, inputs = request.network, request.example
    write_recorded(network, inputs, path, request.read, any_size=any_size, opset=request.opset)
    record = _finished(request, path)
    why = str(cause).partition(": ")[2]
    return replace(record, static_reason=why, recorded=why, any_size=any_size)


def _clear(path: Path) -> None:
    """Without what an attempt before left there."""
    for old in path.parent.iterdir():
        old.unlink()


def _finished(request: _Request, path: Path) -> OnnxExport:
    """Tidy, check and compare a file."""
    file = onnx.load(str(path), load_external_data=False)
    _tidy(file)
    denormals = flush_denormals(file, path.parent)
    if request.float16:
        file = to_float16(file)
        del file.graph.value_info[:]
    write_metadata(file, request.extra)
    onnx.save(file, str(path))
    with _way_out(request.network):
        _check(file, path, request)
        record = replace(_described(file, path), denormals=denormals)
        if request.tolerance is None:
            return record
        parity = parity_of(
            request.network, path, request.example, request.tolerance, read=request.read
        )
    return replace(record, parity=parity, runs=runtime_graph(path))


@contextmanager
def _way_out(network: Network) -> Iterator[None]:
    """Refusals of a type that ONNX, or its runtime, has few operators for, say what to do."""
    try:
        yield
    except (ExportError, InputError) as error:
        kind = network.dtype
        if kind in (None, torch.float32, torch.float16):
            raise
        name = str(kind).removeprefix("torch.")
        raise type(error)(
            f"{error}; the network is in {name}, which few runtimes of ONNX compute in: export it "
            "in float32 (model.float())"
        ) from error


def _tidy(file: onnx.ModelProto) -> None:
    """Drop stack traces and the user's paths; name the dynamic axes."""
    del file.metadata_props[:], file.graph.metadata_props[:], file.graph.value_info[:]
    for part in (*file.graph.node, *file.graph.input, *file.graph.output, *file.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    _name_axes(file.graph)


def _name_axes(graph: onnx.GraphProto) -> None:
    """Call the free axes of inputs "batch", "height" and "width", also where outputs have them."""
    names = _names_of(graph)
    for axis in (*_axes(graph.input), *_axes(graph.output)):
        if axis.dim_param:  # to write it would unset a length
            axis.dim_param = re.sub(
                r"\w+", lambda word: names.get(word[0], word[0]), axis.dim_param
            )


def _names_of(graph: onnx.GraphProto) -> dict[str, str]:
    """torch's symbol → what its axis is called; further sizes are numbered."""
    names: dict[str, str] = {}
    for value in graph.input:
        axes = value.type.tensor_type.shape.dim
        for place, axis in enumerate(axes):
            symbol = axis.dim_param
            if symbol and symbol not in (*SIZES, *names):
                name = SIZES[place - len(axes)] if place else BATCH
                alike = sum(known.startswith(name) for known in names.values())
                names[symbol] = f"{name}_{alike}" if alike else name
    return names


def _axes(values: Any) -> list[Any]:
    return [axis for value in values for axis in value.type.tensor_type.shape.dim]


def _check(file: onnx.ModelProto, path: Path, request: _Request) -> None:
    """The ONNX checker's word, and the opset that was asked for."""
    written = _opset(file)
    if request.opset is not None and request.opset != written:
        other = "a newer" if request.opset < written else "an older"
        raise InputError(
            f"opset {request.opset} was asked for and torch writes this network with {written}: "
            f"leave the opset out, or take {other} one"
        )
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker's and the shape inference's, without a common base
        raise ExportError(f"the ONNX checker refuses the file: {reason_of(error)}") from error


def _opset(file: onnx.ModelProto) -> int:
    return next(
        int(entry.version) for entry in file.opset_import if entry.domain in ("", "ai.onnx")
    )


def _described(file: onnx.ModelProto, path: Path) -> OnnxExport:
    graph = file.graph
    return OnnxExport(
        path=str(path),
        opset=_opset(file),
        inputs=tuple(value.name for value in graph.input),
        outputs=tuple(value.name for value in graph.output),
        dynamic_batch=any(axis.dim_param == BATCH for axis in _axes(graph.input)),
        static_reason=None,
        parameters=sum(
            math.prod(tensor.dims) for tensor in graph.initializer if tensor.data_type in _FLOATS
        ),
        batch_norms=sum(node.op_type == "BatchNormalization" for node in graph.node),
        size_bytes=sum(part.stat().st_size for part in path.parent.iterdir()),
        sha256=sha256_of(path),
        parity=None,
    )


def sha256_of(path: Path) -> str:
    """64 hexadecimal digits of a file."""
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


_FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
}
