"""Prove again what a plan says of two networks, and what every proof of a cut needs.

Takes the original, a slim network and the plan; gives a certificate, or raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from slimnet.blocks.shorten import shorten_as
from slimnet.capture.passes import capture_passes
from slimnet.capture.trace import Trace, capture
from slimnet.coupling.couple import Coupling, couple
from slimnet.errors import CaptureError, CertificateError
from slimnet.network import Network
from slimnet.plan.fold import Folds, depends_on_lengths, folds
from slimnet.plan.plan import Plan, agrees
from slimnet.plan.rebuild import check_fits, cut
from slimnet.proof.certificate import Certificate, certify, join_certificates
from slimnet.proof.reference import CutContext


def contexts_of(context: CutContext, traces: Sequence[Trace]) -> list[CutContext]:
    """One context for each recorded pass: evaluation first, then training if it was recorded."""
    more = enumerate(traces[1:], 1)
    return [context, *(replace(context, trace=t, number=n, training=True) for n, t in more)]


def fold_constants(
    originals: Mapping[str, Tensor], slim: Network, context: CutContext, example: tuple[Any, ...]
) -> CutContext:
    """Fold numbers that changed with the widths (such as 1/√d) into the slim network's weights.

    Writes into ``slim``; gives the context with the plan that records it.
    """
    numbers = _folds(context.trace, slim, example)
    plan = replace(context.plan, scaled=numbers.scales)
    for name, tensor in slim.tensors.items():
        if name in plan.scaled:
            tensor.data.copy_(cut(name, originals[name], plan))
    return replace(context, plan=plan, multiplied=numbers.tensors)


def _folds(trace: Trace, slim: Network, example: tuple[Any, ...]) -> Folds:
    """What to multiply so that numbers computed from lengths (1/√d) change nothing."""
    if depends_on_lengths(trace):
        with suppress(CaptureError):  # the slim network does not run: the proof names the line
            return folds(trace, capture(slim, example))
    return Folds({}, {})


def prove(
    network: Network,
    slim: Network,
    plan: Plan,
    example: tuple[Any, ...],
    *,
    seed: int = 0,
    trained: bool = False,
) -> Certificate:
    """Prove again that ``slim`` is ``network`` cut by ``plan``.

    Every tensor is compared with what the cut gives; the certificate lists those that differ. If
    some differ and the network was ``trained`` after the cut, only its structure is proven: with
    random weights. Else it is proven with the real weights as well. Raises
    :class:`CertificateError`.
    """
    shorter = shorten_as(network, example, plan, seed=seed)
    network, plan = shorter.network, replace(plan, blocks=())
    check_fits(network, plan)
    other = changed_tensors(network.tensors, slim.tensors, plan)
    traces = capture_passes(network, example, plan.outputs)
    coupling = _coupling_of(plan, traces)
    context = CutContext(traces[0], coupling, plan)
    if plan.scaled:
        context = replace(context, multiplied=_folds(context.trace, slim, example).tensors)
    kinds = ("random",) if trained and other else ("real", "random")
    try:
        proven = certify(
            network, slim, contexts_of(context, traces), example, seed=seed, kinds=kinds
        )
    except CertificateError as error:
        if not other:
            raise
        raise CertificateError(f"{error}; {_changed_tensors(other, network.name)}") from error
    return join_certificates(shorter.certificate, replace(proven, changed=other))


def changed_tensors(
    originals: Mapping[str, Tensor], slim: Mapping[str, Tensor], plan: Plan
) -> tuple[str, ...]:
    """The parameters and buffers of a slim network that differ from the original's, cut."""
    return tuple(
        name
        for name, tensor in slim.items()
        if name not in originals or not same_numbers(cut(name, originals[name], plan), tensor)
    )


def _changed_tensors(names: Sequence[str], network: str) -> str:
    return (
        f"{len(names)} of its tensors ({', '.join(names[:3])}{', …' * (len(names) > 3)}) hold "
        f"other numbers than what was cut of this {network}"
    )


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers; they may be on different devices."""
    return one.shape == other.shape and bool(torch.equal(one.to(other), other))


def _coupling_of(plan: Plan, traces: Sequence[Trace]) -> Coupling:
    """The labels that the plan was made with: attention loses head widths, or whole heads."""
    apart = {name: plan.of(name) for name in plan.grouped}
    couplings = (couple(traces, heads=heads, removals=apart) for heads in (False, True))
    first = next(couplings)
    return first if agrees(first, plan) else next(couplings)
