"""What is recorded whole, and what by its parts: public functions, and ATen operators.

What a composite is made of depends on type and device, so one rule for the whole is simpler and
surer than rules for its parts; a function whose body states sizes is better seen from inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import nn

from slimnet.operator import wholes


def composite(func: Any, args: Sequence[Any]) -> Any:
    """The ATen overload that stands for a call of a public function; None where none does.

    A recurrent layer has one overload for tensors and one, with the running batch sizes as its
    second argument, for packed sequences.
    """
    return next((op for op, fits in wholes().get(func, ()) if fits(args)), None)


def is_whole(op: Any) -> bool:
    """Whether an operator stands for a public function."""
    return op in wholes()


@cache
def is_composite(op: Any) -> bool:
    """Whether an operator is made of others: under inference_mode they arrive whole."""
    return not is_whole(op) and bool(
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
