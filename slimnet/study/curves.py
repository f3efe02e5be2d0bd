"""How much each group matters: the network with one group alone cut to several widths.

Takes a network and images (labelled ones give accuracy; unlabelled ones, or the example alone, give
the change of the outputs); gives a curve for every group. Removed channels are zeroed in a copy of
the network, which the certificate proves equal to removing them, so nothing is rebuilt; only where
a cut is approximate is the slim network really made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import KW_ONLY, asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimnet.capture.modules import copied, evaluation_mode
from slimnet.capture.passes import capture_passes
from slimnet.costs.cost import CostModel
from slimnet.coupling.groups import Group
from slimnet.criteria import CriterionOptions, Scores, check_needs
from slimnet.errors import InputError
from slimnet.example import Example, positional, tensors_of
from slimnet.inspection import Analysis, analyse
from slimnet.network import Network
from slimnet.plan.plan import Plan, make_plan, surviving
from slimnet.plan.rebuild import rebuild, zero_removed
from slimnet.planning.budget import removed_atoms
from slimnet.planning.request import SensitivityRequest
from slimnet.planning.scoring import ScoringInputs
from slimnet.progress import Progress, not_shown
from slimnet.proof.reference import CutContext
from slimnet.proving import fold_constants
from slimnet.samples import Samples, check_labels, samples_of
from slimnet.signature import keywords, option, required
from slimnet.statistics.batches import fitting
from slimnet.statistics.outputs import numbers_of
from slimnet.text import first_line

BATCH = 64  # images per pass


@dataclass(frozen=True)
class Point:
    """One width of one group, all others whole."""

    channels: int
    removed: float  # share of the group's channels
    error: float  # ‖outputs − dense outputs‖ / ‖dense outputs‖, over all images; of whole numbers
    # the root of the share that differ
    accuracy: float | None = None  # percent; None without labels
    ms: float | None = None  # of a run with it, by the model of time; None where nobody asked


@dataclass(frozen=True)
class Curve:
    """One group: what is coupled, how wide it is, and what narrower costs."""

    number: int
    layers: tuple[str, ...]
    width: int
    approximate: bool
    points: tuple[Point, ...]  # the widest first


@dataclass(frozen=True)
class Sensitivity:
    """A curve for every group, and what they were measured on."""

    criterion: str
    images: int | None  # None: the example alone
    accuracy: float | None  # of the dense network, percent
    shares: tuple[float, ...]  # of the channels that were removed, as asked for
    curves: tuple[Curve, ...]
    skipped: tuple[tuple[str, str], ...] = ()  # a layer of a group, why nothing was measured
    ms: float | None = None  # of a run of the dense network, as measured; None where nobody asked

    def loss(self, point: Point) -> float:
        """What a width costs: points of accuracy where they are known, else the error."""
        if self.accuracy is None or point.accuracy is None:
            return point.error
        return self.accuracy - point.accuracy

    def saved(self, point: Point) -> float | None:
        """The ms that a width saves; None where time was not asked for."""
        return None if self.ms is None or point.ms is None else self.ms - point.ms

    def price(self, curve: Curve) -> float | None:
        """What a group loses for each ms that it saves, at its cheapest width; None for no time."""
        prices = [
            self.loss(point) / saved
            for point in curve.points
            if (saved := self.saved(point)) is not None and saved > 0
        ]
        return min(prices, default=None)

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class SensitivityArguments(SensitivityRequest):
    """What :func:`sensitivity` takes beside the network."""

    example: Example = required("a tuple of positional inputs, or a dict of keyword inputs")
    data: Samples | Tensor | None = option(
        None,
        "images [N, C, H, W], normalised; with labels (:class:`~slimnet.samples.Samples`) accuracy "
        "is measured too. Without any, outputs on the example are compared",
    )
    _: KW_ONLY
    calibration: Samples | Tensor | None = option(
        None, "images for criteria that read activations or gradients"
    )
    init: Mapping[str, Tensor] | None = option(
        None, "the weights before training, for criteria that read them"
    )
    watch: Progress = option(
        not_shown, "told which group is being measured, and how much is done (0..1)"
    )


@keywords(SensitivityArguments)
def sensitivity(model: nn.Module, asked: SensitivityArguments) -> Sensitivity:
    """Cut each group alone to ``points`` widths and measure; ``model`` itself is never changed.

    Args:
        model: any network that runs on ``example``.
        {options}

    Raises:
        InputError: for arguments that cannot be used.
        PruneError: where the criterion finds nothing to read.
    """
    network, points = Network.of(model), asked.points
    example, images = positional(model, asked.example), samples_of(asked.data, model)
    calibration = samples_of(asked.calibration, model)
    check_needs(asked.criterion, data=calibration is not None, init=asked.init is not None)
    traces = capture_passes(network, example, asked.outputs)
    analysis = analyse(network, traces, (), heads=asked.heads)
    options = CriterionOptions(asked.criterion, asked.across, asked.reduce)
    scoring = ScoringInputs(options, calibration, asked.init, asked.seed, asked.watch)
    statistics = scoring.gather(network, analysis.groups)
    scores = scoring.scores(network.tensors, analysis.groups, statistics)
    shares = tuple(k / (points + 1) for k in range(1, points + 1))
    with _timed(network, example, asked) as ms:
        measure = _Measure(network, analysis, example, images)
        curves, skipped = _curves(measure, scores, shares, asked.watch)
    number, accuracy = None if images is None else len(images), measure.accuracy
    found = tuple(curves), tuple(skipped)
    return Sensitivity(asked.criterion, number, accuracy, shares, *found, ms)


def _timed(
    network: Network, example: tuple[Any, ...], asked: SensitivityArguments
) -> AbstractContextManager[float | None]:
    """What a run takes, in ms; within the block the time of each cut is known."""
    if not asked.latency:
        return nullcontext()
    from slimnet.timing.measured import timed  # which imports the runtime

    return timed(network, example, batch=asked.batch, outputs=asked.outputs, watch=asked.watch)


def _curves(
    measure: _Measure, scores: Mapping[int, Scores], shares: Sequence[float], watch: Progress
) -> tuple[list[Curve], list[tuple[str, str]]]:
    """The groups that have one, and why the others have none."""
    curves, skipped = [], []
    chosen = [group for group in measure.analysis.groups if group.number in scores]
    for place, group in enumerate(chosen):
        watch(group.layers[0], place / len(chosen))
        points = _points(measure, group, scores, shares)
        if isinstance(points, str):
            skipped.append((group.layers[0], points))
        else:
            inexact = bool(group.approximate)
            curves.append(Curve(group.number, group.layers, group.width, inexact, points))
    return curves, skipped


def _points(
    measure: _Measure, group: Group, scores: Mapping[int, Scores], shares: Sequence[float]
) -> tuple[Point, ...] | str:
    """The curve of one group, or why there is none."""
    widths = [max(round(group.size * (1 - share)), 1) for share in shares]
    points = []
    for width in sorted(set(widths) - {group.size}, reverse=True):
        try:
            removed = removed_atoms([group], scores, {group.number: width})
            damage = measure.cut(group, removed)
        except Exception as error:  # an approximate cut runs the slim network's own forward
            return f"the slim network does not run: {str(error).strip().splitlines()[0]}"
        channels = group.width - int(group.channels[removed[group.number]].sum())
        share = 1 - width / group.size
        points.append(Point(channels, share, damage.error, damage.accuracy, damage.ms))
    return tuple(points)


@dataclass(frozen=True)
class _Damage:
    """What narrower costs."""

    error: float
    accuracy: float | None
    ms: float | None = None


class _Measure:
    """Runs networks on the same images and compares with the dense one."""

    def __init__(
        self,
        network: Network,
        analysis: Analysis,
        example: tuple[Any, ...],
        images: Samples | None,
    ) -> None:
        self.network = network
        self.analysis = analysis
        self.example = example
        self.images = images if images is None else fitting(network, images)
        self.working = Network.of(copied(network))
        dense = self._dense()
        self.reference = [self._numbers(outputs) for outputs, _ in dense]
        _check_finite(x for numbers in self.reference for x in numbers)
        self.accuracy = self._percent(sum(_right(*batch) for batch in dense))

    def _dense(self) -> list[tuple[Any, Tensor | None]]:
        try:
            return list(self._run(self.network))
        except Exception as error:  # whatever the user's forward raises
            shapes = () if self.images is None else self.images.shapes
            listed = ", ".join(str(list(shape[1:])) for shape in shapes) or "[]"
            why = first_line(error)
            raise InputError(f"the network does not run on images of {listed}: {why}") from error

    def cut(self, group: Group, removed: Mapping[int, Any]) -> _Damage:
        """Without these atoms of one group."""
        coupling, layers = self.analysis.coupling, self.analysis.layers
        plan = make_plan(coupling, [group], layers, removed)
        return replace(self._damage(group, plan), ms=self._ms(plan))

    def _damage(self, group: Group, plan: Plan) -> _Damage:
        if not group.approximate:
            with _zeroed(self.working.parameters, plan):
                return self._compared(self.working)
        coupling = self.analysis.coupling
        slim = Network.of(rebuild(self.network, plan))
        context = CutContext(self.analysis.traces[0], coupling, plan)
        fold_constants(self.network.tensors, slim, context, self.example)
        return self._compared(slim)

    def _ms(self, plan: Plan) -> float | None:
        """Of a run of what a plan leaves; None where time is no cost."""
        survival = surviving(self.analysis.coupling, plan)
        return self._costs.cost(survival).amounts.get("latency")

    @cached_property
    def _costs(self) -> CostModel:
        return CostModel(self.network, self.analysis.traces[0], self.analysis.coupling)

    def _compared(self, network: Network) -> _Damage:
        squared = total = 0.0
        right = 0
        for (outputs, labels), dense in zip(self._run(network), self.reference, strict=True):
            for a, b in zip(dense, self._numbers(outputs), strict=True):
                squared += _squares(a, b)
                total += _squares(a) if a.is_floating_point() else a.numel()
            right += _right(outputs, labels)
        return _Damage(float(np.sqrt(squared / max(total, 1e-300))), self._percent(right))

    def _numbers(self, outputs: Any) -> list[Tensor]:
        return numbers_of(outputs, self.analysis.traces[0].wanted)

    def _percent(self, right: int) -> float | None:
        if self.images is None or self.images.labels is None or self.images.loss:
            return None
        return 100 * right / len(self.images)

    def _run(self, network: Network) -> Iterator[tuple[Any, Tensor | None]]:
        """Outputs, and labels where there are any, batch by batch."""
        with torch.no_grad(), evaluation_mode(network):
            if self.images is None:
                yield network.model(*self.example), None
                return
            for batch in self.images.batches(BATCH):
                yield network.model(*batch.inputs), batch.labels


def _right(outputs: Any, labels: Tensor | None) -> int:
    """How many images got their own label; 0 without labels."""
    if not isinstance(labels, Tensor):
        return 0
    scores = tensors_of(outputs)[0]
    if scores.dim() != 2:
        raise InputError(
            f"accuracy needs one score per class [N, classes], and this network gives "
            f"{list(scores.shape)}: give images without labels"
        )
    check_labels(labels, scores.shape[1])
    return int((scores.argmax(1) == labels).sum())


def _squares(a: Tensor, b: Tensor | None = None) -> float:
    """Of a, or of its difference to b, summed; of whole numbers, how many differ."""
    if b is not None and not a.is_floating_point():
        return float((a != b).sum())
    a = a.double()
    return float((a if b is None else a - b.double()).square().sum())


def _check_finite(numbers: Iterable[Tensor]) -> None:
    if not all(bool(x.isfinite().all()) for x in numbers):
        raise InputError(
            "the network gives NaN or infinite outputs, and no change of them can be measured: "
            "give images that are normalised as it takes them"
        )


@contextmanager
def _zeroed(working: Mapping[str, Tensor], plan: Plan) -> Iterator[None]:
    """Inside, the removed elements of the working copy's parameters are zero."""
    chosen = {name: tensor for name, tensor in working.items() if name in plan.removed}
    before = {name: tensor.detach().clone() for name, tensor in chosen.items()}
    try:
        for name, tensor in chosen.items():
            zero_removed(name, tensor.data, plan)
        yield
    finally:
        for name, tensor in chosen.items():
            tensor.data.copy_(before[name])
