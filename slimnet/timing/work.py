"""What of a recorded pass takes time, and on which lengths that depends.

Convolutions are told apart by their form, for their time does not follow their MACs. Other products
follow their MACs, all else the elements that it makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from slimnet.capture.graph import Call, Ref
from slimnet.costs.quantity import CostInputs, SizedAxis
from slimnet.operator import of


@dataclass(frozen=True)
class Form:
    """A convolution of images but for its channels."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    depthwise: bool
    size: tuple[int, int]  # of the images that it reads
    out: tuple[int, int]  # and of those that it makes


@dataclass(frozen=True, eq=False)
class Work:
    """One call: a product of ``factor`` and the lengths of its axes, or a convolution of a form.

    The axes of a convolution with a form are the channels that it reads and those that it makes.
    """

    factor: int
    axes: tuple[SizedAxis, ...]
    form: Form | None = None
    multiplies: bool = False  # whether the product counts MACs, and not elements

    @property
    def whole(self) -> tuple[int, ...]:
        """The lengths as they stand."""
        return tuple(length for _, length in self.axes)


def works(inputs: CostInputs) -> Iterator[Work]:
    """Every call that takes time."""
    for call in inputs.trace.calls:
        form = _form(call)
        if form is not None:
            x = call.args[0]
            channels = (inputs.axis(x, 1), inputs.axis(call.outputs[0], 1))
            yield Work(prod(form.kernel) * prod(form.out), channels, form, multiplies=True)
            continue
        formula = (of(call.op).costs or {}).get("macs")
        products = list(formula(call)) if formula is not None else []
        for factor, places in products:
            axes = tuple(inputs.axis(ref, d) for ref, d in places)
            yield Work(factor, axes, multiplies=True)
        if not products and call.outputs and _computes(call):
            yield Work(1, inputs.axes(call.outputs[0]))


def _form(call: Call) -> Form | None:
    """Of a convolution of images that is dense or depthwise; None for any other call."""
    if call.op._schema.name != "aten::convolution":
        return None
    x, weight, _, stride, padding, dilation, transposed, _, groups = call.args[:9]
    out = call.outputs[0]
    depthwise = groups > 1 and groups == x.shape[1] == out.shape[1]
    if len(x.shape) != 4 or transposed or not (groups == 1 or depthwise):
        return None
    return Form(
        kernel=_pair(weight.shape[2:]),
        stride=_pair(stride),
        padding=_pair(padding),
        dilation=_pair(dilation),
        depthwise=depthwise,
        size=_pair(x.shape[2:]),
        out=_pair(out.shape[2:]),
    )


def _pair(given: Sequence[int]) -> tuple[int, int]:
    return (int(given[0]), int(given[-1]))


_FREE = ("view", "reshape", "empty", "t", "squeeze", "unsqueeze", "select", "expand", "detach")
"""Calls that move nothing."""


def _computes(call: Call) -> bool:
    name = call.op._schema.name.removeprefix("aten::")
    reads = any(isinstance(ref, Ref) for ref in call.reads)
    return (
        reads and name not in _FREE and not name.startswith(("native_batch_norm", "_unsafe_view"))
    )
