"""Which public functions are recorded whole, which are opened, and which ATen operators fall apart.

What a composite is made of depends on type and device, so one rule for the whole is simpler and
surer than rules for its parts; a function whose body states sizes is better seen from inside.
"""

from __future__ import annotations

from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import nn

_aten = torch.ops.aten
COMPOSITES = {
    nn.functional.scaled_dot_product_attention: _aten.scaled_dot_product_attention.default,
    nn.functional.rms_norm: _aten.rms_norm.default,
    torch.lstm: _aten.lstm,
    torch.gru: _aten.gru,
    torch.rnn_tanh: _aten.rnn_tanh,
    torch.rnn_relu: _aten.rnn_relu,
    torch.lstm_cell: _aten.lstm_cell.default,
    torch.gru_cell: _aten.gru_cell.default,
    torch.rnn_tanh_cell: _aten.rnn_tanh_cell.default,
    torch.rnn_relu_cell: _aten.rnn_relu_cell.default,
    torch._pad_packed_sequence: _aten._pad_packed_sequence.default,
    torch._weight_norm: _aten._weight_norm.default,
}
"""Public functions recorded as one call: what they are made of depends on type and device."""
_WHOLE = {
    overload
    for op in COMPOSITES.values()
    for overload in ((op.input, op.data) if isinstance(op, torch._ops.OpOverloadPacket) else (op,))
}


def composite(func: Any, args: tuple[Any, ...]) -> Any:
    """The ATen overload that stands for a call of a public function; None where none does.

    A recurrent layer has one overload for tensors and one, with the running batch sizes as its
    second argument, for packed sequences.
    """
    op = func if func in _WHOLE else COMPOSITES.get(func)
    if isinstance(op, torch._ops.OpOverloadPacket):
        return op.input if isinstance(args[3], bool) else op.data
    return op


def is_whole(op: Any) -> bool:
    """Whether an operator stands for a public function."""
    return op in _WHOLE


@cache
def is_composite(op: Any) -> bool:
    """Whether an operator is made of others: under inference_mode they arrive whole."""
    return op not in _WHOLE and bool(
        torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd")
    )


OPENED = {nn.functional.multi_head_attention_forward}
"""Public functions written in Python whose own public calls state sizes."""


@cache
def opened(func: Any) -> Any:
    """The same function, whose calls a function mode sees as if the user had made them.

    As it is, it would hand itself to the mode again instead of running its body.
    """
    inside = {**func.__globals__, "has_torch_function": lambda _: False}
    twin = FunctionType(func.__code__, inside, func.__name__, func.__defaults__)
    twin.__kwdefaults__ = func.__kwdefaults__
    return twin
