"""From a PyTorch module to torch's ONNX program, quietly and with a sentence when it fails.

The route is ``torch.export`` followed by ``torch.onnx.export``: the one that torch maintains. Both
write warnings, logs and graphs to the terminal about their own internals; all of that is kept away
here, and only here. A dynamic batch is traced at a batch of at least two, because torch takes a
length of one for a constant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from slimnet.capture.modules import clone, evaluation_mode
from slimnet.errors import SlimnetError
from slimnet.example import check_outputs, is_read, named_tensors, read_of, tensors_of
from slimnet.export.inputs import Example, batch_of, follows_batch, is_picture, random_inputs
from slimnet.export.session import reason_of
from slimnet.network import Network
from slimnet.quiet import quiet


class ExportError(SlimnetError):
    """The network cannot be written as ONNX; the text names the operator or the reason."""


class DecidesByValues(ExportError):
    """``torch.export`` cannot follow it: what it runs, or how much it gives, depends on values."""


def translate(
    network: Network,
    example: Example,
    read: Sequence[str] = (),
    *,
    dynamic_batch: bool,
    dynamic_size: bool = False,
    opset: int | None,
) -> torch.onnx.ONNXProgram:
    """The network's evaluation behaviour as an ONNX program, with the outputs that are read.

    Inputs are named "input" or "input_0" and on, outputs "output" or "output_0" and on; those in
    ``read``, each as :func:`names_read` gives it, keep their names. Raises :class:`ExportError`.
    """
    with quiet(stdout=True), evaluation_mode(network), torch.no_grad():
        try:
            exported = _exported(network, example, read, dynamic_batch, dynamic_size)
            program = _program(exported, len(tensors_of(example)), list(read), opset)
        except Exception as error:  # torch raises dozens of kinds, most of them private
            raise refusal(network, error) from error
    return program


def names_read(network: Network, example: Example, read: Sequence[str]) -> list[str]:
    """What the outputs are called that are read.

    Raises :class:`~slimnet.errors.InputError` for one that is to be read and is not there.
    """
    with evaluation_mode(network), torch.no_grad():
        names = [name for name, _ in named_tensors(network.model(*example))]
    check_outputs(read, names)
    return [name for name in names if is_read(name, read)]


def refusal(network: Network, error: BaseException) -> ExportError:
    """Why it cannot be written, of what torch raised."""
    text = f"{network.name} cannot be written as ONNX: {_reason(error)}"
    return (DecidesByValues if _DECIDES in text else ExportError)(text)


def on_cpu(network: Network) -> Network:
    """The network itself where it lives on the CPU, else a copy that does."""
    if all(tensor.device.type == "cpu" for tensor in network.tensors.values()):
        return network
    return Network.of(clone(network, lambda _, tensor: tensor.detach().cpu()))


class _Flat(nn.Module):
    """Returns the tensors of the model's output that are read, whatever holds them."""

    def __init__(self, model: nn.Module, read: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.read = tuple(read)

    def forward(self, *inputs: Any) -> list[Tensor]:
        return read_of(self.model(*inputs), self.read)


def flat(network: Network, read: Sequence[str]) -> nn.Module:
    """The network on the CPU, in evaluation mode, giving a list of the outputs that are read."""
    wrapped = _Flat(on_cpu(network).model, read)
    wrapped.training = False  # its own flag only: a user's class may not like train()
    return wrapped


def _exported(
    network: Network, example: Example, read: Sequence[str], dynamic_batch: bool, dynamic_size: bool
) -> Any:
    batch, wrapped = batch_of(example), flat(network, read)
    if not dynamic_batch and not dynamic_size:
        return torch.export.export(wrapped, random_inputs(example, batch), strict=False)
    inputs = random_inputs(example, max(batch, 2) if dynamic_batch else batch)
    free = _FreeAxes(batch if dynamic_batch else None, dynamic_size)
    shapes = (tree_map(free.of, example),)
    return torch.export.export(wrapped, inputs, dynamic_shapes=shapes, strict=False)


@dataclass(frozen=True)
class _FreeAxes:
    """Which axes of the inputs may be of any length."""

    batch: int | None  # of the example, where it is free
    size: bool  # whether height and width of images are

    def of(self, leaf: Any) -> dict[int, Any] | None:
        """Axis → what torch is told of it, of one input; None of one whose shape is fixed."""
        free: dict[int, Any] = {}
        if self.batch is not None and follows_batch(leaf, self.batch):
            free[0] = torch.export.Dim(BATCH)
        if self.size and is_picture(leaf):  # torch finds what is least, and what stays alike
            free |= dict.fromkeys((leaf.ndim - 2, leaf.ndim - 1), torch.export.Dim.DYNAMIC)
        return free or None


BATCH = "batch"
SIZES = ("height", "width")
"""What the free axes of inputs are called."""


def _program(
    exported: Any, inputs: int, names: list[str], opset: int | None
) -> torch.onnx.ONNXProgram:
    outputs = len(exported.graph_signature.user_outputs)
    if not outputs:
        raise TypeError("its output holds no tensor")
    program = torch.onnx.export(
        exported,
        dynamo=True,
        verbose=False,
        opset_version=opset,
        input_names=numbered("input", inputs),
        output_names=names or numbered("output", outputs),
    )
    if program is None:
        raise TypeError("torch.onnx gave no program")
    return program


def numbered(name: str, count: int) -> list[str]:
    """``["input"]`` for one, ``["input_0", "input_1"]`` for two."""
    return [name] if count == 1 else [f"{name}_{position}" for position in range(count)]


def _reason(error: BaseException) -> str:
    """The one line of a chain of torch errors that a person can act on."""
    chain = list(_causes(error))
    text = "\n".join(str(link) for link in chain)
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", text)
    if operator:
        return f"ONNX has no operator for {operator[1]}"
    place = _place(text)
    if "data-dependent" in text:
        return f"{_DECIDES}{place}"
    if fixed := re.search(_FIXES, text):
        what = "batch size" if fixed[1] == BATCH else "size of its images"
        return f"its code fixes the {what} at {fixed[2]}{place}"
    return f"{reason_of(chain[-1])}{place}"


_FIXES = r"You marked (.+?) as dynamic but your code specialized it to be a constant \((\d+)\)"
_DECIDES = "its code decides by the values of a tensor"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _place(text: str) -> str:
    """The user's line, where torch tells it."""
    found = re.search(r'File "([^"]+)", line (\d+), in (\w+)\n\s+(\S.*)', text)
    return f" ({Path(found[1]).name}:{found[2]}: {found[4].strip()})" if found else ""
