"""The proof: slim = the original with the removed channels zeroed.

Reference: the original with every removed parameter element set to zero. Both networks get the
same inputs; the certificate holds the largest relative error of their outputs. Real weights can
hide a wrong cut (a removed channel may be near zero anyway), so it also runs with random weights
in both. Where removal changes a statistic (LayerNorm, softmax over channels …), the reference takes
that statistic over the survivors only, and the certificate lists the group as approximate.

Everything is computed in float64 *while it runs*: a dispatch mode exchanges each weight for its
masked, random or widened double at the moment of use. No second copy of the weights is kept, and
neither model is changed.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from slimnet.couple import Coupling
from slimnet.errors import CertificateError
from slimnet.labels import Labelled
from slimnet.modules import evaluation_mode, named_tensors
from slimnet.plan import Plan
from slimnet.rebuild import survivors, zero_removed
from slimnet.trace import COMPOSITES, Call, Ref, Trace, is_composite

TOLERANCE = 1e-9
"""Largest relative error that is accepted, everything computed in float64."""

Values: TypeAlias = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class Check:
    """One comparison: which weights and inputs, and the largest relative error."""

    weights: str  # "real" | "random"
    error: float


@dataclass(frozen=True)
class Certificate:
    """Evidence that a slim network equals the original with the removed channels zeroed."""

    error: float  # the largest relative error of all checks
    tolerance: float
    checks: tuple[Check, ...]
    approximate: tuple[Mapping[str, Any], ...]  # groups whose removal changes a statistic
    dtype: str = "float64"
    seed: int = 0

    @property
    def exact(self) -> bool:
        """Whether no removed group changes a statistic."""
        return not self.approximate

    def __str__(self) -> str:
        checked = ", ".join(f"{check.weights} weights {check.error:.1e}" for check in self.checks)
        kind = "exact" if self.exact else f"exact but for {len(self.approximate)} statistics"
        return (
            f"slim = original with the removed channels zeroed: relative error {self.error:.1e} "
            f"({checked}; {self.dtype}, tolerance {self.tolerance:.0e}; {kind})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return {**asdict(self), "exact": self.exact}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Certificate:
        """The inverse of :meth:`to_json`."""
        return cls(
            data["error"],
            data["tolerance"],
            tuple(Check(**check) for check in data["checks"]),
            tuple(data["approximate"]),
            data["dtype"],
            data["seed"],
        )


@dataclass(frozen=True, eq=False)
class Proof:
    """What a check needs to know about the original: its recorded pass and its labels."""

    trace: Trace
    coupling: Coupling
    plan: Plan
    alive: np.ndarray[Any, np.dtype[np.bool_]]  # [atoms]


def certify(
    model: nn.Module,
    slim: nn.Module,
    proof: Proof,
    inputs: Sequence[tuple[Any, ...]],
    *,
    seed: int = 0,
    kinds: Sequence[str] = ("real", "random"),
) -> Certificate:
    """Compare both networks on every input, with real and with random weights.

    Raises :class:`CertificateError` where they differ by more than :data:`TOLERANCE`.
    """
    checks = []
    for asked in kinds:
        kind, error = asked, _error(asked, model, slim, proof, inputs, seed)
        if error is None and asked == "random":  # say, the logarithm of a weight
            kind, error = "perturbed", _error("perturbed", model, slim, proof, inputs, seed)
        if error is None:
            raise CertificateError(
                f"nothing can be proven: with {kind} weights the original itself gives NaN or "
                "infinite outputs"
            )
        checks.append(Check(kind, error))
        if error > TOLERANCE:
            raise CertificateError(
                f"the slim network is not the original with the removed channels zeroed: with "
                f"{kind} weights their outputs differ by {error:.1e} (relative; tolerance "
                f"{TOLERANCE:.0e})"
            )
    approximate = tuple(
        {"layers": list(group.layers), "reasons": list(group.approximate)}
        for group in proof.plan.groups
        if group.approximate
    )
    return Certificate(
        max(check.error for check in checks), TOLERANCE, tuple(checks), approximate, seed=seed
    )


def _error(
    kind: str,
    model: nn.Module,
    slim: nn.Module,
    proof: Proof,
    inputs: Sequence[tuple[Any, ...]],
    seed: int,
) -> float | None:
    """The largest relative error; None where the reference itself is not finite."""
    full, small = weights_of(kind, model, proof.plan, seed)
    errors = []
    for example in inputs:
        reference = tensors_of(run(model, full, example, _Restricted(proof)))
        if not all(bool(output.isfinite().all()) for output in reference):
            return None
        errors.append(_difference(reference, tensors_of(run(slim, small, example, None))))
    return max(errors)


def weights_of(kind: str, model: nn.Module, plan: Plan, seed: int) -> tuple[Values, Values]:
    """Which values the original and the slim network compute with, in float64.

    "real": as they are; "random": drawn anew; "perturbed": each changed by up to a half.
    """
    originals = dict(named_tensors(model))
    parameters = {name for name, t in originals.items() if isinstance(t, nn.Parameter)}

    def zeroed(name: str, values: Tensor) -> Tensor:
        return zero_removed(name, values, plan) if name in parameters else values

    if kind == "real":
        return (
            lambda name, tensor: zeroed(name, _widened_copy(tensor)),
            lambda name, tensor: _widened(tensor),
        )
    drawn = _drawn if kind == "random" else _perturbed

    def random(name: str, tensor: Tensor) -> Tensor:
        return zeroed(name, _random(name, tensor, seed, {}, drawn))

    def random_cut(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return _random(name, originals[name], seed, plan.removed.get(name, {}), drawn)

    return random, random_cut


def _widened_copy(tensor: Tensor) -> Tensor:
    kind = torch.float64 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(kind, copy=True)


def _drawn(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Fresh numbers in place of these rows, of a size that keeps signals alive."""
    if rows.dim() < 2:  # scales, variances and the like: positive, and not near zero
        return torch.rand(rows.shape, generator=generator) + 0.5
    fan_in = max(int(np.prod(rows.shape[1:])), 1)
    return torch.randn(rows.shape, generator=generator).mul_(fan_in**-0.5)


def _perturbed(rows: Tensor, generator: torch.Generator) -> Tensor:
    """These rows, each number times something between a half and one and a half."""
    return rows.cpu().double() * (torch.rand(rows.shape, generator=generator) + 0.5)


def _random(
    name: str,
    tensor: Tensor,
    seed: int,
    removed: Mapping[int, tuple[int, ...]],
    drawn: Callable[[Tensor, torch.Generator], Tensor],
) -> Tensor:
    """Numbers that depend on the name and the seed (and on what is perturbed).

    Drawn and cut a few rows at a time: of the largest layer no more than one copy is ever held.
    """
    if not tensor.is_floating_point():
        return tensor
    kept = [survivors(n, removed.get(d, ())) for d, n in enumerate(tensor.shape)]
    result = torch.empty([len(k) for k in kept], dtype=torch.float64, device=tensor.device)
    if tensor.dim() == 0:
        return result.fill_(0.7)
    generator = torch.Generator().manual_seed(seed + crc32(name.encode()))
    step = max(_DRAWN // max(int(np.prod(tensor.shape[1:])), 1), 1)
    for first in range(0, tensor.shape[0], step):
        rows = drawn(tensor.detach()[first : first + step], generator)
        low, high = torch.searchsorted(kept[0], torch.tensor([first, first + len(rows)])).tolist()
        rows = rows[kept[0][low:high] - first]
        for d in removed.keys() - {0}:
            rows = rows.index_select(d, kept[d])
        result[low:high] = rows.to(tensor.device)
    return result


_DRAWN = 1 << 22  # random numbers drawn at a time


def run(
    model: nn.Module,
    values: Values,
    example: tuple[Any, ...],
    restricted: _Restricted | None,
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
    before, fast = torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()
    torch.set_default_dtype(torch.float64)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.backends.mha.set_fastpath_enabled(fast)


def _widened(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dtype != torch.float64:
        return leaf.double()
    return leaf


def _own(leaf: Any) -> Any:
    """A copy: a forward may write into its input."""
    return _widened(leaf.clone()) if isinstance(leaf, Tensor) else leaf


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
                return self.values(name, value) if name is not None else _widened(value)
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
            return func(*args, **kwargs)
        exchange = self.weights.exchange
        named = {key: exchange(value) for key, value in kwargs.items()}
        given = tuple(exchange(arg) for arg in args)
        if func in COMPOSITES:
            with _disable_current_modes():
                return self.wide.compute(COMPOSITES[func], given, named)
        return func(*given, **named)


_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
_READS = {"__get__", "size", "dim", "numel", "is_floating_point", "is_complex", "stride"}


class _Wide(TorchDispatchMode):
    """Runs every operator in float64, on the survivors where that is asked for."""

    def __init__(
        self,
        weights: _Weights,
        restricted: _Restricted | None,
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
        compute = self.restricted.take(func) if self.restricted is not None else None
        result = compute(func, args, kwargs) if compute is not None else func(*args, **kwargs)
        if self.observe is not None:
            self.observe(func, result)
        return result


_NARROW = (torch.float32, torch.float16, torch.bfloat16)


class _Restricted:
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


def _difference(reference: list[Tensor], slim: list[Tensor]) -> float:
    """The largest relative error over all outputs; infinite where shapes or numbers break."""
    if len(reference) != len(slim):
        return float("inf")
    return max((_relative(a, b) for a, b in zip(reference, slim, strict=True)), default=0.0)


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors of an output, also those inside an object's attributes."""
    found = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    if not found and hasattr(output, "__dict__"):
        found = [leaf for leaf in tree_leaves(dict(vars(output))) if isinstance(leaf, Tensor)]
    return found


def _relative(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    a, b = a.double(), b.double()
    if not b.isfinite().all():
        return float("inf")
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))
