"""From a checkpoint file to its tensors and to a model, without running code from the file.

``read_state`` unwraps the state dict that a file holds; ``open_model`` builds the architecture
around it. The weights of known architectures stay mapped from the file, without a second copy.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.capture.archive import read_archive
from slimnet.capture.modules import named_tensors
from slimnet.capture.pt2 import read_pt2
from slimnet.errors import InputError
from slimnet.networks.arch import Arch, fitted, recognise
from slimnet.networks.payload import WANTED, first_line, is_program_file, load_payload

__all__ = ["OpenedModel", "load_payload", "open_model", "read_state"]

State = Mapping[str, Tensor]
PathLike = str | Path

# Where training scripts keep the weights, in the order in which they are looked for.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "params",
    "ema",
    "model_ema",
    "ema_state_dict",
    "params_ema",
)
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # DataParallel, compile, Lightning


@dataclass(frozen=True)
class OpenedModel:
    """A model in eval mode, what built it (None for a pickled one), and what to tell the user."""

    model: nn.Module
    arch: Arch | None
    notes: tuple[str, ...] = ()
    example: tuple[Any, ...] | None = None  # inputs that lie in the file


def open_model(
    path: PathLike, arch: Arch | None = None, *, allow_pickle: bool = False
) -> OpenedModel:
    """Read a state dict, an exported program or, with ``allow_pickle``, a pickled module.

    Without ``arch`` the state dict's names and shapes tell it, and an exported program runs as it
    is. Raises InputError for a file that cannot be read, weights that are NaN or Inf, and weights
    that do not fit the architecture.
    """
    if is_program_file(path):
        if arch is None:
            return _opened_program(path)
        payload: Any = dict(read_archive(path).tensors)
    else:
        payload = load_payload(path, allow_pickle=allow_pickle)
    module = _pickled_module(payload)
    if module is not None and arch is None:
        return _opened_module(module, path)
    state = _state_in(payload if module is None else module.state_dict(), path)
    if arch is None or arch.source != "file":
        state = _renamed(state)
    fit = recognise(state) if arch is None else fitted(arch, state)
    model = fit.build()
    notes = _load(model, state, fit, path)
    _check_values(model, path)
    return OpenedModel(model, fit, (*_built_as(fit, arch), *notes))


def _opened_program(path: PathLike) -> OpenedModel:
    exported = read_pt2(path)
    _check_layouts(dict(named_tensors(exported.program)), path)
    _check_values(exported.program, path)
    calls = len(exported.program.calls)
    note = f"an exported program of {calls} calls"
    return OpenedModel(exported.program, None, (note,), exported.example)


def read_state(path: PathLike) -> State:
    """Read a plain or wrapped state dict; every key without the prefix that all keys share.

    Raises InputError for a file that cannot be read, holds no tensors, or holds NaN or Inf.
    """
    state = _state_in(load_payload(path), path)
    for name, tensor in state.items():
        _check_value(name, tensor, path)
    return state


def _state_in(payload: Any, path: PathLike) -> State:
    tensors = {
        str(name): value
        for name, value in _unwrap(payload, path).items()
        if isinstance(value, Tensor) and name != "n_averaged"  # swa_utils.AveragedModel's counter
    }
    if not tensors:
        raise InputError(f"{path} holds no tensors, so it is no state dict: {WANTED}")
    prefix = _shared_prefix(tensors)
    state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    _check_layouts(state, path)
    return state


def _unwrap(payload: Any, path: PathLike) -> Mapping[Any, Any]:
    """Follow the wrappers' keys down to the mapping that holds the tensors."""
    if not isinstance(payload, Mapping):
        raise InputError(f"{path} holds a {type(payload).__name__}, not a state dict: {WANTED}")
    if "slimnet_artifact" in payload:
        raise InputError(f"{path} is a slimnet artifact: slimnet.load reads it")
    wrapped = (payload[key] for key in WRAPPERS if isinstance(payload.get(key), Mapping))
    inner = next(wrapped, None)
    return payload if inner is None else _unwrap(inner, path)


def _shared_prefix(names: Iterable[str]) -> str:
    """Return the wrappers' prefixes that all names share, such as ``module.``, or nothing."""
    names = list(names)
    for prefix in PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            return prefix + _shared_prefix(name.removeprefix(prefix) for name in names)
    return ""


def _check_layouts(state: State, path: PathLike) -> None:
    for name, tensor in state.items():
        if tensor.is_quantized or tensor.layout is not torch.strided:
            raise InputError(f"{path}: {name} is a quantised or sparse tensor, not a dense one")


def _check_values(model: nn.Module, path: PathLike) -> None:
    for name, tensor in named_tensors(model):
        _check_value(name, tensor, path, mask=not isinstance(tensor, nn.Parameter))


def _check_value(name: str, tensor: Tensor, path: PathLike, *, mask: bool = False) -> None:
    """Refuse NaN, and infinite values except in a buffer, which may be a ``mask``."""
    low, high = _extremes(tensor.detach())
    infinite = math.isinf(low) or math.isinf(high)
    if math.isnan(low) or (infinite and not mask):
        raise InputError(f"{path}: {name} holds NaN or Inf: train it again, or mend it first")


def _extremes(tensor: Tensor) -> tuple[float, float]:
    """The least and the largest value, NaN where there is one: found without a copy."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return 0.0, 0.0
    wide = tensor.float() if tensor.element_size() == 1 else tensor  # float8 has no order
    low, high = torch.aminmax(wide)
    return float(low), float(high)


def _renamed(state: State) -> State:
    """Give the parameters of torchvision's older files the names that they have today."""
    renamed = {}
    for name, tensor in state.items():
        for old, new in _OLD_NAMES:
            name = old.sub(new, name)
        renamed[name] = tensor
    return renamed


def _load(model: nn.Module, state: State, arch: Arch, path: PathLike) -> tuple[str, ...]:
    """Load the weights, in place, into a model that nobody else holds; return what to tell."""
    own = model.state_dict()
    prefix = _shared_prefix(own)
    given = {prefix + name: tensor for name, tensor in state.items()}
    wanted = OrderedDict(
        (name, _like(own[name], tensor) if name in own else tensor)
        for name, tensor in (_counters(own) | given).items()
    )
    # The names are today's, so no module may take them for those of an old version.
    wanted._metadata = own._metadata  # type: ignore[attr-defined]
    try:
        # A user's class may hold a parameter twice; assigning would tear the two apart.
        model.load_state_dict(wanted, assign=arch.source != "file")
    except Exception as error:  # a class's own loading hooks raise what they like
        raise InputError(
            f"{path} does not fit {arch}: {_difference(own, wanted, error)}"
        ) from error
    return _cast_notes(own, given)


def _counters(own: State) -> dict[str, Tensor]:
    """Return the batch norms' counters, which old files lack and which do not matter here."""
    return {name: own[name] for name in own if name.endswith("num_batches_tracked")}


def _like(own: Tensor, tensor: Tensor) -> Tensor:
    floating = own.is_floating_point() and tensor.is_floating_point()
    return tensor.to(own.dtype) if floating else tensor


def _difference(own: State, given: State, error: Exception) -> str:
    shapes = [
        f"{name} ({_by(given[name])} in the file, {_by(own[name])} in the network)"
        for name in own
        if name in given and own[name].shape != given[name].shape
    ]
    parts = {
        "missing": [name for name in own if name not in given],
        "unexpected": [name for name in given if name not in own],
        "of another shape": shapes,
    }
    told = "; ".join(f"{what} {_first(names)}" for what, names in parts.items() if names)
    return told or first_line(error)


def _first(names: list[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _by(tensor: Tensor) -> str:
    return "x".join(str(length) for length in tensor.shape) or "a number"


def _cast_notes(own: State, given: State) -> tuple[str, ...]:
    casts = {
        f"weights stored as {_dtype(tensor)} are used as {_dtype(own[name])}"
        for name, tensor in given.items()
        if name in own and _like(own[name], tensor) is not tensor
    }
    return tuple(sorted(casts))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _built_as(fit: Arch, asked: Arch | None) -> Iterator[str]:
    options = ", ".join(f"{name}={value}" for name, value in fit.options.items())
    if asked is None:
        yield f"recognised as {fit}" + (f" with {options}" if options else "")
    elif fit != asked:
        yield f"{fit} is built with {options}, as its weights have it"
    if str(fit) in _TRANSFORMING and "transform_input" not in fit.options:
        yield (
            f"{fit} is built with transform_input=False; torchvision's own ImageNet weights "
            "were trained with True"
        )


def _pickled_module(payload: Any) -> nn.Module | None:
    """Return the module that a pickle holds, on its own or under one of the wrappers' keys."""
    found = [payload.get(key) for key in WRAPPERS] if isinstance(payload, Mapping) else []
    modules = (value for value in [payload, *found] if isinstance(value, nn.Module))
    module = next(modules, None)
    while isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        module = module.module
    return module


def _opened_module(module: nn.Module, path: PathLike) -> OpenedModel:
    state = module.state_dict()
    _check_layouts(state, path)
    _check_values(module, path)
    halves = sorted({_dtype(t) for t in state.values() if t.dtype in (torch.half, torch.bfloat16)})
    notes = tuple(f"weights stored as {half} are used as float32" for half in halves)
    model = module.float() if halves else module
    return OpenedModel(model.eval(), None, notes)


_TRANSFORMING = ("torchvision:googlenet", "torchvision:inception_v3")
_OLD_NAMES = (  # those of torchvision's own DenseNet and ViT, which it renames as it loads
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)
