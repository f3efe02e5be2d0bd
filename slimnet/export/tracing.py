"""Write a network as ONNX by recording it as it runs, where ``torch.export`` cannot follow it.

Torch's older exporter keeps every operator that ran on an example. What depends on values through
operators alone (the boxes that a detector keeps) is right for all inputs; what Python decided by a
value is fixed as it came out. So a network whose own code makes a number or a truth value of a
tensor is refused here. torch's and torchvision's code may: it is written to be recorded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.jit._trace import TracerWarning

from slimnet.capture.modules import evaluation_mode
from slimnet.example import tensors_of
from slimnet.export.inputs import Example
from slimnet.export.translate import SIZES, ExportError, flat, names_read, numbered, refusal
from slimnet.network import Network
from slimnet.quiet import quiet


def write_recorded(
    network: Network,
    example: Example,
    path: Path,
    read: Sequence[str] = (),
    *,
    any_size: bool,
    opset: int | None,
) -> None:
    """Run the network on the example and write what ran; with ``any_size``, for any image size.

    Inputs are called "input" or "input_0" and on, outputs what the network calls them, as in
    "boxes". Raises :class:`ExportError`, also where the network's own code decides by a value.
    """
    model = flat(network, read)
    with quiet(stdout=True), evaluation_mode(network), torch.no_grad():
        try:
            names = numbered("input", len(tensors_of(example)))
            free = {name: dict(enumerate(SIZES, 1)) for name in names} if any_size else {}
            outputs = _called(names_read(network, example, read), len(names))
            with _decisions() as found:
                torch.onnx.export(
                    model,
                    example,
                    str(path),
                    dynamo=False,
                    opset_version=opset,
                    input_names=names,
                    output_names=outputs,
                    dynamic_axes=free,
                )
        except Exception as error:  # torch raises dozens of kinds, most of them private
            raise refusal(network, error) from error
    if found:
        raise ExportError(
            f"{network.name} cannot be written as ONNX: its code decides by a value in "
            f"{Path(found[0].filename).name}:{found[0].lineno}, and a file holds one way only"
        )


def _called(names: list[str], inputs: int) -> list[str]:
    """Without the place in a list of one image; numbers where there are no names."""
    if not all(names):
        return numbered("output", len(names))
    return [name.removeprefix("0.") for name in names] if inputs == 1 else names


@contextmanager
def _decisions() -> Iterator[list[warnings.WarningMessage]]:
    """Where code that is not written to be recorded makes a number or truth value of a tensor."""
    found: list[warnings.WarningMessage] = []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", TracerWarning)
        yield found
    found += [each for each in heard if _decides(each)]
    for other in heard:
        if not issubclass(other.category, TracerWarning):  # another thread's
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)


def _decides(heard: warnings.WarningMessage) -> bool:
    """Whether the tracer warns that a value or a length became Python's, in the user's code."""
    return (
        issubclass(heard.category, TracerWarning)
        and "registered as constants" not in str(heard.message)
        and not any(Path(heard.filename).is_relative_to(folder) for folder in _folders())
    )


def _folders() -> list[str]:
    """Of the packages whose code is written to be recorded."""
    specs = [find_spec(name) for name in ("torch", "torchvision")]
    return [folder for spec in specs if spec for folder in spec.submodule_search_locations or ()]
