"""From a checkpoint file to its tensors and to a model, without running code from the file.

``read_state`` unwraps the state dict that a file holds; ``open_model`` builds the architecture
around it. The weights of known architectures stay mapped from the file, without a second copy.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.errors import InputError
from slimnet.limits import LONGEST
from slimnet.network import Network
from slimnet.networks.arch import Arch, fitted, recognise
from slimnet.networks.foreign import Foreign
from slimnet.networks.names import aligned, is_apart, is_beside, is_own_state, shared_prefix
from slimnet.networks.payload import WANTED, is_program_file, load_payload
from slimnet.networks.weights import find_weights
from slimnet.program.archive import read_archive
from slimnet.program.pt2 import read_pt2
from slimnet.text import first_line_with_kind

__all__ = ["OpenedModel", "load_payload", "open_model", "read_state"]

State = Mapping[str, Tensor]
PathLike = str | Path


@dataclass(frozen=True)
class OpenedModel:
    """A model in eval mode, what built it (None for a pickled one), and what to tell the user."""

    model: nn.Module
    arch: Arch | None
    notes: tuple[str, ...] = ()
    example: tuple[Any, ...] | None = None  # inputs that lie in the file
    recognised: bool = (
        False  # by names and shapes alone, which show neither strides nor activations
    )


def open_model(
    path: PathLike,
    arch: Arch | None = None,
    *,
    weights: str | None = None,
    allow_pickle: bool = False,
) -> OpenedModel:
    """Read a state dict, an exported program or, with ``allow_pickle``, a pickled module.

    ``weights`` is the dotted key of those to read where the file holds several (``"ema"``). Without
    ``arch`` the state dict's names and shapes tell it, and an exported program runs as it is.
    Objects of other classes beside the weights are not made, and refuse nothing. Raises InputError
    for a file that cannot be read, weights that are NaN or Inf, and weights that do not fit the
    architecture.
    """
    if is_program_file(path):
        if weights is not None:
            raise InputError(f"{path} is an exported program, which holds no other weights")
        if arch is None:
            return _opened_program(path)
        payload: Any = dict(read_archive(path).tensors)
    else:
        payload = load_payload(path, allow_pickle=allow_pickle, foreign=True)
    stored = find_weights(payload, path, weights)
    module = _unpacked(stored.content)
    if module is not None and arch is None:
        return _opened_module(module, path, stored.notes)
    content = stored.content if module is None else module.state_dict()
    return _opened_state(_entries(content), arch, path, stored.notes)


def _opened_state(
    entries: Mapping[str, Any], arch: Arch | None, path: PathLike, notes: tuple[str, ...]
) -> OpenedModel:
    state = _state_in(entries, path)
    if arch is None or arch.source != "file":
        state = _renamed(state)
    tensors = {name: t for name, t in state.items() if not is_own_state(name)}
    fit = _recognised(tensors) if arch is None else fitted(arch, tensors)
    model = fit.build()
    loading = _load(model, state, entries, fit, path)
    _check_values(Network.of(model).tensors, path)
    notes = (*notes, *_built_as(fit, arch), *loading)
    return OpenedModel(model, fit, notes, recognised=arch is None)


def _opened_program(path: PathLike) -> OpenedModel:
    exported = read_pt2(path)
    network = Network.of(exported.program)
    _check_layouts(network.tensors, path)
    _check_values(network.tensors, path)
    calls = len(exported.program.calls)
    note = f"an exported program of {calls} calls"
    return OpenedModel(exported.program, None, (note,), exported.example)


def read_state(path: PathLike, weights: str | None = None) -> State:
    """Read a plain or wrapped state dict; every key without the prefix that all keys share.

    Raises InputError for a file that cannot be read, holds no tensors, or holds NaN or Inf.
    """
    content = find_weights(load_payload(path, foreign=True), path, weights).content
    state = _state_in(_entries(content), path)
    for name, tensor in state.items():
        if isinstance(tensor, Tensor):
            _check_value(name, tensor, path)
    return state


def _entries(content: Any) -> dict[str, Any]:
    """What lies beside and among the weights, by name."""
    return {str(name): value for name, value in content.items()}


def _state_in(entries: Mapping[str, Any], path: PathLike) -> State:
    """Without the prefix that all names share, and what counts averages; the rest as it is."""
    tensors = {name: t for name, t in entries.items() if isinstance(t, Tensor)}
    own = {n: s for n, s in entries.items() if is_own_state(n) and not isinstance(s, Foreign)}
    state = {name: entry for name, entry in {**tensors, **own}.items() if name != "n_averaged"}
    if not tensors:
        raise InputError(f"{path} holds no tensors, so it is no state dict: {WANTED}")
    _check_layouts(tensors, path)
    prefix = shared_prefix(name for name in state if not is_beside(name))
    return {name.removeprefix(prefix): entry for name, entry in state.items()}


def _check_layouts(state: State, path: PathLike) -> None:
    for name, tensor in state.items():
        if tensor.is_quantized or tensor.layout is not torch.strided:
            raise InputError(f"{path}: {name} is a quantised or sparse tensor, not a dense one")


def _check_values(tensors: State, path: PathLike) -> None:
    for name, tensor in tensors.items():
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


def _recognised(state: State) -> Arch:
    """The architecture, from the names and shapes of all that is not there for training only."""
    return recognise({name: tensor for name, tensor in state.items() if not is_beside(name)})


def _load(
    model: nn.Module, state: State, entries: Mapping[str, Any], arch: Arch, path: PathLike
) -> tuple[str, ...]:
    """Load the weights, in place, into a model that nobody else holds; return what to tell."""
    own = model.state_dict()
    loaded = aligned(state, own)
    loaded = {**_implied(model, own, loaded, entries), **loaded}
    extra = [name for name in loaded if name not in own]
    if own.keys() <= loaded.keys() and all(is_beside(n) or is_apart(n, own) for n in extra):
        loaded = {name: tensor for name, tensor in loaded.items() if name in own}
    cast = OrderedDict((n, _like(own[n], t) if n in own else t) for n, t in loaded.items())
    # The names are today's, so no module may take them for those of an old version.
    cast._metadata = own._metadata  # type: ignore[attr-defined]
    try:
        # A user's class may hold a parameter twice; assigning would tear the two apart.
        model.load_state_dict(cast, assign=arch.source != "file")
    except Exception as error:  # a class's own loading hooks raise what they like
        raise InputError(
            f"{path} does not fit {arch}: {_difference(own, cast, entries, error)}"
        ) from error
    return (*_cast_notes(own, loaded), *_ignored_notes(extra))


def _implied(
    model: nn.Module, own: State, state: State, entries: Mapping[str, Any]
) -> dict[str, Any]:
    """What a file may lack: counters of batch norms, second names of a tensor, and own states."""
    named: dict[str, Tensor] = {}
    network = Network.of(model)
    for name, tensor in state.items():
        named.setdefault(network.own_name(name), tensor)
    firsts = {name: network.own_name(name) for name in own}
    return {
        **{name: named[other] for name, other in firsts.items() if other in named},
        **{n: own[n] for n in own if n.endswith("num_batches_tracked")},
        **{n: own[n] for n in own if is_own_state(n) and n not in entries},
    }


def _ignored_notes(extra: list[str]) -> Iterator[str]:
    if extra:
        yield f"not of this network, and ignored: {_first(extra)}"


def _like(own: Any, tensor: Any) -> Any:
    if not isinstance(own, Tensor) or not isinstance(tensor, Tensor):
        return tensor
    floating = own.is_floating_point() and tensor.is_floating_point()
    return tensor.to(own.dtype) if floating else tensor


def _difference(own: State, state: State, entries: Mapping[str, Any], error: Exception) -> str:
    shapes = [
        f"{name} ({_by(state[name])} in the file, {_by(own[name])} in the network)"
        for name in own
        if name in state and _shape(own[name]) != _shape(state[name])
    ]
    parts = {
        "missing": [_lacking(name, entries) for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": shapes,
    }
    text = "; ".join(f"{what} {_first(names)}" for what, names in parts.items() if names)
    return text or first_line_with_kind(error)


def _lacking(name: str, entries: Mapping[str, Any]) -> str:
    """A name that is missing, and what lies there in place of a tensor."""
    entry = entries.get(name)
    return f"{name} (a pickled {entry.kind})" if isinstance(entry, Foreign) else name


def _first(names: list[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(n if len(n) <= LONGEST else f"{n[:LONGEST]}…" for n in names[:count]) + more


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, Tensor) else None


def _by(tensor: Tensor) -> str:
    return "x".join(str(length) for length in tensor.shape) or "a number"


def _cast_notes(own: State, state: State) -> tuple[str, ...]:
    casts = {
        f"weights stored as {_dtype(tensor)} are used as {_dtype(own[name])}"
        for name, tensor in state.items()
        if name in own and _like(own[name], tensor) is not tensor
    }
    return tuple(sorted(casts))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _built_as(fit: Arch, arch: Arch | None) -> Iterator[str]:
    options = ", ".join(f"{name}={value}" for name, value in fit.options.items())
    if arch is None:
        yield f"recognised as {fit}" + (f" with {options}" if options else "")
    elif fit != arch:
        yield f"{fit} is built with {options}, as its weights have it"
    if str(fit) in _TRANSFORMING and "transform_input" not in fit.options:
        yield (
            f"{fit} is built with transform_input=False; torchvision's own ImageNet weights "
            "were trained with True"
        )


def _unpacked(content: Any) -> nn.Module | None:
    """The module that a pickle holds, without what distributes it; None for a state dict."""
    while isinstance(content, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        content = content.module
    return content if isinstance(content, nn.Module) else None


def _opened_module(module: nn.Module, path: PathLike, notes: tuple[str, ...]) -> OpenedModel:
    state = module.state_dict()
    _check_layouts(state, path)
    _check_values(Network.of(module).tensors, path)
    halves = sorted({_dtype(t) for t in state.values() if t.dtype in (torch.half, torch.bfloat16)})
    casts = [f"weights stored as {half} are used as float32" for half in halves]
    model = module.float() if halves else module
    return OpenedModel(model.eval(), None, (*notes, *casts))


UNSEEN = "strides, padding and activations cannot be seen in weights"
"""What the command line says where a network was recognised by its weights alone."""

_TRANSFORMING = ("torchvision:googlenet", "torchvision:inception_v3")
_OLD_NAMES = (  # those of torchvision's own DenseNet and ViT, which it renames as it loads
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)
