"""Refuse, before anything runs, what cannot be recorded or is broken already.

Takes a model and raises for the first module or tensor that hides its operators or its numbers:
compiled and scripted modules, quantised ones with packed weights, tensors of a class that answers
in torch's place, weights without shape or values, and numbers that are not finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from slimnet.capture.modules import named_modules, named_tensors
from slimnet.errors import InputError


def refuse_unsuitable(model: nn.Module) -> None:
    """Raise :class:`InputError` for a network that cannot be recorded, or is broken already."""
    for path, module in named_modules(model):
        _check_module(path or "the model", module)
    for name, tensor in named_tensors(model):
        _check_tensor(name, tensor)


def _check_module(path: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError(
            f"{path} is TorchScript, which hides its operators: prune the module that it was made "
            "of"
        )
    if "_orig_mod" in vars(module)["_modules"]:
        raise InputError(
            f"{path} is compiled: prune the module before torch.compile (model._orig_mod)"
        )
    if any(isinstance(value, torch.ScriptObject) for value in vars(module).values()):
        raise InputError(
            f"{path} holds packed weights, as quantised layers do: prune the network before it is "
            "quantised"
        )


def _check_tensor(name: str, tensor: Tensor) -> None:
    if is_lazy(tensor):
        raise InputError(f"{name} has no shape yet: run the lazy network once before pruning")
    if tensor.is_meta:
        raise InputError(f"{name} has no values (it is on the meta device): load the weights")
    if tensor.is_quantized or tensor.layout is not torch.strided:
        raise InputError(
            f"{name} is a quantised or sparse tensor, not a dense one: prune the network before "
            "its weights are converted"
        )
    if _answers_for_torch(type(tensor)):
        raise InputError(
            f"{name} is of {type(tensor).__name__}, a class that answers in torch's place: prune "
            "the network while its weights are plain tensors"
        )
    may_be_infinite = not isinstance(tensor, nn.Parameter)  # such as a mask of -inf
    if tensor.is_floating_point() and not _is_sound(tensor.detach(), may_be_infinite):
        raise InputError(
            f"{name} holds NaN or infinite numbers: the network is broken before any cut; "
            "take an earlier checkpoint"
        )


def _answers_for_torch(kind: type[Tensor]) -> bool:
    """Whether a class of tensors overrides what torch's functions or operators do."""
    if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return True
    function = kind.__torch_function__
    plain = getattr(Tensor.__torch_function__, "__func__", None)
    return (
        function is not torch._C._disabled_torch_function_impl
        and getattr(function, "__func__", None) is not plain
    )


def _is_sound(tensor: Tensor, may_be_infinite: bool) -> bool:
    """A finite sum needs one pass and no mask; only a broken (or huge) one is looked at again."""
    if math.isfinite(float(tensor.sum())):
        return True
    return not bool(tensor.isnan().any()) if may_be_infinite else bool(tensor.isfinite().all())
