"""Write a network as one ONNX file that is checked before anybody sees it.

Takes a model and an example, gives the file and a record of what is in it. The file is written in
a folder beside its place, passes the ONNX checker and the comparison with PyTorch there, and only
then moves to its name. A dynamic batch is tried first; a network that cannot take one is written
with the example's batch size, and the record says why. Where its code decides by values, as
detectors do, it is written as it ran (:mod:`.tracing`), for images of any size where that holds.
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
from slimnet.example import positional
from slimnet.export.inputs import Example, batch_of, images_of
from slimnet.export.parity import Parity, ParityError, parity_of, tolerance_of
from slimnet.export.session import reason_of
from slimnet.export.tracing import SIZES, write_recorded
from slimnet.export.translate import DecidesByValues, ExportError, names_read, translate
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
    any_size: bool = False  # whether such a file takes images of any size

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
    opset: int | None = None,
    verify: bool = True,
    tolerance: float | None = None,
) -> OnnxExport:
    """Write ``model`` in evaluation mode to ``path``; the model itself stays as it is.

    ``example`` is a tuple of positional inputs, or a dict of keyword inputs. Of ``outputs`` only
    those that are named are written; all without names. ``opset=None`` takes torch's own,
    ``tolerance=None`` that of the network's type. The weights lie inside the file, or in ``path`` +
    ".data" beside it above 2 GB.
    Raises :class:`ExportError` where the network has no ONNX form, :class:`ParityError` where the
    file differs from PyTorch, InputError for a path that cannot be written, or an output that is
    not there; nothing is left behind then.
    """
    inputs = positional(model, example)
    batch_of(inputs)
    target = Path(path)
    network = Network.of(model)
    allowed = tolerance_of(network) if tolerance is None else tolerance
    read = tuple(names_read(network, inputs, outputs)) if outputs else ()
    request = _Request(network, inputs, read, opset, allowed if verify else None)
    with replacing_all(target) as folder:
        record = _written(request, folder / target.name, dynamic_batch)
    return replace(record, path=str(path))


@dataclass(frozen=True)
class _Request:
    network: Network
    example: Example
    read: tuple[str, ...]  # outputs, each by its own name; all where empty
    opset: int | None
    tolerance: float | None


def _written(request: _Request, path: Path, dynamic_batch: bool) -> OnnxExport:
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
        opset=request.opset,
    )
    _clear(path)
    program.save(str(path))
    return _finished(request, path)


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
    onnx.save(file, str(path))
    with _way_out(request.network):
        _check(file, path, request)
        record = _described(file, path)
        if request.tolerance is None:
            return record
        parity = parity_of(
            request.network, path, request.example, request.tolerance, read=request.read
        )
    return replace(record, parity=parity)


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
    """Drop stack traces and the user's paths; call the dynamic axis "batch"."""
    del file.metadata_props[:], file.graph.metadata_props[:], file.graph.value_info[:]
    for part in (*file.graph.node, *file.graph.input, *file.graph.output, *file.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    _name_batch(file.graph)


def _name_batch(graph: onnx.GraphProto) -> None:
    symbols = {axis.dim_param for axis in _axes(graph.input) if axis.dim_param} - set(SIZES)
    for axis in (*_axes(graph.input), *_axes(graph.output)):
        for symbol in symbols & {axis.dim_param, *re.findall(r"\w+", axis.dim_param)}:
            axis.dim_param = re.sub(rf"\b{re.escape(symbol)}\b", BATCH, axis.dim_param)


BATCH = "batch"


def _axes(values: Any) -> list[Any]:
    return [axis for value in values for axis in value.type.tensor_type.shape.dim]


def _check(file: onnx.ModelProto, path: Path, request: _Request) -> None:
    """The ONNX checker's word, and the opset that was asked for."""
    written = _opset(file)
    if request.opset not in (None, written):
        raise InputError(
            f"opset {request.opset} was asked for and torch writes this network with {written}: "
            "leave the opset out, or take a newer one"
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
        sha256=_sha256(path),
        parity=None,
    )


def _sha256(path: Path) -> str:
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
