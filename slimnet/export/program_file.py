"""Write a network as a ``.pt2``, which ``torch.export.load`` opens and runs without slimnet.

The file is written beside its place, opened again by torch itself, compared with the network at the
example's batch size and, where the file takes any batch, at another one, and only then moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from slimnet.capture.modules import evaluation_mode
from slimnet.example import Example, positional, tensors_of
from slimnet.export.inputs import batch_of, random_inputs
from slimnet.export.parity import Parity, ParityError, check_numbers, tolerance_of
from slimnet.export.session import reason_of
from slimnet.export.translate import ExportError, on_cpu
from slimnet.network import Network
from slimnet.output import in_memory, replacing
from slimnet.program.exported import export, has_free_batch
from slimnet.program.program import Program
from slimnet.quiet import quiet


@dataclass(frozen=True)
class ProgramExport:
    """What was written, and how near it comes to the network."""

    path: str
    dynamic_batch: bool
    parameters: int  # floating-point numbers in the file
    size_bytes: int
    parity: Parity

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def export_pt2(
    model: nn.Module,
    example: Example,
    path: str | Path,
    *,
    extra: Mapping[str, str] | None = None,
    tolerance: float | None = None,
) -> ProgramExport:
    """Write ``model`` in evaluation mode to ``path``; the model itself stays as it is.

    ``extra`` are texts that the file carries beside the network. Raises :class:`ExportError` where
    torch cannot export the network, :class:`ParityError` where the file computes something else,
    InputError for a path that cannot be written; nothing is left behind then.
    """
    inputs, target = positional(model, example), Path(path)
    network = Network.of(model)
    tolerance = tolerance_of(network) if tolerance is None else tolerance
    try:
        exported = export(on_cpu(network), inputs)
    except Exception as error:  # torch raises dozens of kinds, most of them private
        raise ExportError(
            f"{network.name} cannot be written as .pt2: {reason_of(error)}"
        ) from error
    dynamic = has_free_batch(exported)
    with replacing(target) as temporary:
        temporary.write_bytes(in_memory(lambda file: _save(exported, file, extra or {})))
        parity = _compared(network, temporary, inputs, tolerance, dynamic=dynamic)
        size = temporary.stat().st_size
    numbers = sum(t.numel() for t in exported.state_dict.values() if t.is_floating_point())
    return ProgramExport(str(path), dynamic, numbers, size, parity)


def _save(exported: torch.export.ExportedProgram, file: BinaryIO, extra: Mapping[str, str]) -> None:
    """torch's writer ends the whole process where the file fails it, or a signal comes."""
    with quiet():
        torch.export.save(exported, file, extra_files=dict(extra))


def _compared(
    network: Network, file: Path, example: tuple[Any, ...], tolerance: float, *, dynamic: bool
) -> Parity:
    """Run what torch reads from the file beside the network, which is its own work to unpickle."""
    with quiet(), file.open("rb") as opened:
        written = torch.export.load(opened).module()
    batch = batch_of(example)
    batches = (batch, 3 if batch == 2 else 2) if dynamic else (batch,)
    network = on_cpu(network)
    worst = max(_error(network, written, random_inputs(example, size)) for size in batches)
    if not worst <= tolerance:
        raise ParityError(
            f"the .pt2 does not compute what {network.name} computes: relative error "
            f"{worst:.1e}, {tolerance:.0e} allowed"
        )
    return Parity(worst, tolerance, batches)


def _error(network: Network, written: nn.Module, inputs: tuple[Any, ...]) -> float:
    model = network.model
    args, named = model.as_called(inputs) if isinstance(model, Program) else (inputs, {})
    with torch.no_grad(), evaluation_mode(network):
        expected, computed = tensors_of(model(*inputs)), tensors_of(written(*args, **named))
    check_numbers(network.name, expected, batch_of(inputs))
    if [x.shape for x in expected] != [x.shape for x in computed]:
        return float("inf")
    return max((_relative(a, b) for a, b in zip(expected, computed, strict=True)), default=0.0)


def _relative(a: Tensor, b: Tensor) -> float:
    if not a.numel():
        return 0.0
    return float((a.double() - b.double()).abs().max() / a.double().abs().max().clamp_min(1e-30))
