"""Inputs for an ONNX file that nobody has a network for, from what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimnet.errors import InputError
from slimnet.example import normal
from slimnet.export.inputs import Example
from slimnet.export.session import open_session
from slimnet.export.tracing import SIZES
from slimnet.text import count

Shape = Sequence[int]


def example_of_file(path: Path, shapes: Sequence[Shape] = ()) -> Example:
    """Normal noise for floating-point inputs, zeros for all else; ``shapes`` in the file's order.

    Without them a free first axis is a batch of one. Raises InputError for other free axes, and
    for a file that cannot be opened.
    """
    entries = open_session(path).get_inputs()
    if shapes and len(shapes) != len(entries):
        names = ", ".join(entry.name for entry in entries)
        raise InputError(
            f"{path} takes {count(len(entries), 'input')} ({names}), and --input is given for "
            f"{len(shapes)}: give it once for each, in this order"
        )
    sizes = shapes or [_shape(path, entry) for entry in entries]
    tensors = [_values(path, *each) for each in zip(entries, sizes, strict=True)]
    return (tensors,) if entries and all(map(_is_image, entries)) else tuple(tensors)


def _shape(path: Path, entry: Any) -> Shape:
    """Of one input as the file states it."""
    stated = list(entry.shape)
    if stated and not isinstance(stated[0], int):
        stated[0] = 1
    if all(isinstance(length, int) for length in stated):
        return stated
    written = ",".join(str(length or "?") for length in entry.shape)
    raise InputError(
        f"{path} takes an input of any size, {entry.name} ({written}): say which, batch included, "
        "as --input 1,3,224,224"
    )


def _is_image(entry: Any) -> bool:
    """Whether it is one image [C, H, W] of any size of a list of them, as detectors are written."""
    return tuple(entry.shape[1:]) == SIZES and len(entry.shape) == 3


def _values(path: Path, entry: Any, shape: Shape) -> Tensor:
    kind = _KINDS.get(entry.type)
    if kind is None:
        raise InputError(f"{path} takes {entry.name} as {entry.type}, which is not made here")
    return normal(shape).to(kind) if kind.is_floating_point else torch.zeros(*shape, dtype=kind)


_KINDS = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(uint8)": torch.uint8,
    "tensor(int8)": torch.int8,
    "tensor(bool)": torch.bool,
}
