"""From a model and a budget to a proven slim network: the stages in order.

    model, example ── capture ── couple ── groups ── score ── allocate ── plan ── rebuild ── certify

Where literal code breaks the slim network, the groups behind that line are pinned and the cut is
planned again: the user gets a valid network and is told what stood in the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from slimnet.capture.modules import named_tensors, no_collection, unchanging
from slimnet.capture.suitable import refuse_unsuitable
from slimnet.capture.trace import Trace, capture
from slimnet.coupling.couple import Coupling, Pin, couple
from slimnet.criteria import Choice, check_needs, usual, usual_scope
from slimnet.cutting.diagnose import find_culprit
from slimnet.cutting.draft import draft
from slimnet.cutting.fold import depends_on_lengths, folds
from slimnet.cutting.rebuild import cut, rebuild
from slimnet.cutting.reference import Proof
from slimnet.cutting.shorten import Wanted, shorten, shorten_as
from slimnet.cutting.verify import Certificate, certify, joined
from slimnet.errors import CaptureError, CertificateError, InputError
from slimnet.example import Example, positional, random_like
from slimnet.measuring.analysis import Inspection, analyse, record
from slimnet.measuring.gathered import Gathered
from slimnet.planning.budget import Align, Budget, Limits, Scope
from slimnet.planning.plan import Plan, agrees, surviving
from slimnet.planning.scoring import Scorer
from slimnet.repair import Repair, check_images
from slimnet.repair import repair as mend
from slimnet.samples import Samples, samples_of
from slimnet.watch import Watch, unwatched


@dataclass(frozen=True)
class Pruned:
    """A slim network with its plan and, unless it was declined, its certificate."""

    model: nn.Module
    plan: Plan
    certificate: Certificate | None
    inspection: Inspection
    example: tuple[Any, ...] = ()
    repair: Repair | None = None  # the certificate is of the cut, before the repair

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
    refuse_unsuitable(model)
    traces = record(model, positional(model, example))
    return analyse(model, traces, (), heads=heads).inspection


def prune(
    model: nn.Module,
    example: Example,
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
    watch: Watch = unwatched,
) -> Pruned:
    """Cut a network down to a budget; ``model`` itself is never changed.

    Args:
        model: any network that runs on ``example``.
        example: a tuple of positional inputs, or a dict of keyword inputs.
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
            an error.
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
        watch: told what is being gathered from the data, and how much of it is (0..1).

    Raises:
        InputError: for arguments that cannot be used.
        PruneError: where nothing can be cut, or a layer would be left without channels.
        CertificateError: where the slim network cannot be proven equal to the zeroed original.
    """
    example = positional(model, example)
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
        "repair": repair,
        "seed": seed,
    }
    original = model
    shorter = shorten(model, example, drop_blocks, seed=seed, verify=verify)
    model, budget = shorter.model, shorter.budget(budget)
    pins: list[Pin] = []
    gathered: Gathered | None = None
    while True:
        with no_collection(), unchanging(model):
            if not traces:
                refuse_unsuitable(model)
            traces = traces or record(model, example)
            analysis = analyse(model, traces, pins, strict=strict, heads=heads)
            gathered = gathered or scorer.gather(model, analysis.groups)
            drawn = draft(model, analysis, budget, limits, scorer, gathered, steps=steps)
            notes = (*drawn.plan.notes, *_missed(analysis.coupling, heads))
            plan = replace(drawn.plan, asked=asked, notes=notes)
            proof = Proof(traces[0], analysis.coupling, plan, drawn.alive)
            slim = rebuild(model, plan)
        proof = folded(model, slim, proof, example)
        plan = proof.plan
        inspection = replace(analysis.inspection, notes=tuple(plan.notes))
        try:
            certificate = None
            if verify:
                certificate = certify(model, slim, proof, [random_like(example, seed)], seed=seed)
            break
        except Exception as error:  # the slim network's own forward may raise anything
            culprit = find_culprit(model, slim, proof, example)
            if culprit is None or culprit in pins or len(pins) >= _ATTEMPTS:
                raise _refusal(error) from error
            pins.append(culprit)
    done = None
    gathered = None  # it may be as large as the network's activations
    plan, certificate = shorter.whole(plan, certificate)
    if repair and samples is not None:
        slim, done = mend(original, slim, plan, samples.images, seed=seed, watch=watch)
    return Pruned(slim, plan, certificate, inspection, example, done)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise InputError(f"steps must be at least 1, and {steps} is not")


def folded(model: nn.Module, slim: nn.Module, proof: Proof, example: tuple[Any, ...]) -> Proof:
    """The slim network, and the plan, with the numbers that changed folded into weights."""
    if not depends_on_lengths(proof.trace):
        return proof
    try:
        found = folds(proof.trace, capture(slim, example))
    except CaptureError:
        return proof  # the proof finds the line
    plan = replace(proof.plan, scaled=found.scales)
    originals = dict(named_tensors(model))
    for name, tensor in named_tensors(slim):
        if name in plan.scaled:
            tensor.data.copy_(cut(name, originals[name], plan))
    return replace(proof, plan=plan, multiplied=found.tensors)


_ATTEMPTS = 16  # lines of code that may be pinned one after the other


def _refusal(error: Exception) -> Exception:
    if isinstance(error, CertificateError):
        return error
    first = str(error).strip().split("\n")[0]
    return CertificateError(f"the slim network does not run ({first}), and no line can be blamed")


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

    Weights that were ``trained`` after the cut no longer equal the original's: then only the
    structure is proven, with random weights. Raises :class:`CertificateError`.
    """
    example = positional(model, example)
    shorter = shorten_as(model, example, plan, seed=seed)
    model, plan = shorter.model, replace(plan, blocks=())
    trace = capture(model, example)
    coupling = _coupling_of(plan, trace)
    proof = Proof(trace, coupling, plan, surviving(coupling, plan))
    kinds = ("random",) if trained else ("real", "random")
    inputs = [random_like(example, seed)]
    certificate = certify(model, slim, proof, inputs, seed=seed, kinds=kinds)
    return joined(shorter.certificate, certificate)


def _coupling_of(plan: Plan, trace: Trace) -> Coupling:
    """The reading of the network that the plan was made with: widths of heads, or whole heads."""
    couplings = (couple([trace], heads=heads) for heads in (False, True))
    first = next(couplings)
    return first if agrees(first, plan) else next(couplings)


def _missed(coupling: Coupling, heads: bool) -> list[str]:
    if heads and not coupling.whole_heads:
        return ["no attention was found whose heads could leave: asking for heads changed nothing"]
    return []
