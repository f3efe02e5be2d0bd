"""From a model and a budget to a proven slim network: the stages in order.

    model, example ── capture ── couple ── groups ── score ── allocate ── plan ── rebuild ── fold
        ── certify ── repair

Blocks leave before the first stage, where that was asked for; repair runs only if asked for. Where
the proof finds that a line of the user's code does not work with the new widths, the channels at
that call are pinned and the cut is planned again. The plan names the line as the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

from torch import Tensor, nn

from slimnet.blocks.blocks import find_blocks
from slimnet.blocks.shorten import Shortened, shorten
from slimnet.capture.modules import no_collection
from slimnet.capture.passes import capture_passes
from slimnet.capture.suitable import refuse_unbound
from slimnet.capture.trace import Trace, capture
from slimnet.costs.cost import cost_of
from slimnet.costs.quantity import COSTS, quantities, share_left
from slimnet.coupling.couple import Coupling, Pin
from slimnet.criteria import CriterionOptions
from slimnet.errors import CaptureError, PruneError
from slimnet.example import Example, positional
from slimnet.inspection import Analysis, Inspection, analyse
from slimnet.lineage import Lineage, lineage_of, remember
from slimnet.network import Network
from slimnet.plan.plan import BlockCut, Plan
from slimnet.plan.rebuild import rebuild, without_blocks
from slimnet.planning.budget import Budget, Limits
from slimnet.planning.bystanders import Bystanders
from slimnet.planning.draft import draft
from slimnet.planning.outcome import refusal
from slimnet.planning.request import COMPETING, CutRequest, parse_outputs
from slimnet.planning.returned import changed_outputs, still_read
from slimnet.planning.scoring import ScoringInputs
from slimnet.progress import Progress, not_shown
from slimnet.proof.certificate import Certificate, Mismatch, certify
from slimnet.proof.diagnosis import culprits
from slimnet.proof.reference import CutContext
from slimnet.proving import contexts_of, fold_constants
from slimnet.repairs import Repair, check_samples
from slimnet.repairs import repair as repair_layers
from slimnet.repairs.rivals import IMAGES, Contest, Rival, contest
from slimnet.samples import Samples, samples_of
from slimnet.signature import keywords, option, required, shared
from slimnet.statistics.statistics import Statistics


@dataclass(frozen=True)
class Pruned:
    """A slim network with its plan and its certificate (None with ``verify=False``).

    Both describe this cut alone. If the network was already a slim one, :meth:`whole` gives the
    plan and the certificate of all cuts, relative to the original.
    """

    model: nn.Module
    plan: Plan
    certificate: Certificate | None
    inspection: Inspection
    example: tuple[Any, ...] = ()
    repair: Repair | None = None  # the certificate is of the cut, before the repair
    earlier: Lineage | None = None  # the cuts before this one

    def whole(self) -> tuple[Plan, Certificate | None]:
        """The plan and certificate of all cuts, relative to the original network."""
        if self.earlier is None:
            return self.plan, self.certificate
        return self.earlier.and_then(self.plan, self.certificate)

    @property
    def trained(self) -> bool:
        """Whether weights changed after one of the cuts, by a repair or by training in between."""
        return self.repair is not None or (self.earlier is not None and self.earlier.trained)

    def __str__(self) -> str:
        before, after = self.plan.before or {}, self.plan.after or {}
        brief = [name for name, quantity in quantities(before).items() if quantity.brief]
        shares = ", ".join(f"{name} {_share(before, after, name)}" for name in brief)
        proof = str(self.certificate) if self.certificate else "not verified"
        return f"{shares}; {proof}"


def _share(before: Mapping[str, float], after: Mapping[str, float], name: str) -> str:
    written = COSTS[name].written
    share = share_left(before, after, name)
    return f"{written(before[name])} → {written(after[name])} ({share})"


@dataclass(frozen=True, eq=False)
class InspectArguments:
    """What :func:`inspect` takes beside the network."""

    example: Example = required("a tuple of positional inputs, or a dict of keyword inputs")
    _: KW_ONLY
    heads: bool = shared(CutRequest, "heads")
    outputs: Sequence[str] = shared(CutRequest, "outputs")


@keywords(InspectArguments)
def inspect(model: nn.Module, asked: InspectArguments) -> Inspection:
    """Find, without a hint, what can be removed from a network.

    Args:
        model: any network that runs on ``example``.
        {options}

    Raises:
        CaptureError: where the model does not run on the example.
    """
    example = positional(model, asked.example)
    network = Network.of(model)
    traces = capture_passes(network, example, parse_outputs(asked.outputs))
    return analyse(network, traces, (), heads=asked.heads).inspection


@dataclass(frozen=True, eq=False)
class PruneArguments(CutRequest):
    """What :func:`slimnet.prune` takes beside the network."""

    example: Example | None = option(
        None,
        "a tuple of positional inputs, or a dict of keyword inputs; a :class:`Pruned` has one of "
        "its own",
        asked=False,
    )
    _: KW_ONLY
    data: Samples | Tensor | None = option(
        None,
        "calibration images [N, C, H, W], normalised, or :class:`~slimnet.samples.Samples` with "
        "labels; for criteria that read activations or gradients",
        asked=False,
    )
    init: Mapping[str, Tensor] | None = option(
        None, "the weights before training, by name; for criteria that read them", asked=False
    )
    watch: Progress = option(
        not_shown,
        "told what is being gathered from the data, and how much of it is (0..1)",
        asked=False,
    )


def cut_down(model: nn.Module | Pruned, asked: PruneArguments) -> Pruned:
    """Cut a network to a budget of what is counted, as :func:`slimnet.prune` does."""
    network, example = opened(model, asked.example)
    samples, earlier, seed = _samples(network, asked), lineage_of(network), asked.seed
    request = replace(asked.settled(), outputs=_outputs(asked, earlier))
    options = CriterionOptions(str(request.criterion), request.across, request.reduce)
    scoring = ScoringInputs(options, samples, asked.init, seed, asked.watch)
    found = None
    if request.drop_blocks == COMPETING and samples is not None:
        found = _contest(network, example, request, scoring, samples)
        request = replace(request, drop_blocks=found.blocks)
    shorter = shorten(network, example, request.drop_blocks, seed=seed, verify=request.verify)
    made = _cut(_CutTask(request, scoring, shorter, example))
    plan, certificate = shorter.whole(made.context.plan, made.certificate)
    if found is not None:
        plan = plan.reporting(notes=(str(found), *plan.notes))
    slim, repair = made.slim, None
    if request.repair and samples is not None:
        how: dict[str, Any] = {"seed": seed, "watch": asked.watch}
        repaired, repair = repair_layers(network, slim, plan, samples, **how)
        slim = Network.of(repaired)
    pruned = Pruned(slim.model, plan, certificate, made.inspection, example, repair, earlier)
    remember(slim, *pruned.whole(), trained=pruned.trained)
    return pruned


def opened(model: nn.Module | Pruned, example: Example | None) -> tuple[Network, tuple[Any, ...]]:
    """The network, and its inputs by place: those of an earlier cut where none are given."""
    module = model.model if isinstance(model, Pruned) else model
    own: Any = model.example if isinstance(model, Pruned) and example is None else example
    inputs = positional(module, own)
    return Network.of(module), inputs


def _outputs(asked: CutRequest, earlier: Lineage | None) -> Sequence[str]:
    """Those that are read: of what an earlier cut left to read, unless told, all."""
    return still_read(asked.outputs, () if earlier is None else earlier.plan.outputs)


def _samples(network: Network, asked: PruneArguments) -> Samples | None:
    """The calibration data; refuses a request that needs data, labels or weights not given."""
    samples = samples_of(asked.data)
    if samples is not None and isinstance(samples.images, Mapping):
        samples = samples.by_position(network.model)
    asked.check(data=samples is not None, init=asked.init is not None)
    if asked.repair and samples is not None:
        check_samples(samples)
    return samples


def _contest(
    network: Network,
    example: tuple[Any, ...],
    request: CutRequest,
    scoring: ScoringInputs,
    samples: Samples,
) -> Contest:
    """Which blocks leave for the budget to be met with the least damage after a repair."""
    budget = Budget.of(request)
    whole = budget.whole(cost_of(network, example))
    few = replace(scoring, samples=samples.first(IMAGES))

    def cut(blocks: Sequence[str]) -> tuple[Network, Plan]:
        asked = replace(request, drop_blocks=blocks, verify=False)
        shorter = shorten(network, example, blocks, seed=request.seed, verify=False)
        made = _cut(_CutTask(asked, few, shorter, example))
        return made.slim, shorter.whole(made.context.plan, None)[0]

    return contest(
        network,
        list(_rivals(network, example, budget.kind, whole)),
        whole * (1 - budget.remains(whole)),
        cut,
        samples,
        read=request.outputs,
        seed=request.seed,
        watch=scoring.watch,
    )


def _rivals(network: Network, example: tuple[Any, ...], kind: str, whole: float) -> Iterator[Rival]:
    """The blocks that may leave, and what each saves of a cost."""
    for block in find_blocks(network, capture(network, example)):
        if not block.stays:
            leaving = BlockCut(block.name, block.stubs, block.last)
            without = without_blocks(network, Plan({}, blocks=(leaving,)))
            with suppress(CaptureError):  # what does not run without it keeps it
                saved = whole - cost_of(without, example).amounts[kind]
                yield Rival(block.name, without, saved)


@dataclass(frozen=True, eq=False)
class _CutAttempt:
    """A plan, the pass and labels it was made from, and the slim network it gives."""

    context: CutContext
    slim: Network
    inspection: Inspection
    bystanders: Bystanders  # changes of attributes that no recorded call reads
    certificate: Certificate | None = None  # None until it is proven


@dataclass(frozen=True, eq=False)
class _CutTask:
    """What stays the same over all attempts at a cut."""

    request: CutRequest
    scoring: ScoringInputs
    shorter: Shortened  # the network without the blocks that were dropped
    example: tuple[Any, ...]

    @property
    def budget(self) -> Budget:
        """Of what blocks have left; a share is still one of the original."""
        return Budget.of(self.request).after(self.shorter.plan)

    @property
    def options(self) -> Mapping[str, Any]:
        """Of the request, as the plan records them."""
        samples = self.scoring.samples
        return self.request.asked(None if samples is None else len(samples))

    def analyse(self, traces: Sequence[Trace], pins: Sequence[Pin]) -> Analysis:
        """Find what can be cut, from the recorded passes and with these pins."""
        request = self.request
        return analyse(
            self.shorter.network,
            traces,
            pins,
            strict=request.strict,
            heads=request.heads,
            least=request.min_channels,
        )

    def attempt(
        self, analysis: Analysis, statistics: Statistics, *, change_bystanders: bool
    ) -> _CutAttempt:
        """Plan and rebuild; raises :class:`PruneError` where the budget cannot be met.

        With ``change_bystanders``, attributes that no recorded call reads are changed as well.
        """
        network, request = self.shorter.network, self.request
        drawn = draft(
            network,
            analysis,
            self.budget,
            Limits.of(request),
            self.scoring,
            statistics,
            steps=request.steps,
            change_bystanders=change_bystanders,
        )
        notes = (
            *drawn.plan.notes,
            *_heads_note(analysis.coupling, request.heads),
            *changed_outputs(analysis.traces[0], analysis.coupling, drawn.survival),
        )
        plan = replace(drawn.plan, outputs=tuple(request.outputs))
        plan = plan.reporting(asked=self.options, notes=notes)
        if drawn.unmet and not request.best_effort:
            raise PruneError(refusal(self.shorter.whole(plan, None)[0], drawn.unmet))
        context = CutContext(analysis.traces[0], analysis.coupling, plan)
        inspection = replace(analysis.inspection, notes=tuple(plan.notes))
        return _CutAttempt(
            context, Network.of(rebuild(network, plan)), inspection, drawn.bystanders
        )

    def proven(self, attempt: _CutAttempt, traces: Sequence[Trace]) -> _CutAttempt:
        """The attempt with its certificate; raises :class:`CertificateError`."""
        contexts = contexts_of(attempt.context, traces)
        network, seed = self.shorter.network, self.request.seed
        certificate = certify(network, attempt.slim, contexts, self.example, seed=seed)
        return replace(attempt, certificate=certificate)


def _cut(task: _CutTask) -> _CutAttempt:
    """Plan, rebuild and prove; where the proof fails at a call, pin its channels and plan again.

    Attributes that no recorded call reads are changed as well, at first. Where the proof fails, the
    attempt is made again without these changes, before more is pinned.
    """
    network, example, verify = task.shorter.network, task.example, task.request.verify
    with no_collection():
        traces = capture_passes(network, example, task.request.outputs)
    pins: list[Pin] = []
    refused = 0
    statistics: Statistics | None = None
    change_bystanders = verify  # only the proof would notice that such a change was wrong
    while True:
        with no_collection():
            analysis = task.analyse(traces, pins)
            statistics = statistics or task.scoring.gather(network, analysis.groups)
            attempt = task.attempt(analysis, statistics, change_bystanders=change_bystanders)
        context = fold_constants(network.tensors, attempt.slim, attempt.context, example)
        attempt = replace(attempt, context=context)
        try:
            return task.proven(attempt, traces) if verify else attempt
        except Mismatch as mismatch:
            refuse_unbound(network, attempt.slim, example)
            if attempt.bystanders.changes:  # a call may read one of these after all
                change_bystanders = False
                continue
            change_bystanders = True
            more = [pin for pin in culprits(mismatch) if pin not in pins]
            refused += 1
            if not more or refused > _MOST_REFUSED:
                raise
            pins += more


_MOST_REFUSED = 16  # attempts that the proof may refuse; each one pins more channels


def _heads_note(coupling: Coupling, heads: bool) -> list[str]:
    if heads and not coupling.whole_heads:
        return ["no attention was found whose heads could leave: asking for heads changed nothing"]
    return []
