"""Does the ONNX file compute what the PyTorch model computes?

Takes the model, the file and an example; runs both on random inputs, at the example's batch size
and, where the file takes any batch, at another one. A difference is an error, never a warning. Of a
detector the images are its example's, and what it finds is compared as a set (:mod:`.detections`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimnet.capture.modules import evaluation_mode
from slimnet.errors import SlimnetError
from slimnet.example import is_read, named_tensors, positional, tensors_of
from slimnet.export.detections import difference, tables
from slimnet.export.inputs import (
    Example,
    batch_of,
    images_of,
    is_picture,
    random_inputs,
    resized,
)
from slimnet.export.session import (
    Feed,
    feed,
    fixed_batch,
    frees_size,
    open_session,
    reason_of,
    takes_any_size,
)
from slimnet.export.translate import on_cpu
from slimnet.network import Network

TOLERANCE = 1e-4  # float32 through two differently ordered sums, some hundred layers deep
TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 8e-2}
"""Of networks that round more: nine of torchvision and the CIFAR ResNet-56 in float16 came within
2e-3, both sides rounding after every layer; bfloat16 rounds eight times as coarsely."""
Array = np.ndarray[Any, Any]


class ParityError(SlimnetError):
    """The ONNX file does not compute what the model computes."""


@dataclass(frozen=True)
class Parity:
    """The largest relative error found: max|a - b| / max|a| per output, over all batches."""

    error: float
    tolerance: float
    batches: tuple[int, ...]
    images: tuple[str, ...] = ()  # sizes of those that a detector ran on, or a file of any size
    found: int | None = None  # how many things both found in them; None of other networks

    def sentence(self, runtime: str) -> str:
        """How near what a runtime makes of a file comes to PyTorch."""
        ran = f"batches {', '.join(map(str, self.batches))}"
        if self.images:
            sizes = f"images of {', '.join(self.images)}"
            ran = f"{ran}, {sizes}" if self.found is None else sizes
        text = (
            f"equals PyTorch within {self.error:.1e} (relative, tolerance {self.tolerance:.0e}, "
            f"{runtime}, {ran})"
        )
        if self.found == 0:
            return f"{text}; nothing was found there that could be compared: give another --example"
        return text if self.found is None else f"{text}; {self.found} finds compared"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def check_parity(
    model: nn.Module,
    onnx_path: str | Path,
    example: Example | Mapping[str, Any],
    *,
    tolerance: float | None = None,
    seed: int = 0,
) -> Parity:
    """Compare the model in evaluation mode with the file in onnxruntime, both on the CPU.

    Raises :class:`ParityError` where an output is missing, has another shape, is not a number, or
    differs by more than ``tolerance``; that of the network's type by default.
    """
    network = Network.of(model)
    allowed = tolerance_of(network) if tolerance is None else tolerance
    return parity_of(network, onnx_path, positional(model, example), allowed, seed=seed)


def parity_of(
    network: Network,
    onnx_path: str | Path,
    inputs: Example,
    tolerance: float,
    *,
    read: Sequence[str] = (),
    seed: int = 0,
) -> Parity:
    """The same, of a network that was walked already, and of the outputs that are read.

    Raises as :func:`check_parity`.
    """
    session, network = open_session(Path(onnx_path)), on_cpu(network)
    trials = _trials(session, network, inputs, seed)
    results = [_compared(network, session, trial, read, tolerance) for trial in trials]
    worst = max(error for error, _ in results)
    if worst > tolerance:
        raise ParityError(
            f"{Path(onnx_path).name} does not compute what {network.name} computes: "
            f"relative error {worst:.1e} in onnxruntime, {tolerance:.0e} allowed"
        )
    batches = tuple(dict.fromkeys(map(batch_of, trials)))
    if images_of(inputs):
        sizes = _sizes(trial[0][0] for trial in trials)
        return Parity(worst, tolerance, batches, sizes, sum(number for _, number in results))
    if frees_size(session):
        pictures = (next(filter(is_picture, tensors_of(trial))) for trial in trials)
        return Parity(worst, tolerance, batches, _sizes(pictures))
    return Parity(worst, tolerance, batches)


def _sizes(pictures: Iterable[Tensor]) -> tuple[str, ...]:
    """``3x224x224`` of each, once."""
    texts = ("x".join(map(str, x.shape[-3:])) for x in pictures)
    return tuple(dict.fromkeys(texts))


def _trials(session: Any, network: Network, inputs: Example, seed: int) -> list[Example]:
    """What both are run on: random inputs of two batch sizes, or of the file's own.

    Where height and width are free, other ones too. A detector finds little in noise: its own
    images come first, and where the file takes any, the same in another size.
    """
    if images := images_of(inputs):
        own: Example = ([image.detach().cpu() for image in images],)
        trials = [own, random_inputs(inputs, len(images), seed)]
        return [*trials, (list(map(_resized, own[0])),)] if takes_any_size(session) else trials
    fixed = fixed_batch(session)
    batches = _batches(batch_of(inputs)) if fixed is None else (fixed,)
    trials = [random_inputs(inputs, batch, seed) for batch in batches]
    if frees_size(session):
        larger, odd = (random_inputs(resized(inputs, size), batches[0], seed) for size in _OTHERS)
        trials += [larger, odd] if _runs(network, odd) else [larger]
    return trials


_OTHERS = (
    lambda height, width: (height + 32, width + 64),  # a multiple of what the example's is of
    lambda height, width: (height * 3 // 4 | 1, width * 3 // 4 | 1),
)
"""Sizes that a file of any size is tried at; the second where the network itself takes it."""


def _runs(network: Network, inputs: Example) -> bool:
    try:
        with evaluation_mode(network), torch.no_grad():
            network.model(*inputs)
    except Exception:  # whatever the user's forward may raise
        return False
    return True


def _resized(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    return nn.functional.interpolate(image[None], (height + 32, width + 64), mode="bilinear")[0]


def tolerance_of(network: Network) -> float:
    """What the coarsest type among a network's tensors allows."""
    return max(
        (TOLERANCES.get(t.dtype, TOLERANCE) for t in network.tensors.values()), default=TOLERANCE
    )


def check_numbers(name: str, outputs: Sequence[Tensor], batch: int) -> None:
    """Raise :class:`ParityError` where the network itself gives NaN: nothing compares with that."""
    if any(x.is_floating_point() and bool(x.isnan().any()) for x in outputs):
        raise ParityError(
            f"{name} itself gives NaN at batch {batch} on random inputs, and no "
            "file can be compared with that: give an example in its range, whose values are then "
            "drawn from, or look for NaN in its weights"
        )


def _batches(batch: int) -> tuple[int, int]:
    return (batch, 3 if batch == 1 else 1)


def _compared(
    network: Network, session: Any, inputs: Example, read: Sequence[str], tolerance: float
) -> tuple[float, int]:
    """The largest relative error, and how many rows of tables were compared."""
    batch = batch_of(inputs)
    arrays = feed(session, inputs)
    names, expected = _in_torch(network, inputs, read, batch)
    computed = _in_onnxruntime(session, arrays, batch)
    worst, number = 0.0, 0
    if images_of(inputs) and len(computed) == len(expected):
        both = tables(names, expected), tables(names, computed)
        for start in both[0].keys() & both[1].keys():
            error, rows = difference(both[0][start], both[1][start], tolerance)
            worst, number = max(worst, error), number + rows
        inside = [name.rpartition(".")[0] in both[0].keys() & both[1].keys() for name in names]
        expected, computed = (
            [x for x, is_inside in zip(arrays, inside, strict=True) if not is_inside]
            for arrays in (expected, computed)
        )
    return max(worst, _error(network, expected, computed, batch)), number


def _error(
    network: Network, expected: Sequence[Array], computed: Sequence[Array], batch: int
) -> float:
    shapes = [[array.shape for array in arrays] for arrays in (expected, computed)]
    if shapes[0] != shapes[1]:
        raise ParityError(
            f"the outputs at batch {batch} have shapes {_listed(shapes[1])} in the ONNX file, "
            f"{_listed(shapes[0])} in PyTorch"
        )
    worst = max(map(_relative, expected, computed), default=0.0)
    if np.isfinite(worst):
        check_numbers(network.name, [torch.from_numpy(array) for array in expected], batch)
    return worst


def _in_torch(
    network: Network, inputs: Example, read: Sequence[str], batch: int
) -> tuple[list[str], list[Array]]:
    """The names of the outputs that are read, and their values."""
    try:
        with evaluation_mode(network), torch.no_grad():
            outputs = named_tensors(network.model(*inputs))
    except Exception as error:  # whatever the user's forward may raise
        raise ParityError(
            f"{network.name} does not run at batch {batch}: {reason_of(error)}"
        ) from error
    chosen = [(name, x) for name, x in outputs if is_read(name, read)]
    arrays = [(x.float() if x.dtype == torch.bfloat16 else x).numpy() for _, x in chosen]
    return [name for name, _ in chosen], arrays


def _in_onnxruntime(session: Any, arrays: Feed, batch: int) -> list[Array]:
    try:
        return list(session.run(None, arrays))
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ParityError(
            f"the ONNX file does not run at batch {batch}: {reason_of(error)}"
        ) from error


def _relative(expected: Array, computed: Array) -> float:
    """max|a - b| / max|a|; infinite where one of them is not a number and the other is."""
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    a, b = expected.astype(wide), computed.astype(wide)
    differs = (a != b) & ~(np.isnan(a) & np.isnan(b))
    if not differs.any():
        return 0.0
    scale = np.abs(a[np.isfinite(a)]).max(initial=0.0)
    with np.errstate(invalid="ignore"):
        difference = np.abs(a[differs] - b[differs]).max()
    error = float(difference / scale) if scale > 0 else float("inf")
    return error if np.isfinite(error) else float("inf")


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes)) or "none"
