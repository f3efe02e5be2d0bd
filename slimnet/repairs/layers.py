"""Layer by layer in forward order, the slim network gets the weights that suit the original best.

The original is the user's network, also where blocks have left: the layers after a block make up
for it. Both networks run through all batches in lockstep. At each layer, least squares is solved
for the layer's own weights: its inputs are the slim network's, its targets are the original's
outputs. Then the layer is refined together with the layers before it that only it reads. The layers
that follow read what the new weights make: nothing is run twice but the few calls of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from slimnet.capture.graph import Call
from slimnet.example import is_read
from slimnet.network import Network
from slimnet.plan.plan import Plan
from slimnet.plan.rebuild import without_blocks
from slimnet.progress import Progress
from slimnet.reconstruction.consumers import Consumer, consumers_of
from slimnet.reconstruction.forms import Form, Places
from slimnet.reconstruction.least_squares import fit_of
from slimnet.reconstruction.lockstep import Stop, Walk, together, walking
from slimnet.reconstruction.refine import ROWS, WORTH, Part, Whitening, refined
from slimnet.reconstruction.segments import Segment, aligned, segments_of
from slimnet.repairs.ahead import Feature, Networks
from slimnet.repairs.heads import head_mixings
from slimnet.repairs.wanted import Wanted, can_be_wanted, start_weight, wanted_of
from slimnet.samples import Samples
from slimnet.statistics.moments import overflow, recorded, rows_grid

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
"""Of the inputs' tensors."""

LEAST_ROWS = 1 << 16
"""Of least squares, as far as there are as many."""
SMALL = 1e-9
"""A layer whose error, over its output's variance, is below this is left as it is."""


@dataclass(frozen=True)
class LayerRepair:
    """One layer: its error over the variance of its output, on the images that were solved for."""

    layer: str
    before: float
    after: float
    refined: bool = False  # with the layers before it, after that


class LayerwiseRepair:
    """Writes new weights into a slim network while it and the original run through the batches."""

    def __init__(
        self,
        network: Network,
        slim: Network,
        plan: Plan,
        fitted: Sequence[Samples],
        measured: Sequence[Samples],
        *,
        refine: bool,
    ) -> None:
        """``fitted``: batches that are solved for; ``measured``: batches that check refinements."""
        self._networks = (network, slim)
        self._plan = plan
        self._batches = [*measured, *fitted]
        self._held = len(measured)
        shorter = without_blocks(network, plan)
        self._whole = recorded(network, fitted[0])
        self._trace = self._whole if shorter is network else recorded(shorter, fitted[0])
        self._shapes = network.shapes
        self._tensors = slim.tensors
        originals = {c.weight: c for c in consumers_of(self._whole)}
        consumers = [
            c
            for c in consumers_of(self._trace)
            if c.weight in originals and can_be_wanted(c, plan, self._shapes[c.weight])
        ]
        self._consumers = {c.call.index: c for c in consumers}
        self._originals = {c.call.index: originals[c.weight] for c in consumers}
        self._passes = self._aligned_passes(slim)
        self._segments = self._cut_segments() if refine and self._passes else {}
        self._whitenings: dict[str, Whitening] = {}
        self._mixings = head_mixings(network, self._whole, self._originals.values(), plan, fitted)

    def _aligned_passes(self, slim: Network) -> dict[Shapes, list[Call]]:
        """The slim network's calls, by a batch's shapes; empty where one of them does not align."""
        firsts = {batch.shapes: batch for batch in self._batches}
        passes = {size: aligned(self._trace, recorded(slim, x)) for size, x in firsts.items()}
        if any(calls is None for calls in passes.values()):
            return {}
        return {size: calls for size, calls in passes.items() if calls is not None}

    def _cut_segments(self) -> dict[int, Segment]:
        """The segments of the slim network."""
        return segments_of(self._trace, self._narrow())

    @property
    def networks(self) -> Networks:
        """Both, with their passes, as :func:`slimnet.repairs.ahead.look_ahead` takes them."""
        return Networks(*self._networks, self._whole, self._trace)

    def features(self) -> list[Feature]:
        """The streams after every sum, or each layer's output where there are none; the outputs.

        Nothing where the slim network's calls are not the original's.
        """
        if not self._passes:
            return []
        streams: dict[int, Feature] = {}
        layers: dict[int, Feature] = {}
        for index, layer in self._narrow().items():
            original = self._originals[index]
            wanted, axis = self._wanted(layer, layer.form), layer.form.axis
            if wanted.is_selection:
                layers[index] = Feature(index, original.call.index, axis, wanted.left)
            if layer.total is not None and original.total is not None:
                places = layer.total.index, original.total.index
                streams[layer.total.index] = Feature(*places, axis, wanted.left)
        return list(((streams or layers) | self._outputs()).values())

    def _narrow(self) -> dict[int, Consumer]:
        """The layers as they are in the slim network, where they may have fewer groups."""
        cut = self._pass(0)
        return {i: replace(c, form=c.form_of(cut[i].args)) for i, c in self._consumers.items()}

    def _outputs(self) -> dict[int, Feature]:
        """The outputs that are read, as far as they are real numbers that a call makes first."""
        made, originally = self._trace.graph.made, self._whole.graph.made
        found = {}
        pairs = zip(self._trace.outputs, self._whole.outputs, strict=True)
        for name, (ref, other) in zip(self._trace.names, pairs, strict=True):
            if not is_read(name, self._plan.outputs):  # it may have lost channels
                continue
            call, original = made.get(ref.id), originally.get(other.id)
            if call is None or original is None or not ref.dtype.is_floating_point:
                continue
            if call.outputs[0] is ref and original.outputs[0] is other:
                found[call.index] = Feature(call.index, original.index)
        return found

    def run(self, generator: torch.Generator, watch: Progress) -> list[LayerRepair]:
        """Repair every layer; ``generator`` draws the places that are looked at."""
        stops = {i: _other(c) | self._kept_for(i) for i, c in self._consumers.items()}
        walks = self._walks(stops)
        repairs: list[LayerRepair] = []
        with torch.no_grad(), walking([*walks[0], *walks[1]], self._networks):
            self._start_mixed()
            for original, slim in together(self._trace, stops, *walks, least=self._held + 1):
                consumer = self._consumers[slim[0].call.index]
                watch(f"repairing {consumer.weight}", len(repairs) / len(self._consumers))
                repairs.append(self._repair(consumer, original, slim, generator))
        return repairs

    def _start_mixed(self) -> None:
        """Give the layers around narrower heads the weights that their repair starts from."""
        original, mixings = self._networks[0].tensors, self._mixings
        for layer in self._originals.values():
            name, columns = layer.weight, mixings.columns.get(layer.weight, ())
            if name in mixings.outputs or columns:
                wanted = self._wanted(layer, layer.form)
                weight = start_weight(layer, wanted, self._plan, original[name], columns)
                self._tensors[name].copy_(weight)
                if (bias := layer.constants) is not None:
                    self._tensors[bias].copy_(wanted.of(original[bias].detach()[None])[0])

    def _wanted(self, layer: Consumer, form: Form) -> Wanted:
        mixings = self._mixings.outputs.get(layer.weight, ())
        return wanted_of(layer, form, self._plan, self._shapes[layer.weight], mixings)

    def _walks(self, stops: Mapping[int, frozenset[int]]) -> tuple[list[Walk], list[Walk]]:
        """The original's passes, which wait after a layer, and the slim network's, before it."""
        original, slim = (network.model for network in self._networks)
        whole = {c.call.index: _other(c) for c in self._originals.values()}
        places = {i: c.call.index for i, c in self._originals.items()}
        outputs = [
            Walk(original, batch.inputs, self._whole, whole, after=True, places=places)
            for batch in self._batches
        ]
        inputs = [
            Walk(slim, batch.inputs, self._trace, stops, after=False) for batch in self._batches
        ]
        return outputs, inputs

    def _kept_for(self, index: int) -> frozenset[int]:
        """What must be kept for the segment that ends at a call; images need not."""
        segment = self._segments.get(index)
        images = {ref.id for ref in self._trace.inputs}
        return (segment.inputs | segment.hidden) - images if segment else frozenset()

    def _repair(
        self,
        consumer: Consumer,
        original: Sequence[Stop],
        slim: Sequence[Stop],
        generator: torch.Generator,
    ) -> LayerRepair:
        whole = self._originals[consumer.call.index]
        form = consumer.form_of(slim[0].args)
        layer = _LayerProblem(consumer, whole, form, self._wanted(consumer, form), self._tensors)
        repaired = layer.repair(original, slim, self._held, generator)
        if layer.whitening is not None:
            self._whitenings[consumer.weight] = layer.whitening
        segment = self._segments.get(consumer.call.index)
        if segment is not None and repaired.after > WORTH:
            repaired = replace(repaired, refined=self._refine(segment, layer, original, slim))
        self._forget(consumer.call.index)
        return repaired

    def _refine(
        self,
        segment: Segment,
        layer: _LayerProblem,
        original: Sequence[Stop],
        slim: Sequence[Stop],
    ) -> bool:
        """Change the layers of a segment together; whether that brought the last one nearer."""
        values = [self._values(segment, n, stop) for n, stop in enumerate(slim)]
        if not _reproduces(segment, layer, self._pass(0), values[0], slim[0], self._tensors):
            return False

        def part(n: int) -> Part:
            return Part(self._pass(n), values[n], layer.targets(original[n], slim[n]))

        checks = [part(n) for n in range(self._held)]
        parts: list[Part] = []
        for n in range(self._held, len(slim)):
            parts.append(part(n))
            if sum(len(part.targets) for part in parts) >= ROWS:
                break
        updates = refined(segment, parts, checks, self._tensors, self._whitenings, layer.scale)
        for update in updates:
            self._tensors[update.layer.weight].add_(update.weight)
            if update.constants is not None:
                add_constants(update.layer, self._tensors, update.constants)
        if updates:
            self._rerun(segment, values, slim)
        return bool(updates)

    def _rerun(
        self, segment: Segment, values: Sequence[Mapping[int, Tensor]], slim: Sequence[Stop]
    ) -> None:
        """Run a segment with its new weights, and write what layers read of it into the passes."""
        for n, stop in enumerate(slim):
            results = segment.before.run(self._pass(n), values[n], self._tensors, {})
            for number in segment.hidden:
                stop.kept[number].copy_(results[number])

    def _pass(self, n: int) -> Sequence[Call]:
        return self._passes[self._batches[n].shapes]

    def _values(self, segment: Segment, n: int, stop: Stop) -> dict[int, Tensor]:
        """The inputs of the segment in one batch."""
        numbers = [ref.id for ref in self._trace.inputs]
        given = dict(zip(numbers, self._batches[n].tensors, strict=True))
        return {n: given[n] if n in given else stop.kept[n] for n in segment.inputs}

    def _forget(self, index: int) -> None:
        """Drop the whitenings that no later segment needs."""
        later = {
            layer.weight
            for other, segment in self._segments.items()
            if other > index
            for layer in segment.layers
        }
        self._whitenings = {k: v for k, v in self._whitenings.items() if k in later}


def _other(consumer: Consumer) -> frozenset[int]:
    """The number of the stream that its output is added to."""
    return frozenset([consumer.other.id] if consumer.other else [])


def _reproduces(
    segment: Segment,
    layer: _LayerProblem,
    recorded: Sequence[Call],
    values: Mapping[int, Tensor],
    stop: Stop,
    tensors: Mapping[str, Tensor],
) -> bool:
    """Whether the segment, run by itself, gives its last layer the same input as the network."""
    call = layer.consumer.call
    results = segment.before.run(recorded, values, tensors, {})
    again = results[call.args[layer.consumer.place].id]
    actual: Tensor = stop.args[layer.consumer.place]
    return again.shape == actual.shape and torch.allclose(
        again, actual, rtol=_SAME, atol=_SAME * float(actual.abs().max())
    )


_SAME = 1e-3


class _LayerProblem:
    """One layer's least-squares problem, and where its solution goes."""

    def __init__(
        self,
        consumer: Consumer,
        original: Consumer,
        form: Form,
        wanted: Wanted,
        tensors: Mapping[str, Tensor],
    ) -> None:
        """``original``: the same layer in the original's pass; ``form``: in the slim network."""
        self.consumer = consumer
        self._others = original.other, consumer.other
        self.form = form
        self.scale = consumer.norm.scale(tensors) if consumer.norm is not None else None
        self.whitening: Whitening | None = None
        self._moved = torch.zeros(())  # [O]: constants that the norm after it has taken up
        self._tensors = tensors
        self._weight = tensors[consumer.weight]
        self._wanted = wanted

    def repair(
        self,
        original: Sequence[Stop],
        slim: Sequence[Stop],
        held: int,
        generator: torch.Generator,
    ) -> LayerRepair:
        """Solve, and write the solution into the slim network.

        The first ``held`` passes are not solved for: where there are few rows, as much is changed
        as they confirm.
        """
        name, old = self.consumer.weight, self.form.matrix(self._weight).double()
        fit = fit_of(old, self._constants(old))
        places = rows_grid(original[held:], old.shape[2], generator, least=LEAST_ROWS)
        for rows, targets in self._rows(original[held:], slim[held:], places):
            fit.add(rows, targets)
        before = fit.error()
        if not fit.finite:
            raise overflow(name)
        change, constants = fit.solve(constant=self.consumer.shifts)
        if fit.lower is not None:
            self.whitening = self._whitening(fit.lower, fit.mean)
        if before < SMALL:
            return LayerRepair(name, before, before)
        if not fit.certain:
            others = self._rows(original[:held], slim[:held], places)
            part = fit.confirmed(change, constants, others)
            change, constants = part[:, :, None] * change, part * constants
        self._weight.add_(self.form.weight(change, self._weight.shape))
        add_constants(self.consumer, self._tensors, constants.flatten())
        if self.consumer.bias is None:
            self._moved = constants.flatten()
        return LayerRepair(name, before, fit.error(change, constants))

    def _rows(
        self,
        original: Sequence[Stop],
        slim: Sequence[Stop],
        places: Callable[[Stop], Places],
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The layer's inputs and its targets, piece by piece."""
        for whole, cut in zip(original, slim, strict=True):
            inputs = cut.args[self.consumer.place]
            for rows, *parts in self.form.pieces(inputs, places(whole), *self._outputs(whole, cut)):
                yield rows, self._targets(*parts)

    def _whitening(self, lower: Tensor, mean: Tensor) -> Whitening:
        kind, groups = self._weight.dtype, len(lower)
        units = torch.ones(len(self._wanted.left)) if self.scale is None else 1 / _sound(self.scale)
        return Whitening(
            lower.to(kind),
            mean.to(kind) if self.consumer.shifts else None,
            units.to(lower.device, kind).reshape(groups, -1),
        )

    def targets(self, original: Stop, slim: Stop) -> Tensor:
        """[n, O]: the targets of one batch, at every place, times the scale."""
        outputs = (self.form.outputs(y, None) for y in self._outputs(original, slim))
        targets = self._targets(*outputs)
        targets = targets - self._moved.to(targets.dtype)
        return targets if self.scale is None else targets * self.scale.to(targets.dtype)

    def _outputs(self, original: Stop, slim: Stop) -> list[Tensor]:
        """The original's output, and the stream that it is added to, in both networks."""
        whole, cut = self._others
        if whole is None or cut is None:
            return [original.result]
        return [original.result, original.kept[whole.id], slim.kept[cut.id]]

    def _targets(
        self, output: Tensor, whole: Tensor | None = None, cut: Tensor | None = None
    ) -> Tensor:
        """[n, O]: the original's output, and the error of the stream that this is added to.

        ``whole`` and ``cut``: that stream in the original and in the slim network.
        """
        output = self._wanted.of(output)
        if whole is None or cut is None:
            return output
        error = self._wanted.channels(whole) - cut
        if self.scale is not None:  # it is added after the norm
            error = error * (1 / _sound(self.scale)).to(error.dtype)
        return output + error

    def _constants(self, matrix: Tensor) -> Tensor:
        """[G, O]."""
        if self.consumer.bias is None:
            return matrix.new_zeros(matrix.shape[:2])
        return self._tensors[self.consumer.bias].double().reshape(matrix.shape[:2])


def _sound(scale: Tensor) -> Tensor:
    """Infinite where it is almost nothing, so that nothing is divided by it."""
    return scale.masked_fill(scale.abs() < 1e-3 * scale.abs().max(), torch.inf)


def add_constants(consumer: Consumer, tensors: Mapping[str, Tensor], constants: Tensor) -> None:
    """To the outputs of a layer [O]: in its bias, or in the batch norm after it."""
    if consumer.constants is not None:
        tensors[consumer.constants].add_(constants)
    elif consumer.norm is not None:
        tensors[consumer.norm.mean].sub_(constants)
