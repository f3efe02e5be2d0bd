"""The proof: slim = the original with the removed channels zeroed, call by call.

Both networks run on the same inputs in float64, with real and with random weights. The *reference*
is the original with the removed parameter elements set to zero. The results of its calls are
compared with the slim network's as projections on random vectors (:mod:`.comparison`), the outputs
of the networks element by element. The certificate holds the largest relative error, and how many
calls were compared. Where removal changes a statistic (a LayerNorm's mean), the reference takes it
over the surviving channels only, and the certificate lists the group as approximate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isinf
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from slimnet.capture.graph import Call
from slimnet.errors import CertificateError
from slimnet.example import doubled, map_tensors
from slimnet.network import Network
from slimnet.proof.comparison import (
    Broken,
    CollectingRun,
    ComparingRun,
    Shorter,
    follow,
    moved,
    observe,
    parameters_read,
)
from slimnet.proof.inputs import variants
from slimnet.proof.raised import Raised
from slimnet.proof.reference import CutContext
from slimnet.proof.stand_ins import weights_of
from slimnet.text import first_line

TOLERANCE = 1e-9
"""Largest relative error that is accepted, everything computed in float64."""

AMPLIFIED = 1e-6
"""Largest tolerance, for networks that amplify float64's own rounding beyond TOLERANCE."""

UNCLEAR = 1e-2
"""A call whose result changes by more (relative) through rounding alone is not compared."""


@dataclass(frozen=True)
class Check:
    """One run of both networks: with which weights, the largest relative error, and its extent."""

    weights: str  # "real" | "random" | "positive" | "perturbed"
    error: float
    tolerance: float = TOLERANCE
    calls: int = 0  # recorded calls whose results were compared
    tensors: int = 0  # results of these calls that were compared
    batch: int = 0  # batch size of the inputs; 0 where their first axes differ
    cut: int = 1  # of which cut, where a network was cut several times

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Check:
        """Read what :func:`dataclasses.asdict` gave."""
        check = cls(**row)
        counts = (check.calls, check.tensors, check.batch, check.cut)
        return cls(
            str(check.weights), float(check.error), float(check.tolerance), *map(int, counts)
        )


@dataclass(frozen=True)
class Certificate:
    """Evidence that a slim network equals the original with the removed channels zeroed."""

    error: float  # the largest relative error of all checks
    tolerance: float
    checks: tuple[Check, ...]
    approximate: tuple[Mapping[str, Any], ...]  # groups whose removal changes a statistic
    dtype: str = "float64"
    seed: int = 0
    layers: int = 0  # modules whose parameters were cut; a result of each was compared
    changed: tuple[str, ...] = field(default=())  # tensors that were changed after the cut
    outputs: tuple[str, ...] = ()  # those that are read, of which whole tensors were compared

    @property
    def exact(self) -> bool:
        """Whether the removal changes no statistic, such as the mean of a LayerNorm."""
        return not self.approximate

    @property
    def calls(self) -> int:
        """Calls whose results were compared, in the check that compared the fewest."""
        return min((check.calls for check in self.checks), default=0)

    def __str__(self) -> str:
        checked = ", ".join(f"{check.weights} weights {check.error:.1e}" for check in self.checks)
        kind = "exact" if self.exact else f"exact but for {len(self.approximate)} statistics"
        seen = f"; {self.calls} calls compared, {self.layers} cut layers" if self.calls else ""
        seen += f"; outputs that are read: {', '.join(self.outputs)}" if self.outputs else ""
        return (
            f"slim = original with the removed channels zeroed: relative error {self.error:.1e} "
            f"({checked}; {self.dtype}, tolerance {self.tolerance:.0e}; {kind}{seen})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return {**asdict(self), "exact": self.exact}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Certificate:
        """The inverse of :meth:`to_json`; older files that lack what came later open too.

        Raises ValueError, KeyError or TypeError for anything else.
        """
        return cls(
            float(data["error"]),
            float(data["tolerance"]),
            tuple(map(Check.from_json, data["checks"])),
            tuple(
                {key: list(map(str, row[key])) for key in ("layers", "reasons")}
                for row in data["approximate"]
            ),
            str(data["dtype"]),
            int(data["seed"]),
            int(data.get("layers", 0)),
            tuple(map(str, data.get("changed", ()))),
            tuple(map(str, data.get("outputs", ()))),
        )


def certify(
    network: Network,
    slim: Network,
    contexts: CutContext | Sequence[CutContext],
    example: tuple[Any, ...],
    *,
    seed: int = 0,
    kinds: Sequence[str] = ("real", "random"),
    shorter: Shorter | None = None,
) -> Certificate:
    """Compare both networks, call by call, with real and with random weights.

    Of several ``contexts`` the first is of the pass on ``example``. The others, such as that of a
    pass in training mode, are used only where the first does not reach all cut layers. ``kinds``
    are the weights to compare with, "real" and "random"; ``shorter`` is for a slim network without
    some blocks, which makes fewer calls than the original. Raises :class:`CertificateError` where
    the networks differ by more than the tolerance (:data:`TOLERANCE`, :data:`AMPLIFIED`), and where
    no result of a cut layer was compared.
    """
    context, *others = [contexts] if isinstance(contexts, CutContext) else contexts
    pair = _NetworkPair(network, slim, context, seed, shorter)
    checks = [pair.check(kind, example) for kind in kinds]
    unseen = _cut_parameters(network.first, context) - pair.seen
    for other in others if unseen else ():
        more = _NetworkPair(network, slim, other, seed, None)
        checks.append(more.check("random", doubled(example)))
        unseen -= more.seen
    if unseen or not pair.seen:
        name = min(unseen, default="this network")
        raise Mismatch(
            f"nothing can be proven of {name}: no result that depends on it was compared",
            context,
            [_calls_until(context, name) for name in sorted(unseen) or [name]],
            "gives nothing that could be compared",
        )
    approximate = tuple(
        {"layers": list(group.layers), "reasons": list(group.approximate)}
        for group in context.plan.groups
        if group.approximate
    )
    return Certificate(
        max(check.error for check in checks),
        max(check.tolerance for check in checks),
        tuple(checks),
        approximate,
        seed=seed,
        layers=len({name.rpartition(".")[0] for name in _cut_parameters(network.first, context)}),
        outputs=context.trace.wanted,
    )


def _calls_until(context: CutContext, name: str) -> list[Call]:
    """The recorded calls up to and including the last one that reads a parameter."""
    graph = context.trace.graph
    return list(graph.calls[: max(graph.readers_of(name), default=-1) + 1])


def _cut_parameters(first: Mapping[str, str], context: CutContext) -> set[str]:
    """The parameters that are cut; of a tied one, the first of its names."""
    parameters = {name for name, ref in context.trace.tensors.items() if ref.kind == "parameter"}
    parameters |= {
        n for n, ref in context.coupling.weights.items() if n not in context.trace.tensors
    }
    return {first[name] for name in context.plan.removed if first.get(name) in parameters}


def join_certificates(first: Certificate | None, second: Certificate) -> Certificate:
    """The certificate of two cuts, one after the other: it holds the checks of both."""
    if first is None:  # nothing was cut before
        return second
    last = max((check.cut for check in first.checks), default=0)
    later = tuple(replace(check, cut=check.cut + last) for check in second.checks)
    return Certificate(
        max(first.error, second.error),
        max(first.tolerance, second.tolerance),
        (*first.checks, *later),
        (*first.approximate, *second.approximate),
        second.dtype,
        second.seed,
        first.layers + second.layers,
        second.changed,
        second.outputs or first.outputs,
    )


class Mismatch(CertificateError):
    """The networks differ, the slim one does not run, or a cut layer was not compared.

    Each of ``runs`` is a list of recorded calls, to the one where that happened.
    """

    def __init__(
        self,
        text: str,
        context: CutContext,
        runs: Sequence[Sequence[Call]],
        why: str,
        raised: Raised | None = None,
    ) -> None:
        super().__init__(text)
        self.raised = raised
        self.context = context
        self.runs = tuple(map(tuple, runs))
        self.why = why


class _NetworkPair:
    """Both networks and a recorded pass; ``seen`` are the parameters whose effect was compared."""

    def __init__(
        self,
        network: Network,
        slim: Network,
        context: CutContext,
        seed: int,
        shorter: Shorter | None,
    ) -> None:
        self.network = network
        self.slim = slim
        self.context = context
        self.seed = seed
        self.shorter = shorter
        self.seen: set[str] = set()

    def check(self, weights: str, example: tuple[Any, ...]) -> Check:
        """Compare with weights of this kind, on the first inputs that the original runs on.

        The original may raise, give NaN, or take another branch on changed inputs: then the next
        inputs are tried, the example itself last. A mismatch counts where the inputs are the
        example, or hold two samples that the original treats separately.
        """
        for kind, inputs in self._trials(weights, example):
            last = inputs is example
            try:
                reference = self._run_reference(kind, inputs, strict=not last)
            except Exception as error:  # whatever the user's forward raises
                if last:
                    why = first_line(error) or type(error).__name__
                    raise CertificateError(f"the original does not run: {why}") from error
                continue
            if not _finite(reference.outputs) or not (last or reference.follows):
                continue
            try:
                return self._compare(kind, inputs, reference)
            except Mismatch:
                if last or self._treats_samples_separately(kind, inputs, reference):
                    raise
        raise CertificateError(
            f"nothing can be proven: with {weights} weights the original itself gives NaN or "
            "infinite outputs"
        )

    def _trials(
        self, weights: str, example: tuple[Any, ...]
    ) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Kinds of weights, and inputs to run on; first those that reveal most mistakes."""
        if weights == "random":
            yield from ((weights, inputs) for inputs in variants(example, self.seed))
            yield from ((kind, example) for kind in ("positive", "perturbed"))
        else:
            yield weights, example

    def _run_reference(
        self, kind: str, inputs: tuple[Any, ...], *, strict: bool = False
    ) -> CollectingRun:
        full, _ = weights_of(kind, self.network.tensors, self.context.plan, self.seed)
        return observe(self.network, full, self.context, inputs, self.seed, strict=strict)

    def _compare(self, kind: str, inputs: tuple[Any, ...], reference: CollectingRun) -> Check:
        """Run the slim network against a run of the reference; raises :class:`Mismatch`."""
        compared = self._run_slim(kind, inputs, reference)
        errors, outputs = compared.errors, difference(reference.outputs, compared.outputs)
        tolerance, tolerances = TOLERANCE, dict.fromkeys(errors, TOLERANCE)
        if max(outputs, *errors.values(), 0.0) > TOLERANCE:
            tolerance, tolerances = self._tolerances(kind, inputs, reference, compared)
        wrong = min((n for n, most in tolerances.items() if errors[n] > most), default=None)
        if wrong is not None:
            where = f"they differ at {_place(reference, wrong)}"
            raise self._mismatch(
                kind, inputs, reference, wrong, where, errors[wrong], tolerances[wrong]
            )
        if outputs > tolerance:
            end = len(reference.rows) - 1
            where = "their outputs differ"
            raise self._mismatch(kind, inputs, reference, end, where, outputs, tolerance)
        nonzero = [n for n in tolerances if any(compared.norms.get(n, ()))]
        self.seen.update(parameters_read(reference, nonzero))
        rows = [n for n, most in tolerances.items() if most <= AMPLIFIED]
        return Check(
            kind,
            max(outputs, *(errors[n] for n in rows), 0.0),
            max(tolerance, *(tolerances[n] for n in rows), 0.0),
            len(rows),
            sum(len(compared.norms[n]) for n in rows),
            _batch(inputs),
        )

    def _run_slim(
        self, kind: str, inputs: tuple[Any, ...], reference: CollectingRun
    ) -> ComparingRun:
        """The slim network's run; raises :class:`Mismatch` where it does not run."""
        _, small = weights_of(kind, self.network.tensors, self.context.plan, self.seed)
        try:
            return follow(
                self.slim, small, self.context, inputs, self.seed, reference, self.shorter
            )
        except Broken as broken:
            raised = Raised.of(broken.__cause__ or broken)
            raise Mismatch(
                f"the slim network does not run: {raised.text}",
                self.context,
                [_calls(reference, broken.compared.reached + (0 if raised.own else 1))],
                f"fails on the slim network ({raised.text})",
                raised,
            ) from broken.__cause__

    def _tolerances(
        self,
        kind: str,
        inputs: tuple[Any, ...],
        reference: CollectingRun,
        compared: ComparingRun,
    ) -> tuple[float, dict[int, float]]:
        """Tolerances that allow for rounding: of the outputs, and of each row of the reference.

        Rows that rounding alone changes by more than :data:`UNCLEAR` are left out.
        """
        perturbed = self._perturbed_reference(kind, inputs)
        noise = moved(reference, perturbed, compared.norms)
        errors = compared.errors.items()
        rows = [n for n, error in errors if noise.get(n, 0.0) <= UNCLEAR or isinf(error)]
        outputs = _allowed(difference(reference.outputs, perturbed.outputs))
        return outputs, {n: _allowed(noise.get(n, 0.0), most=10 * UNCLEAR) for n in rows}

    def _mismatch(
        self,
        kind: str,
        inputs: tuple[Any, ...],
        reference: CollectingRun,
        row: int,
        where: str,
        error: float,
        tolerance: float,
    ) -> CertificateError:
        second = self._run_reference(kind, inputs)
        if difference(reference.outputs, second.outputs) > 0:
            return CertificateError(
                f"{self.network.name} differs from itself: two passes on the same inputs, "
                "from the same random state, give other outputs, so no cut of it can be proven"
            )
        return Mismatch(
            "the slim network is not the original with the removed channels zeroed: with "
            f"{kind} weights {where} by {error:.1e} (relative; tolerance {tolerance:.0e})",
            self.context,
            [_calls(reference, row + 1)],
            "gives another result when cut",
        )

    def _perturbed_reference(self, kind: str, inputs: tuple[Any, ...]) -> CollectingRun:
        """A run of the reference with every weight and input changed by about 2^-48 (relative)."""
        generator = torch.Generator().manual_seed(self.seed)

        def perturbed(x: Tensor) -> Tensor:
            if not x.is_floating_point():
                return x
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            return x.double() * (1 + 2**-48 * noise.to(x.device))

        full, _ = weights_of(kind, self.network.tensors, self.context.plan, self.seed)
        return observe(
            self.network,
            lambda name, tensor: perturbed(full(name, tensor)),
            self.context,
            map_tensors(perturbed, inputs),
            self.seed,
        )

    def _treats_samples_separately(
        self, kind: str, inputs: tuple[Any, ...], reference: CollectingRun
    ) -> bool:
        """Whether the first of two samples gives the same output alone as beside the second.

        If so, the slim network has to match on both samples together too.
        """
        one = tree_map(lambda x: x[:1] if isinstance(x, Tensor) and x.dim() > 1 else x, inputs)
        try:
            alone = self._run_reference(kind, one).outputs
        except Exception:  # whatever the user's forward raises
            return False
        first = [x[:1] if x.dim() and len(x) == 2 else x for x in reference.outputs]
        return difference(first, alone) < AMPLIFIED


def _allowed(noise: float, most: float = AMPLIFIED) -> float:
    """Ten times the noise of rounding, within :data:`TOLERANCE` and ``most``."""
    return min(max(TOLERANCE, 10 * noise), most)


def _calls(reference: CollectingRun, rows: int) -> list[Call]:
    return [row.call for row in reference.rows[:rows] if row.call is not None]


def _place(reference: CollectingRun, row: int) -> str:
    call = reference.rows[row].call
    return str(reference.rows[row].op) if call is None else f"{call.op} ({call.site})"


def _finite(outputs: Sequence[Tensor]) -> bool:
    return all(bool(output.isfinite().all()) for output in outputs)


def _batch(inputs: tuple[Any, ...]) -> int:
    lengths = {x.shape[0] for x in tree_leaves(inputs) if isinstance(x, Tensor) and x.dim() > 1}
    return lengths.pop() if len(lengths) == 1 else 0


def difference(reference: Sequence[Tensor], slim: Sequence[Tensor]) -> float:
    """The largest relative error over all outputs; infinite where shapes differ, or for NaN."""
    if len(reference) != len(slim):
        return float("inf")
    return max((_relative(a, b) for a, b in zip(reference, slim, strict=True)), default=0.0)


def _relative(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    if a.is_complex() and b.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    a, b = a.double(), b.double()
    if not b.isfinite().all():
        return float("inf")
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))
