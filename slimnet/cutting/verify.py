"""The proof: slim = the original with the removed channels zeroed.

Both networks get the same inputs, with real and with random weights; the certificate holds the
largest relative error of their outputs. Where removal changes a statistic, the reference takes that
statistic over the survivors only, and the certificate lists the group as approximate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from slimnet.capture.trace import map_tensors
from slimnet.cutting.reference import Proof, Restricted, run
from slimnet.cutting.standins import weights_of
from slimnet.errors import CertificateError
from slimnet.example import tensors_of

TOLERANCE = 1e-9
"""Largest relative error that is accepted, everything computed in float64."""

AMPLIFIED = 1e-6
"""The most that is ever accepted, for networks that amplify float64's own rounding beyond that."""


@dataclass(frozen=True)
class Check:
    """One comparison: which weights and inputs, and the largest relative error."""

    weights: str  # "real" | "random" | "perturbed"
    error: float
    tolerance: float = TOLERANCE


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
        tolerance = TOLERANCE
        if error > TOLERANCE:
            rounding = max(_rounding(kind, model, proof, example, seed) for example in inputs)
            tolerance = min(max(TOLERANCE, 10 * rounding), AMPLIFIED)
        checks.append(Check(kind, error, tolerance))
        if error > tolerance:
            raise CertificateError(
                f"the slim network is not the original with the removed channels zeroed: with "
                f"{kind} weights their outputs differ by {error:.1e} (relative; tolerance "
                f"{tolerance:.0e})"
            )
    approximate = tuple(
        {"layers": list(group.layers), "reasons": list(group.approximate)}
        for group in proof.plan.groups
        if group.approximate
    )
    return Certificate(
        max(check.error for check in checks),
        max(check.tolerance for check in checks),
        tuple(checks),
        approximate,
        seed=seed,
    )


def joined(first: Certificate | None, second: Certificate) -> Certificate:
    """Two proofs in a row as one: of each kind of weights the larger error counts."""
    if first is None:
        return second
    checks = {check.weights: check for check in first.checks}
    for check in second.checks:
        other = checks.get(check.weights, check)
        error, tolerance = max(check.error, other.error), max(check.tolerance, other.tolerance)
        checks[check.weights] = Check(check.weights, error, tolerance)
    return Certificate(
        max(first.error, second.error),
        max(first.tolerance, second.tolerance),
        tuple(checks.values()),
        (*first.approximate, *second.approximate),
        second.dtype,
        second.seed,
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
        reference = tensors_of(run(model, full, example, Restricted(proof)))
        if not all(bool(output.isfinite().all()) for output in reference):
            return None
        errors.append(difference(reference, tensors_of(run(slim, small, example, None))))
    return max(errors)


def _rounding(
    kind: str, model: nn.Module, proof: Proof, example: tuple[Any, ...], seed: int
) -> float:
    """How far the reference itself moves when its inputs change by a few units of rounding."""
    full, _ = weights_of(kind, model, proof.plan, seed)
    nudged = map_tensors(
        lambda x: x.double() * (1 + 2**-48) if x.is_floating_point() else x, example
    )
    runs = [run(model, full, given, Restricted(proof)) for given in (example, nudged)]
    return difference(tensors_of(runs[0]), tensors_of(runs[1]))


def difference(reference: list[Tensor], slim: list[Tensor]) -> float:
    """The largest relative error over all outputs; infinite where shapes or numbers break."""
    if len(reference) != len(slim):
        return float("inf")
    return max((_relative(a, b) for a, b in zip(reference, slim, strict=True)), default=0.0)


def _relative(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    a, b = a.double(), b.double()
    if not b.isfinite().all():
        return float("inf")
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))
