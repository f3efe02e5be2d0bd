"""From a model and a budget to a proven slim network: the stages in order.

    model, example ── capture ── couple ── groups ── score ── allocate ── plan ── rebuild ── certify

Where literal code breaks the slim network, the groups behind that line are pinned and the cut is
planned again: the user gets a valid network and is told what stood in the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.capture.modules import named_tensors, no_collection, unchanging
from slimnet.capture.suitable import refuse_unbound, refuse_unsuitable
from slimnet.capture.trace import Trace, capture
from slimnet.coupling.couple import Coupling, Pin, couple
from slimnet.criteria import Choice, check_needs, usual, usual_scope
from slimnet.cutting.diagnose import culprits
from slimnet.cutting.draft import draft
from slimnet.cutting.fold import Folds, depends_on_lengths, folds
from slimnet.cutting.rebuild import check_fits, cut, rebuild
from slimnet.cutting.reference import Proof
from slimnet.cutting.shorten import Wanted, shorten, shorten_as
from slimnet.cutting.verify import Certificate, Mismatch, certify, joined
from slimnet.errors import CaptureError, CertificateError, InputError, PruneError
from slimnet.example import Example, positional
from slimnet.lineage import Lineage, lineage_of, remember
from slimnet.measuring.analysis import Inspection, analyse, record
from slimnet.measuring.gathered import Gathered
from slimnet.planning.budget import Align, Budget, Limits, Scope
from slimnet.planning.outcome import refusal
from slimnet.planning.plan import Plan, agrees, surviving
from slimnet.planning.scoring import Scorer
from slimnet.repair import Repair, check_images
from slimnet.repair import repair as mend
from slimnet.samples import Samples, samples_of
from slimnet.watch import Watch, unwatched


@dataclass(frozen=True)
class Pruned:
    """A slim network with its plan and, unless it was declined, its certificate.

    Both are of this cut alone: where what was cut was a slim network, :meth:`whole` gives those
    from the original on.
    """

    model: nn.Module
    plan: Plan
    certificate: Certificate | None
    inspection: Inspection
    example: tuple[Any, ...] = ()
    repair: Repair | None = None  # the certificate is of the cut, before the repair
    earlier: Lineage | None = None  # the cuts before this one

    def whole(self) -> tuple[Plan, Certificate | None]:
        """Plan and certificate of all cuts, relative to the original network."""
        if self.earlier is None:
            return self.plan, self.certificate
        return self.earlier.and_then(self.plan, self.certificate)

    @property
    def trained(self) -> bool:
        """Whether weights changed after one of the cuts, by a repair or by training in between."""
        return self.repair is not None or (self.earlier is not None and self.earlier.trained)

    def __str__(self) -> str:
        before, after = self.plan.before or {}, self.plan.after or {}
        shares = ", ".join(f"{name} {_share(before, after, name)}" for name in ("macs", "params"))
        proof = str(self.certificate) if self.certificate else "not verified"
        return f"{shares}; {proof}"


def _share(before: Mapping[str, int], after: Mapping[str, int], name: str) -> str:
    return f"{before[name]:,} → {after[name]:,} ({after[name] / max(before[name], 1):.1%})"


def inspect(model: nn.Module, example: Example, *, heads: bool = False) -> Inspection:
    """Find, without a hint, what can be removed from a network.

    ``example`` is a tuple of positional inputs, or a dict of keyword inputs; with ``heads``,
    attention can lose whole heads. Raises :class:`CaptureError` where the model does not run on it.
    """
    example = positional(model, example)
    refuse_unsuitable(model, example)
    traces = record(model, example)
    return analyse(model, traces, (), heads=heads).inspection


def prune(
    model: nn.Module | Pruned,
    example: Example | None = None,
    *,
    ratio: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    bytes: float | None = None,
    criterion: str | None = None,
    across: str | None = None,
    reduce: str | None = None,
    data: Samples | Tensor | None = None,
    init: Mapping[str, Tensor] | None = None,
    scope: Scope | None = None,
    repair: bool = False,
    align: Align = "auto",
    min_channels: int | None = None,
    keep: Sequence[str] = (),
    layer_ratio: Mapping[str, float] | None = None,
    seed: int = 0,
    verify: bool = True,
    strict: bool = False,
    heads: bool = False,
    drop_blocks: Wanted = (),
    steps: int = 1,
    best_effort: bool = False,
    watch: Watch = unwatched,
) -> Pruned:
    """Cut a network down to a budget; ``model`` itself is never changed.

    Args:
        model: any network that runs on ``example``; or a :class:`Pruned` (or its model, or what
            ``load`` gave), which is cut once more, and can be saved relative to the original.
        example: a tuple of positional inputs, or a dict of keyword inputs; a :class:`Pruned` has
            one of its own.
        ratio: share of channels to remove, in [0, 1).
        macs: share of the multiply-adds that may remain, in (0, 1].
        params: share of the parameters that may remain, in (0, 1].
        bytes: how many bytes of parameters and buffers, as they are stored, may remain.
        criterion: which channels go first (``slimnet.criteria``); "l1", with ``repair`` "obs".
        across: what a group's scores are divided by before they are compared with other groups':
            their "mean", "max", "sum", "l2" norm, or "none"; the criterion's own by default.
        reduce: "sum", "mean", "max", "prod" or "first" of what the coupled layers of a group give a
            channel; the criterion's own by default.
        data: calibration images [N, C, H, W], normalised, or :class:`~slimnet.samples.Samples` with
            labels; for criteria that read activations or gradients.
        init: the weights before training, by name; for criteria that read them.
        scope: "local" removes the same share from every group, "global" sets one threshold,
            "isomorphic" one for each class of like groups, every class losing the same share;
            "harm" takes what scores least for what it saves. "local"; with ``repair`` "harm" where
            the criterion measures an error or the loss.
        repair: win accuracy back without training: least squares on the images of ``data``
            (:mod:`slimnet.repair`). The certificate is of the cut, before its weights change.
        align: round widths to this multiple; "auto" takes 16 for groups of at least 128
            channels, and for narrower ones an eighth to a sixteenth of their width; None leaves
            them as they come.
        min_channels: the least that a group keeps; without it, a ratio that would empty a layer is
            an error, and groups of fewer than 8 channels are left alone.
        keep: layer names or patterns (``layer4.*``) that are left alone.
        layer_ratio: ratios for layers by name or pattern.
        seed: of the random criterion and of the proof's random weights and inputs.
        verify: prove the result (four passes in float64).
        strict: an operator without a rule is an error.
        heads: attention loses whole heads; without it, every head loses the same part of its width.
        drop_blocks: residual blocks that become their shortcut before channels leave: names or
            patterns (``layer3.*``), or how many, those of the smallest scale first. Without a
            budget, nothing else leaves; shares of MACs and parameters are those of the original.
        steps: plan in so many rounds, each scored on the network as already cut.
        best_effort: take the nearest where the budget cannot be met; without it, that is an error.
            MACs, parameters and bytes are never exceeded (alignment gives way to them); a ratio may
            be missed by one aligned step of each group.
        watch: told what is being gathered from the data, and how much of it is (0..1).

    Raises:
        InputError: for arguments that cannot be used.
        PruneError: where nothing can be cut, a layer would be left without channels, or the budget
            cannot be met.
        CertificateError: where the slim network cannot be proven equal to the zeroed original.
    """
    model, example = _opened(model, example)
    earlier = lineage_of(model)
    if drop_blocks and ratio is macs is params is bytes is None:
        ratio = 0.0
    criterion = criterion or usual(repair=repair)
    scope = scope or usual_scope(criterion, repair=repair)
    budget = Budget(ratio, macs, params, bytes)
    limits = Limits(scope, align, min_channels, tuple(keep), dict(layer_ratio or {}))
    choice, samples = Choice(criterion, across, reduce), samples_of(data)
    if repair and samples is None:
        raise InputError("repair needs images to solve on: give them (--data digits|npz:FILE|…)")
    if repair and samples is not None:
        check_images(len(samples))
    check_needs(criterion, data=samples is not None, init=init is not None)
    scorer = Scorer(choice, samples, init, seed, watch)
    _check_steps(steps)
    traces: list[Trace] = []
    asked = {
        budget.kind: budget.value,
        "criterion": criterion,
        "across": across,
        "reduce": reduce,
        "samples": None if samples is None else len(samples),
        "scope": scope,
        "align": align,
        "min_channels": min_channels,
        "keep": list(limits.keep),
        "layer_ratio": dict(limits.layer_ratio),
        "heads": heads,
        "drop_blocks": drop_blocks if isinstance(drop_blocks, int) else list(drop_blocks),
        "steps": steps,
        "best_effort": best_effort,
        "repair": repair,
        "seed": seed,
    }
    original = model
    shorter = shorten(model, example, drop_blocks, seed=seed, verify=verify)
    model, budget = shorter.model, shorter.budget(budget)
    pins: list[Pin] = []
    attempts = 0
    gathered: Gathered | None = None
    beside = verify  # nothing else would notice a wrong one
    while True:
        with no_collection(), unchanging(model):
            if not traces:
                refuse_unsuitable(model, example)
            traces = traces or record(model, example)
            analysis = analyse(model, traces, pins, strict=strict, heads=heads, least=min_channels)
            gathered = gathered or scorer.gather(model, analysis.groups)
            drawn = draft(
                model, analysis, budget, limits, scorer, gathered, steps=steps, beside=beside
            )
            notes = (*drawn.plan.notes, *_missed(analysis.coupling, heads))
            plan = replace(drawn.plan, asked=asked, notes=notes)
            if drawn.unmet and not best_effort:
                raise PruneError(refusal(shorter.whole(plan, None)[0], drawn.unmet))
            proof = Proof(traces[0], analysis.coupling, plan, drawn.alive)
            slim = rebuild(model, plan)
        proof = folded(model, slim, proof, example)
        plan = proof.plan
        inspection = replace(analysis.inspection, notes=tuple(plan.notes))
        try:
            certificate = None
            if verify:
                certificate = certify(model, slim, _proofs(proof, traces), example, seed=seed)
            break
        except Mismatch as mismatch:
            refuse_unbound(model, slim, example)
            if drawn.beside.changes:  # which no call seemed to read: is it those?
                beside = False
                continue
            beside, more = True, [pin for pin in culprits(mismatch) if pin not in pins]
            attempts += 1
            if not more or attempts > _ATTEMPTS:
                raise
            pins += more
    done = None
    gathered = None  # it may be as large as the network's activations
    plan, certificate = shorter.whole(plan, certificate)
    if repair and samples is not None:
        slim, done = mend(original, slim, plan, samples.images, seed=seed, watch=watch)
    pruned = Pruned(slim, plan, certificate, inspection, example, done, earlier)
    remember(slim, *pruned.whole(), trained=pruned.trained)
    return pruned


def _opened(
    model: nn.Module | Pruned, example: Example | None
) -> tuple[nn.Module, tuple[Any, ...]]:
    network = model.model if isinstance(model, Pruned) else model
    given: Any = model.example if isinstance(model, Pruned) and example is None else example
    return network, positional(network, given)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise InputError(f"steps must be at least 1, and {steps} is not")


def _proofs(proof: Proof, traces: Sequence[Trace]) -> list[Proof]:
    """Of the pass, and of the one in training mode where that was recorded as well."""
    more = enumerate(traces[1:], 1)
    return [proof, *(replace(proof, trace=t, number=n, training=True) for n, t in more)]


def folded(model: nn.Module, slim: nn.Module, proof: Proof, example: tuple[Any, ...]) -> Proof:
    """The slim network, and the plan, with the numbers that changed folded into weights."""
    found = _folds(proof.trace, slim, example)
    plan = replace(proof.plan, scaled=found.scales)
    originals = dict(named_tensors(model))
    for name, tensor in named_tensors(slim):
        if name in plan.scaled:
            tensor.data.copy_(cut(name, originals[name], plan))
    return replace(proof, plan=plan, multiplied=found.tensors)


def _folds(trace: Trace, slim: nn.Module, example: tuple[Any, ...]) -> Folds:
    """What makes up for numbers that code computes from lengths."""
    if depends_on_lengths(trace):
        with suppress(CaptureError):  # the proof finds the line
            return folds(trace, capture(slim, example))
    return Folds({}, {})


_ATTEMPTS = 16  # lines of code that may be pinned one after the other


def prove(
    model: nn.Module,
    slim: nn.Module,
    plan: Plan,
    example: Example,
    *,
    seed: int = 0,
    trained: bool = False,
) -> Certificate:
    """Prove again that ``slim`` is ``model`` cut by ``plan``.

    Which tensors hold other numbers than the cut's is measured, and in the certificate. Of weights
    that were ``trained`` after the cut only the structure is proven, with random weights; where
    none was changed, all is. Raises :class:`CertificateError`.
    """
    example = positional(model, example)
    shorter = shorten_as(model, example, plan, seed=seed)
    model, plan = shorter.model, replace(plan, blocks=())
    check_fits(model, plan)
    other = changed(model, slim, plan)
    traces = record(model, example)
    coupling = _coupling_of(plan, traces)
    proof = Proof(traces[0], coupling, plan, surviving(coupling, plan))
    if plan.scaled:
        proof = replace(proof, multiplied=_folds(proof.trace, slim, example).tensors)
    kinds = ("random",) if trained and other else ("real", "random")
    try:
        proven = certify(model, slim, _proofs(proof, traces), example, seed=seed, kinds=kinds)
    except CertificateError as error:
        if not other:
            raise
        raise CertificateError(f"{error}; {_few(other, model)}") from error
    return joined(shorter.certificate, replace(proven, changed=other))


def changed(model: nn.Module, slim: nn.Module, plan: Plan) -> tuple[str, ...]:
    """The parameters and buffers of a slim network that are not just the original's, cut."""
    originals = dict(named_tensors(model))
    return tuple(
        name
        for name, tensor in named_tensors(slim)
        if name not in originals or not same(cut(name, originals[name], plan), tensor)
    )


def _few(names: Sequence[str], model: nn.Module) -> str:
    return (
        f"{len(names)} of its tensors ({', '.join(names[:3])}{', …' * (len(names) > 3)}) hold "
        f"other numbers than what was cut of this {type(model).__name__}"
    )


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers, wherever they lie."""
    return one.shape == other.shape and bool(torch.equal(one.to(other), other))


def _coupling_of(plan: Plan, traces: Sequence[Trace]) -> Coupling:
    """The reading of the network that the plan was made with: widths of heads, or whole heads."""
    apart = {name: plan.of(name) for name in plan.grouped}
    couplings = (couple(traces, heads=heads, removals=apart) for heads in (False, True))
    first = next(couplings)
    return first if agrees(first, plan) else next(couplings)


def _missed(coupling: Coupling, heads: bool) -> list[str]:
    if heads and not coupling.whole_heads:
        return ["no attention was found whose heads could leave: asking for heads changed nothing"]
    return []
