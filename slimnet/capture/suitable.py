"""Refuse what cannot be recorded, is broken already, or cannot be copied.

Takes a model and raises, before anything runs, for the first module or tensor that hides its
operators or its numbers: compiled, scripted and distributed modules, quantised ones with packed
weights, tensors of a class of their own, weights without shape or values, and numbers that are not
finite. Of a copy it says what in it still runs the original.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from slimnet.capture.copying import leading_back
from slimnet.capture.modules import evaluation_mode, parts_of
from slimnet.errors import InputError
from slimnet.example import hides_results, map_tensors
from slimnet.network import Network


def refuse_unsuitable(network: Network, example: tuple[Any, ...] | None = None) -> None:
    """Raise :class:`InputError` for a network that cannot be recorded, or is broken already.

    With an ``example`` a scripted part that never runs on it, such as a loss, is no reason.
    """
    for path, module in network.modules.items():
        _check_module(path or "the model", module)
    for path in _scripts(network, example):
        raise InputError(_SCRIPTED.format(path))
    for name, tensor in network.tensors.items():
        _check_tensor(name, tensor)


def _check_module(path: str, module: nn.Module) -> None:
    if _is_script(module):
        raise InputError(_SCRIPTED.format(path))
    if "_orig_mod" in vars(module)["_modules"]:
        raise InputError(
            f"{path} is compiled: prune the module before torch.compile (model._orig_mod)"
        )
    names = {kind.__name__ for kind in type(module).__mro__}
    if distributed := next((name for name in _DISTRIBUTED if name in names), None):
        raise InputError(
            f"{path} is wrapped in {distributed}: prune the module inside it, in one process, and "
            "wrap the slim network anew"
        )
    if any(isinstance(value, torch.ScriptObject) for value in vars(module).values()):
        raise InputError(
            f"{path} holds packed weights, as quantised layers do: prune the network before it is "
            "quantised"
        )


_SCRIPTED = "{} is TorchScript, which hides its operators: prune the module that it was made of"


def _scripts(network: Network, example: tuple[Any, ...] | None) -> list[str]:
    """The paths of scripted parts; with an example, of those that it calls."""
    scripts = {
        id(child): f"{path}.{name}".lstrip(".")
        for path, module in network.modules.items()
        for name, child in vars(module)["_modules"].items()
        if _is_script(child)
    }
    if not scripts or example is None:
        return list(scripts.values())
    called: set[int] = set()
    with torch.no_grad(), evaluation_mode(network), _noting(called), suppress(Exception):
        network.model(*map_tensors(Tensor.clone, example))  # where it fails, recording says why
    return [path for number, path in scripts.items() if number in called]


@contextmanager
def _noting(called: set[int]) -> Iterator[None]:
    """Note the identity of every module that this thread calls; torch's hook is for all threads."""
    own = threading.get_ident()

    def note(module: nn.Module, _: Any) -> None:
        if threading.get_ident() == own:
            called.add(id(module))

    hook = register_module_forward_pre_hook(note)
    try:
        yield
    finally:
        hook.remove()


def _is_script(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


_DISTRIBUTED = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule")
"""By name: importing what defines them takes a second."""


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
    if hides_results(type(tensor)):
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


def _is_sound(tensor: Tensor, may_be_infinite: bool) -> bool:
    """A finite sum needs one pass and no mask; only a broken (or huge) one is looked at again."""
    if math.isfinite(float(tensor.sum())):
        return True
    return not bool(tensor.isnan().any()) if may_be_infinite else bool(tensor.isfinite().all())


def refuse_unbound(network: Network, copy: Network, example: tuple[Any, ...]) -> None:
    """Raise :class:`InputError` where a copy of a network computes with the network's own tensors.

    What leads back to the original is bound to the copy as far as that is possible
    (:mod:`.copying`); a global name, or an object that cannot be copied, may be left.
    """
    watch = _Watch(network.tensors.values())
    with torch.no_grad(), evaluation_mode(copy), suppress(Exception), watch:
        copy.model(*map_tensors(Tensor.clone, example))
    if watch.seen:
        parts = parts_of(network)
        holder = leading_back(copy.modules.items(), parts) or "something outside of it"
        raise InputError(
            f"{holder} holds {network.name} itself where no copy can be put in its place, "
            "so the slim network would compute with the weights of the original: call the module "
            "through self"
        )


_READS = ("__get__", "size", "dim", "numel", "stride", "is_floating_point")  # no numbers are read


class _Watch(TorchFunctionMode):
    """Whether one of these tensors is computed with."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self._tensors = {id(tensor): tensor for tensor in tensors}
        self.seen = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") not in _READS:
            arguments = tree_leaves((args, kwargs or {}))
            self.seen = self.seen or any(id(leaf) in self._tensors for leaf in arguments)
        return func(*args, **(kwargs or {}))
