"""How much memory one pass of a program may take, asked before each of its calls.

A few hundred bytes can ask for 10^12 numbers: ``full``, ``repeat``, an outer product, a padding.
Every call is tried on shapes alone first (tensors of torch's "meta" device), and a program that
asks for more than networks of its size need is refused there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from slimnet.errors import InputError

LEAST_BYTES = 2**30
"""Results at a time that any program may hold; ResNet-50 on 32 images holds 0.4 GB."""

TIMES_WEIGHTS = 64
"""… or so many times the weights that lie in the file."""


class Unlimited:
    """For a pass on inputs of a kind that was tried before, or that torch traces: no limit."""

    def check(self, op: Any, args: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Refuse nothing."""

    def hold(self, name: str, result: Any) -> None:
        """Count nothing."""

    def drop(self, name: str) -> None:
        """Count nothing."""


class Allowance(Unlimited):
    """What one pass may hold at a time, and what it holds."""

    def __init__(self, most: float) -> None:
        self.most = most
        self._held: dict[str, dict[int, int]] = {}  # result → its storages, and their bytes

    def check(self, op: Any, args: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Refuse a call whose results would be too large."""
        with _unseen():
            needed = _needed(op, args, named)
        living = {place: size for held in self._held.values() for place, size in held.items()}
        if needed + sum(living.values()) > self.most:
            raise InputError(
                f"{op} asks for {needed:,} bytes of memory, and a program of this size may hold "
                f"{int(self.most):,} at a time: build the network with its class"
            )

    def hold(self, name: str, result: Any) -> None:
        """Count a result until it is dropped."""
        with _unseen():
            storages = [tensor.untyped_storage() for tensor in _tensors(result)]
            self._held[name] = {storage._cdata: storage.nbytes() for storage in storages}

    def drop(self, name: str) -> None:
        """Count this result no longer: no later call reads it."""
        self._held.pop(name, None)


def allowance(
    weights: Sequence[Tensor], stated_bytes: int, inputs: Iterable[Any], tried: set[Any]
) -> Unlimited:
    """What a pass on these inputs may hold: more where they are larger than a file's own example.

    ``tried`` are kinds of inputs that need not be counted again; these are added.
    """
    with _unseen():
        tensors = list(_tensors(inputs))
        if any(type(x) not in _COMPUTED or x.is_meta for x in (*weights, *tensors)):
            return Unlimited()
        kind = tuple((tuple(x.shape), x.dtype) for x in tensors)
        if kind in tried:
            return Unlimited()
        tried.add(kind)
        larger = max(1.0, bytes_of(tensors) / max(stated_bytes, 1))
        return Allowance(max(LEAST_BYTES, TIMES_WEIGHTS * bytes_of(weights)) * larger)


_COMPUTED = (Tensor, torch.nn.Parameter)


@contextmanager
def _unseen() -> Iterator[None]:
    """Hide what is tried here from modes that record or trace the pass."""
    with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
        yield


def bytes_of(value: Any) -> int:
    """What the tensors inside containers would take, each written out."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _needed(op: Any, args: Sequence[Any], named: Mapping[str, Any]) -> int:
    """How many bytes the results of a call have beyond what its arguments have.

    0 where the shapes do not fit each other: then the call itself refuses them.
    """
    if op in _BY_VALUES:
        return _BY_VALUES[op](args[0])
    arguments = [_numbered(arg) for arg in args]
    for outline in (_outline, _double):  # a proof runs in float64, on weights that it exchanges
        outlines = tree_map(outline, arguments)
        storages = {tensor.untyped_storage()._cdata for tensor in _tensors(outlines)}
        try:
            results = op(*outlines, **_elsewhere(op, len(args), tree_map(outline, dict(named))))
        except NotImplementedError as error:
            raise InputError(f"how large the result of {op} is cannot be told") from error
        except (RuntimeError, TypeError, ValueError, IndexError):
            continue
        return sum(_beyond(tensor, storages) for tensor in _tensors(results))
    return 0


_aten = torch.ops.aten
_BY_VALUES: dict[Any, Callable[[Tensor], int]] = {
    _aten.nonzero.default: lambda x: x.numel() * x.dim() * 8,
    _aten.masked_select.default: lambda x: x.numel() * x.element_size(),
    _aten.item.default: lambda x: 0,
    _aten._local_scalar_dense.default: lambda x: 0,
}
"""Operators whose results are as large as the values say: what they are at most."""


def _numbered(argument: Any) -> Any:
    """Masks among indices as the places that they choose, which have shapes."""
    if not isinstance(argument, (list, tuple)):
        return argument
    return [
        place
        for entry in argument
        for place in (entry.nonzero().unbind(1) if _is_mask(entry) else (entry,))
    ]


def _is_mask(entry: Any) -> bool:
    return isinstance(entry, Tensor) and entry.dtype in (torch.bool, torch.uint8)


def _outline(leaf: Any) -> Any:
    """A tensor's shape, strides and type on a device that computes nothing."""
    if isinstance(leaf, torch.device):
        return _META
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=_META)


_META = torch.device("meta")


def _double(leaf: Any) -> Any:
    """As :func:`_outline`, floating point in one type."""
    outline = _outline(leaf)
    is_float = isinstance(outline, Tensor) and outline.is_floating_point()
    return outline.double() if is_float else outline


def _elsewhere(op: Any, placed: int, named: dict[str, Any]) -> dict[str, Any]:
    """The named arguments, on the device that computes nothing."""
    names = [argument.name for argument in op._schema.arguments]
    return {**named, "device": _META} if "device" in names[placed:] else named


def _beyond(tensor: Tensor, storages: set[int]) -> int:
    """The bytes of a result; of a view only those that its storage does not have."""
    size = tensor.numel() * tensor.element_size()
    storage = tensor.untyped_storage()
    return max(0, size - storage.nbytes()) if storage._cdata in storages else size
