"""Does the ONNX file compute what the PyTorch model computes?

Takes the model, the file and an example; runs both on random inputs, at the example's batch size
and, where the file takes any batch, at another one. A difference is an error, never a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from slimnet.capture.modules import evaluation_mode
from slimnet.errors import SlimnetError
from slimnet.example import positional, tensors_of
from slimnet.export.inputs import Example, batch_of, random_inputs
from slimnet.export.session import Feed, feed, first_line, fixed_batch, open_session
from slimnet.export.translate import on_cpu

TOLERANCE = 1e-4  # float32 through two differently ordered sums, some hundred layers deep
Array = np.ndarray[Any, Any]


class ParityError(SlimnetError):
    """The ONNX file does not compute what the model computes."""


@dataclass(frozen=True)
class Parity:
    """The largest relative error found: max|a - b| / max|a| per output, over all batches."""

    error: float
    tolerance: float
    batches: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def check_parity(
    model: nn.Module,
    onnx_path: str | Path,
    example: Example | Mapping[str, Any],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Parity:
    """Compare the model in evaluation mode with the file in onnxruntime, both on the CPU.

    Raises :class:`ParityError` where an output is missing, has another shape, is not a number, or
    differs by more than ``tolerance``.
    """
    inputs = positional(model, example)
    session = open_session(Path(onnx_path))
    fixed = fixed_batch(session)
    batches = _batches(batch_of(inputs)) if fixed is None else (fixed,)
    model = on_cpu(model)
    errors = [
        _error(model, session, random_inputs(inputs, batch, seed), batch) for batch in batches
    ]
    worst = max(errors)
    if worst > tolerance:
        raise ParityError(
            f"{Path(onnx_path).name} does not compute what {type(model).__name__} computes: "
            f"relative error {worst:.1e} in onnxruntime, {tolerance:.0e} allowed"
        )
    return Parity(worst, tolerance, batches)


def _batches(batch: int) -> tuple[int, int]:
    return (batch, 3 if batch == 1 else 1)


def _error(model: nn.Module, session: Any, inputs: Example, batch: int) -> float:
    found = _in_onnxruntime(session, feed(session, inputs), batch)
    expected = _in_torch(model, inputs, batch)
    shapes = [[array.shape for array in arrays] for arrays in (expected, found)]
    if shapes[0] != shapes[1]:
        raise ParityError(
            f"the outputs at batch {batch} have shapes {_listed(shapes[1])} in the ONNX file, "
            f"{_listed(shapes[0])} in PyTorch"
        )
    return max(map(_relative, expected, found))


def _in_torch(model: nn.Module, inputs: Example, batch: int) -> list[Array]:
    try:
        with evaluation_mode(model), torch.no_grad():
            return [tensor.numpy() for tensor in tensors_of(model(*inputs))]
    except Exception as error:  # whatever the user's forward may raise
        raise ParityError(
            f"{type(model).__name__} does not run at batch {batch}: {first_line(error)}"
        ) from error


def _in_onnxruntime(session: Any, arrays: Feed, batch: int) -> list[Array]:
    try:
        return list(session.run(None, arrays))
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ParityError(
            f"the ONNX file does not run at batch {batch}: {first_line(error)}"
        ) from error


def _relative(expected: Array, found: Array) -> float:
    """max|a - b| / max|a|; infinite where one of them is not a number and the other is."""
    if expected.size == 0 or np.array_equal(expected, found, equal_nan=expected.dtype.kind in "fc"):
        return 0.0
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    a, b = expected.astype(wide), found.astype(wide)
    scale, difference = np.abs(a).max(), np.abs(a - b).max()
    error = float(difference / scale) if scale > 0 else float("inf")
    return error if np.isfinite(error) else float("inf")


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes)) or "none"
