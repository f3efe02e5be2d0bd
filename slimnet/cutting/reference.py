"""Run a network in float64 on weights that stand for its own, and on survivors where it matters.

Everything is widened *while it runs*: a mode exchanges each weight at the moment of use, and the
calls that depend on all channels (LayerNorm, softmax over channels …) take only the survivors, so
that they too can be compared. Neither model is changed.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from slimnet.capture.composites import OPENED, composite, is_composite, opened
from slimnet.capture.modules import evaluation_mode, named_tensors
from slimnet.capture.trace import Call, Ref, Trace, Uncompiled, fast_paths_off
from slimnet.coupling.couple import Coupling
from slimnet.coupling.labels import Labelled
from slimnet.cutting import bands
from slimnet.cutting.standins import Values, widened
from slimnet.planning.plan import Plan


@dataclass(frozen=True, eq=False)
class Proof:
    """What a check needs to know about the original: its recorded pass and its labels."""

    trace: Trace
    coupling: Coupling
    plan: Plan
    alive: np.ndarray[Any, np.dtype[np.bool_]]  # [atoms]
    multiplied: frozenset[int] = frozenset()  # recorded tensors that folding changes


def run(
    model: nn.Module,
    values: Values,
    example: tuple[Any, ...],
    restricted: Restricted | None,
    observe: Callable[[Any, Any], None] | None = None,
) -> Any:
    """``model(*example)`` in float64 with these values for its weights."""
    weights = _Weights(model, values)
    with torch.no_grad(), evaluation_mode(model), _double(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wide = tree_map(_own, example)
        doubles = _Wide(weights, restricted, observe)
        with doubles, _Exchanged(weights, doubles):
            return model(*wide)


@contextmanager
def _double() -> Iterator[None]:
    """New tensors are float64, and every fused kernel that hides operators is off."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with fast_paths_off():
            yield
    finally:
        torch.set_default_dtype(before)


def _own(leaf: Any) -> Any:
    """A copy: a forward may write into its input."""
    return widened(leaf.clone()) if isinstance(leaf, Tensor) else leaf


class _Weights:
    """What stands for a weight at the moment of use."""

    def __init__(self, model: nn.Module, values: Values) -> None:
        self.values = values
        self.names: dict[int, str] = {}
        for name, tensor in named_tensors(model):
            self.names.setdefault(id(tensor), name)

    def exchange(self, value: Any) -> Any:
        """An argument in which every weight is exchanged and every float is a double."""
        if isinstance(value, Tensor):
            name = self.names.get(id(value))
            with _disable_current_modes():  # this is no work of the network's
                stand = widened(value) if name is None else self.values(name, value)
                # matmul chooses its operators by whether a weight asks for gradients
                return stand.requires_grad_() if value.requires_grad else stand
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            return type(value)(self.exchange(entry) for entry in value)
        return value


class _Exchanged(TorchFunctionMode):
    """Exchanges weights where the public function is called: some check types before they run."""

    def __init__(self, weights: _Weights, wide: _Wide) -> None:
        super().__init__()
        self.weights = weights
        self.wide = wide

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _READS and func != _DATA:
            found = func(*args, **kwargs)
            return torch.float64 if func == _DTYPE and found in _NARROW else found
        exchange = self.weights.exchange
        named = {key: exchange(value) for key, value in kwargs.items()}
        given = tuple(exchange(arg) for arg in args)
        op = composite(func, args)
        if op is not None:
            with _disable_current_modes():
                return self.wide.compute(op, given, named)
        if func in OPENED:
            with self:
                return opened(func)(*given, **named)
        return func(*given, **named)


_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
_DTYPE = Tensor.dtype.__get__  # type: ignore[attr-defined]
_READS = {"__get__", "size", "dim", "numel", "is_floating_point", "is_complex", "stride"}


class _Wide(Uncompiled):
    """Runs every operator in float64, on the survivors where that is asked for."""

    def __init__(
        self,
        weights: _Weights,
        restricted: Restricted | None,
        observe: Callable[[Any, Any], None] | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = weights
        self.restricted = restricted
        self.observe = observe

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if is_composite(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        exchange = self.weights.exchange
        args = tuple(exchange(arg) for arg in args)
        kwargs = {key: exchange(value) for key, value in (kwargs or {}).items()}
        if kwargs.get("dtype") in _NARROW:
            kwargs["dtype"] = torch.float64
        return self.compute(func, args, kwargs)

    def compute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operator, on the survivors where the reference asks for that."""
        if func in _SINGLE:
            return tree_map(widened, func(*tree_map(_narrowed, args), **kwargs))
        compute = self.restricted.take(func) if self.restricted is not None else None
        if compute is None:
            result = _COMPUTED.get(func, func)(*args, **kwargs)
        else:
            result = compute(func, args, kwargs)
        if self.observe is not None:
            self.observe(func, result)
        return result


_COMPUTED = {torch.ops.aten.convolution.default: bands.convolution}
_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_SINGLE = {
    getattr(torch.ops.aten, name).default
    for name in (
        "fake_quantize_per_tensor_affine_cachemask",
        "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
        "fake_quantize_per_channel_affine_cachemask",
        "_fake_quantize_learnable_per_tensor_affine",
        "_fake_quantize_learnable_per_channel_affine",
        "_fused_moving_avg_obs_fq_helper",
    )
    if hasattr(torch.ops.aten, name)
}
"""Operators that know single precision only; they round to the same coarse grid on both sides."""


def _narrowed(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


class Restricted:
    """Runs the calls that depend on all channels on the survivors only.

    A call is recognised as the k-th one of its operator, as in the recorded pass.
    """

    def __init__(self, proof: Proof) -> None:
        self._proof = proof
        self._seen: Counter[Any] = Counter()
        self._calls: dict[tuple[Any, int], Call] = {}
        wanted = {call for trace, call in proof.coupling.restricted if trace == 0}
        total: Counter[Any] = Counter()
        for call in proof.trace.calls:
            if call.index in wanted and self._touched(call):
                self._calls[call.op, total[call.op]] = call
            total[call.op] += 1

    def take(self, op: Any) -> Callable[..., Any] | None:
        """How to compute this call on the survivors; None where nothing special is needed."""
        if not self._calls:
            return None
        call = self._calls.get((op, self._seen[op]))
        self._seen[op] += 1
        return None if call is None else lambda *given: self._compute(call, *given)

    def _touched(self, call: Call) -> bool:
        refs = [ref for ref in tree_leaves((call.args, call.kwargs)) if isinstance(ref, Ref)]
        return any(self._kept(ref) for ref in refs)

    def _kept(self, ref: Ref) -> dict[int, Tensor]:
        """Axis → the places that survive, for the axes that lose some."""
        labelled: Labelled | None = self._proof.coupling.tensors[0].get(ref.id)
        found: dict[int, Tensor] = {}
        for d, axis in enumerate(labelled.axes if labelled else ()):
            if axis is not None:
                alive = self._proof.alive[self._proof.coupling.atoms.of[axis]]
                if not alive.all():
                    found[d] = torch.from_numpy(np.flatnonzero(alive))
        return found

    def _compute(self, call: Call, op: Any, args: Any, kwargs: Any) -> Any:
        small = [self._select(a, b) for a, b in zip(args, call.args, strict=True)]
        named = {key: self._select(value, call.kwargs[key]) for key, value in kwargs.items()}
        literals = _LITERALS.get(op)
        if op == _ATTENTION:  # the original divides by the root of its own width
            named["scale"] = named.get("scale") or args[0].shape[-1] ** -0.5
        result = op(*(literals(small) if literals else small), **named)
        if isinstance(result, (tuple, list)):
            return tuple(self._spread(x, r) for x, r in zip(result, call.outputs, strict=True))
        return self._spread(result, call.outputs[0])

    def _select(self, value: Any, recorded: Any) -> Any:
        if isinstance(value, list):
            return [self._select(v, r) for v, r in zip(value, recorded, strict=True)]
        if isinstance(value, Tensor) and isinstance(recorded, Ref):
            for d, places in self._kept(recorded).items():
                value = value.index_select(d, places.to(value.device))
        return value

    def _spread(self, value: Tensor, ref: Ref) -> Tensor:
        """Survivors back in their places, zero elsewhere."""
        for d, places in self._kept(ref).items():
            shape = (*value.shape[:d], ref.shape[d], *value.shape[d + 1 :])
            value = value.new_zeros(shape).index_copy_(d, places.to(value.device), value)
        return value


_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def _layer_norm_sizes(args: list[Any]) -> list[Any]:
    return [args[0], list(args[0].shape[-len(args[1]) :]), *args[2:]]


def _group_norm_sizes(args: list[Any]) -> list[Any]:
    batch, channels, *positions = args[0].shape
    return [*args[:3], batch, channels, int(np.prod(positions)), *args[6:]]


_LITERALS: dict[Any, Callable[[list[Any]], list[Any]]] = {
    torch.ops.aten.native_layer_norm.default: _layer_norm_sizes,
    torch.ops.aten.native_group_norm.default: _group_norm_sizes,
    torch.ops.aten.rms_norm.default: _layer_norm_sizes,
}
