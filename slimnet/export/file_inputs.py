"""Inputs for an ONNX file that nobody has a network for, from what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from slimnet.errors import InputError
from slimnet.example import normal
from slimnet.export.inputs import Example
from slimnet.export.translate import SIZES
from slimnet.text import count, first_line

Shape = Sequence[int]


def example_of_file(path: Path, shapes: Sequence[Shape] = ()) -> Example:
    """Normal noise for floating-point inputs, zeros for all else; ``shapes`` in the file's order.

    Without them a free first axis is a batch of one. Raises InputError for other free axes, and
    for a file that cannot be read.
    """
    entries = _entries(path)
    if shapes and len(shapes) != len(entries):
        names = ", ".join(entry.name for entry in entries)
        raise InputError(
            f"{path} takes {count(len(entries), 'input')} ({names}), and --input is given for "
            f"{len(shapes)}: give it once for each, in this order"
        )
    sizes = shapes or [_shape(path, entry) for entry in entries]
    tensors = [_values(path, *each) for each in zip(entries, sizes, strict=True)]
    return (tensors,) if entries and all(map(_is_image, entries)) else tuple(tensors)


def _entries(path: Path) -> list[Any]:
    """The inputs, without the weights that old files list among them."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give an ONNX file")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf's own exceptions
        raise InputError(f"{path} is no ONNX file: {first_line(error)}") from error
    weights = {tensor.name for tensor in graph.initializer}
    return [entry for entry in graph.input if entry.name not in weights]


def _axes(entry: Any) -> list[int | str]:
    """Each its length, or what a free one is called."""
    axes = entry.type.tensor_type.shape.dim
    return [axis.dim_value if axis.HasField("dim_value") else axis.dim_param for axis in axes]


def _shape(path: Path, entry: Any) -> Shape:
    """Of one input as the file states it."""
    stated = _axes(entry)
    first = [1 if isinstance(length, str) else length for length in stated[:1]]
    lengths = [*first, *(length for length in stated[1:] if isinstance(length, int))]
    if len(lengths) == len(stated):
        return lengths
    written = ",".join(str(length or "?") for length in stated)
    raise InputError(
        f"{path} takes an input of any size, {entry.name} ({written}): say which, batch included, "
        "as --input 1,3,224,224"
    )


def _is_image(entry: Any) -> bool:
    """Whether it is one image [C, H, W] of any size of a list of them, as detectors are written."""
    axes = _axes(entry)
    return len(axes) == 3 and tuple(axes[1:]) == SIZES


def _values(path: Path, entry: Any, shape: Shape) -> Tensor:
    """Of a type that torch and numpy have."""
    number = entry.type.tensor_type.elem_type
    kind = _KINDS.get(number)
    if kind is None:
        name = onnx.TensorProto.DataType.Name(number).lower()
        raise InputError(f"{path} takes {entry.name} as {name}, which is not made here")
    return normal(shape).to(kind) if kind.is_floating_point else torch.zeros(*shape, dtype=kind)


_KINDS = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.BOOL: torch.bool,
}
