"""From a model and a budget to a proven slim network: the stages in order.

    model, example ── capture ── couple ── groups ── score ── allocate ── plan ── rebuild ── certify

Where literal code breaks the slim network, the groups behind that line are pinned and the cut is
planned again: the user gets a valid network and is told what stood in the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from slimnet.budget import Align, Budget, Limits, Scope, Survivors, allocate, removed_members
from slimnet.cost import Cost, CostModel
from slimnet.couple import Coupling, Pin, couple
from slimnet.criteria import comparable, load_criteria, score
from slimnet.diagnose import find_culprit
from slimnet.errors import CaptureError, CertificateError, InputError, PruneError
from slimnet.example import Example, positional
from slimnet.fold import depends_on_lengths, folds
from slimnet.groups import Group, Layer, find_groups
from slimnet.modules import first_names, named_tensors, no_collection, unchanging
from slimnet.plan import Plan, agrees, make_plan, surviving, survivors_mask
from slimnet.rebuild import cut, rebuild
from slimnet.reference import Proof
from slimnet.suitable import refuse_unsuitable
from slimnet.trace import Trace, capture
from slimnet.verify import Certificate, certify


@dataclass(frozen=True)
class Inspection:
    """What hangs together in a network, what can be cut, and for each layer that cannot: why."""

    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]
    cost: Cost
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [_layer_line(layer) for layer in self.layers]
        channels = sum(group.width for group in self.groups)
        lines += [_statistics_line(group) for group in self.groups if group.approximate]
        number = len(self.groups)
        lines.append(f"{number} group{'s' * (number != 1)}, {channels} prunable channels")
        return "\n".join([*lines, *self.notes])

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        groups = [
            {
                "number": group.number,
                "channels": group.width,
                "channels_at_a_time": group.channels_per_atom,
                "layers": group.layers,
                "approximate": [str(reason) for reason in group.approximate],
            }
            for group in self.groups
        ]
        layers = [asdict(layer) for layer in self.layers]
        return {"cost": self.cost.to_json(), "layers": layers, "groups": groups}


def _layer_line(layer: Layer) -> str:
    head = f"{layer.name} ({layer.kind}, {layer.channels} channels): {layer.prunable} prunable"
    if layer.prunable:
        head += f" in group {', '.join(map(str, layer.groups))}"
    return head + "".join(f"\n    because: {reason}" for reason in layer.reasons[:2])


def _statistics_line(group: Group) -> str:
    return f"group {group.number} is approximate\n    because: {group.approximate[0]}"


@dataclass(frozen=True)
class Pruned:
    """A slim network with its plan and, unless it was declined, its certificate."""

    model: nn.Module
    plan: Plan
    certificate: Certificate | None
    inspection: Inspection
    example: tuple[Any, ...] = ()

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
    traces = _record(model, positional(model, example))
    return _analyse(model, traces, (), heads=heads).inspection


def prune(
    model: nn.Module,
    example: Example,
    *,
    ratio: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    criterion: str = "l1",
    scope: Scope = "local",
    align: Align = "auto",
    min_channels: int | None = None,
    keep: Sequence[str] = (),
    layer_ratio: Mapping[str, float] | None = None,
    seed: int = 0,
    verify: bool = True,
    strict: bool = False,
    heads: bool = False,
) -> Pruned:
    """Cut a network down to a budget; ``model`` itself is never changed.

    Args:
        model: any network that runs on ``example``.
        example: a tuple of positional inputs, or a dict of keyword inputs.
        ratio: share of channels to remove, in [0, 1).
        macs: share of the multiply-adds that may remain, in (0, 1].
        params: share of the parameters that may remain, in (0, 1].
        criterion: which channels go first (``slimnet.criteria``).
        scope: "local" removes the same share from every group, "global" sets one threshold.
        align: round widths to this multiple; "auto" takes 16 for groups of at least 32 channels
            and 8 for at least 16; None leaves them as they come.
        min_channels: the least that a group keeps; without it, a ratio that would empty a layer is
            an error.
        keep: layer names or patterns (``layer4.*``) that are left alone.
        layer_ratio: ratios for layers by name or pattern.
        seed: of the random criterion and of the proof's random weights and inputs.
        verify: prove the result (four passes in float64).
        strict: an operator without a rule is an error.
        heads: attention loses whole heads; without it, every head loses the same part of its width.

    Raises:
        InputError: for arguments that cannot be used.
        PruneError: where nothing can be cut, or a layer would be left without channels.
        CertificateError: where the slim network cannot be proven equal to the zeroed original.
    """
    example = positional(model, example)
    budget = Budget(ratio, macs, params)
    limits = Limits(scope, align, min_channels, tuple(keep), dict(layer_ratio or {}))
    _ = load_criteria()[criterion]
    traces: list[Trace] = []
    asked = {
        budget.kind: budget.share,
        "criterion": criterion,
        "scope": scope,
        "align": align,
        "min_channels": min_channels,
        "keep": list(limits.keep),
        "layer_ratio": dict(limits.layer_ratio),
        "heads": heads,
        "seed": seed,
    }
    pins: list[Pin] = []
    while True:
        with no_collection(), unchanging(model):
            if not traces:
                refuse_unsuitable(model)
            traces = traces or _record(model, example)
            analysis = _analyse(model, traces, pins, strict=strict, heads=heads)
            plan, proof = _plan(model, analysis, budget, limits, criterion, seed)
            notes = (*plan.notes, *_missed(analysis.coupling, heads))
            plan = replace(plan, asked=asked, notes=notes)
            proof = replace(proof, plan=plan)
            slim = rebuild(model, plan)
        proof = _folded(model, slim, proof, example)
        plan = proof.plan
        inspection = replace(analysis.inspection, notes=tuple(plan.notes))
        if not verify:
            return Pruned(slim, plan, None, inspection, example)
        try:
            certificate = certify(model, slim, proof, _inputs(example, seed), seed=seed)
            return Pruned(slim, plan, certificate, inspection, example)
        except Exception as error:  # the slim network's own forward may raise anything
            culprit = find_culprit(model, slim, proof, example)
            if culprit is None or culprit in pins or len(pins) >= _ATTEMPTS:
                raise _refusal(error) from error
            pins.append(culprit)


def _folded(model: nn.Module, slim: nn.Module, proof: Proof, example: tuple[Any, ...]) -> Proof:
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


@dataclass(frozen=True, eq=False)
class _Analysis:
    traces: Sequence[Trace]
    coupling: Coupling
    groups: list[Group]
    layers: list[Layer]
    costs: CostModel
    inspection: Inspection


def _record(model: nn.Module, example: tuple[Any, ...]) -> list[Trace]:
    """The evaluation pass and, where it leaves parameters unused, a training pass as well."""
    traces = [capture(model, example)]
    if not traces[0].outputs:
        raise InputError(f"{type(model).__name__} returns no tensor: nothing could be compared")
    parameters = [name for name, t in named_tensors(model) if isinstance(t, nn.Parameter)]
    if not parameters:
        raise InputError(f"{type(model).__name__} has no parameters: there is nothing to prune")
    if set(parameters) - traces[0].tensors.keys():
        try:
            with torch.random.fork_rng(devices=[]):
                traces.append(capture(model, tree_map(_doubled, example), training=True))
        except CaptureError:
            pass  # what only training runs stays as it is, and inspect says so
    return traces


def _doubled(leaf: Any) -> Any:
    """Two samples: batch norms in training mode want more than one."""
    return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.dim() > 1 else leaf


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
    trace = capture(model, example)
    coupling = _coupling_of(plan, trace)
    proof = Proof(trace, coupling, plan, surviving(coupling, plan))
    kinds = ("random",) if trained else ("real", "random")
    return certify(model, slim, proof, _inputs(example, seed), seed=seed, kinds=kinds)


def _coupling_of(plan: Plan, trace: Trace) -> Coupling:
    """The reading of the network that the plan was made with: widths of heads, or whole heads."""
    couplings = (couple([trace], heads=heads) for heads in (False, True))
    first = next(couplings)
    return first if agrees(first, plan) else next(couplings)


def _analyse(
    model: nn.Module,
    traces: Sequence[Trace],
    pins: Sequence[Pin],
    *,
    strict: bool = False,
    heads: bool = False,
) -> _Analysis:
    coupling = couple(traces, strict=strict, pins=pins, heads=heads)
    groups, layers = find_groups(model, coupling)
    costs = CostModel(model, traces[0], coupling)
    dense = costs.cost(coupling.atoms.reason == coupling.atoms.reason)
    return _Analysis(
        traces, coupling, groups, layers, costs, Inspection(tuple(groups), tuple(layers), dense)
    )


def _plan(
    model: nn.Module,
    analysis: _Analysis,
    budget: Budget,
    limits: Limits,
    criterion: str,
    seed: int,
) -> tuple[Plan, Proof]:
    groups, coupling = analysis.groups, analysis.coupling
    limits.check(groups, [layer.name for layer in analysis.layers])
    if not groups and budget.asks_for_less:
        raise PruneError(_nothing(analysis.layers))
    scores = score(groups, dict(named_tensors(model)), criterion, seed=seed)
    ranked = scores
    if limits.scope == "global":
        ranked = {number: comparable(values, criterion) for number, values in scores.items()}

    def cost(survivors: Survivors) -> Cost:
        members = removed_members(groups, scores, survivors)
        return analysis.costs.cost(survivors_mask(coupling, groups, members))

    survivors = allocate(groups, ranked, budget, limits, cost)
    members = removed_members(groups, scores, survivors)
    alive = survivors_mask(coupling, groups, members)
    plan = make_plan(coupling, groups, analysis.layers, members)
    plan = replace(
        plan,
        removed={  # a shared tensor is cut under each of its names
            name: plan.removed[first]
            for name, first in first_names(model).items()
            if first in plan.removed
        },
        before=analysis.inspection.cost.to_json(),
        after=analysis.costs.cost(alive).to_json(),
        notes=tuple(_notes(groups, scores, criterion)),
    )
    return plan, Proof(analysis.traces[0], coupling, plan, alive)


def _nothing(layers: Sequence[Layer]) -> str:
    for layer in layers:
        if layer.reasons:
            return (
                f"nothing can be pruned: {layer.name} ({layer.channels} channels) stays because "
                f"{layer.reasons[0]}; slimnet inspect shows all layers"
            )
    return "nothing can be pruned: no layer of this network makes channels that could leave"


def _notes(groups: Sequence[Group], scores: Mapping[int, Any], criterion: str) -> list[str]:
    left = [g for g in groups if g.number not in scores]
    if not left:
        return []
    names = ", ".join(g.layers[0] for g in left[:3])
    return [
        f"{len(left)} groups were left alone: {criterion} has nothing to read there ({names}, …)"
    ]


def _missed(coupling: Coupling, heads: bool) -> list[str]:
    if heads and not coupling.whole_heads:
        return ["no attention was found whose heads could leave: asking for heads changed nothing"]
    return []


def _inputs(example: tuple[Any, ...], seed: int) -> list[tuple[Any, ...]]:
    """Random inputs of the example's shapes; integers and anything else stay as they are."""
    generator = torch.Generator().manual_seed(seed)

    def random(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return torch.randn(leaf.shape, generator=generator).to(leaf.device)
        return leaf

    return [tree_map(random, example)]
