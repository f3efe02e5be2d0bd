"""Layer by layer in forward order, the slim network gets weights that say what the original says.

The original is the user's network, also where blocks have left: what follows them makes up for it.
Both networks walk through all batches at once. At each layer least squares is solved for its own
weights; where only some layers speak to it, they are then refined with it. What follows reads what
the changed layers say: nothing is run twice but the few calls of a segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slimnet.capture.graph import Call
from slimnet.network import Network
from slimnet.plan.plan import Plan
from slimnet.plan.rebuild import without_blocks
from slimnet.progress import Progress
from slimnet.reconstruction.consumers import Consumer, consumers_of
from slimnet.reconstruction.forms import Places
from slimnet.reconstruction.least_squares import fit_of
from slimnet.reconstruction.lockstep import Stop, Walk, together, walking
from slimnet.reconstruction.refine import ROWS, WORTH, Part, Whitening, refined
from slimnet.reconstruction.segments import Segment, aligned, segments_of
from slimnet.statistics.moments import overflow, recorded, rows_grid

LEAST_ROWS = 1 << 16
"""Of least squares, as far as there are as many."""
SMALL = 1e-9
"""A layer whose error, over its output's variance, is below this is left as it is."""


@dataclass(frozen=True)
class Mended:
    """One layer: its error over the variance of its output, on the images that were solved for."""

    layer: str
    before: float
    after: float
    refined: bool = False  # with the layers before it, after that


class Mending:
    """Writes new weights into a slim network while it and the original walk through the batches."""

    def __init__(
        self,
        network: Network,
        slim: Network,
        plan: Plan,
        fitted: Sequence[Tensor],
        measured: Sequence[Tensor],
        *,
        refine: bool,
    ) -> None:
        """``fitted``: batches that are solved for; ``measured``: batches that refinements face."""
        self._networks = (network, slim)
        self._plan = plan
        self._batches = [*measured, *fitted]
        self._held = len(measured)
        shorter = without_blocks(network, plan)
        self._whole = recorded(network, fitted[0])
        self._trace = self._whole if shorter is network else recorded(shorter, fitted[0])
        self._shapes = network.shapes
        self._tensors = slim.tensors
        theirs = {c.weight: c for c in consumers_of(self._whole)}
        found = [c for c in consumers_of(self._trace) if c.weight in theirs.keys() - plan.scaled]
        self._consumers = {c.call.index: c for c in found}
        self._originals = {c.call.index: theirs[c.weight] for c in found}
        firsts = {len(batch): batch for batch in self._batches}
        passes = {size: aligned(self._trace, recorded(slim, x)) for size, x in firsts.items()}
        self._passes = {size: calls for size, calls in passes.items() if calls is not None}
        self._segments: dict[int, Segment] = {}
        if refine and len(self._passes) == len(passes):
            cut = self._pass(0)
            narrow = {
                i: replace(c, form=c.form_of(cut[i].args)) for i, c in self._consumers.items()
            }
            self._segments = segments_of(self._trace, narrow)
        self._whitenings: dict[str, Whitening] = {}

    def run(self, generator: torch.Generator, watch: Progress) -> list[Mended]:
        """Mend every layer; ``generator`` draws the places that are looked at."""
        ours = {i: _other(c) | self._followed(i) for i, c in self._consumers.items()}
        theirs = {c.call.index: _other(c) for c in self._originals.values()}
        places = {i: c.call.index for i, c in self._originals.items()}
        model, slim = (network.model for network in self._networks)
        says = [
            Walk(model, (b,), self._whole, theirs, after=True, places=places) for b in self._batches
        ]
        reads = [Walk(slim, (b,), self._trace, ours, after=False) for b in self._batches]
        done: list[Mended] = []
        with torch.no_grad(), walking([*says, *reads], self._networks):
            for said, read in together(self._trace, ours, says, reads, least=self._held + 1):
                consumer = self._consumers[read[0].call.index]
                watch(f"repairing {consumer.weight}", len(done) / len(self._consumers))
                done.append(self._mend(consumer, said, read, generator))
        return done

    def _followed(self, index: int) -> frozenset[int]:
        """What must be kept for the segment that ends at a call; images need not."""
        segment = self._segments.get(index)
        images = {ref.id for ref in self._trace.inputs}
        return (segment.given | segment.heard) - images if segment else frozenset()

    def _mend(
        self,
        consumer: Consumer,
        said: Sequence[Stop],
        read: Sequence[Stop],
        generator: torch.Generator,
    ) -> Mended:
        original = self._originals[consumer.call.index]
        layer = _Layer(consumer, original, read[0], self._plan, self._shapes, self._tensors)
        mended = layer.mend(said, read, self._held, generator)
        if layer.whitening is not None:
            self._whitenings[consumer.weight] = layer.whitening
        segment = self._segments.get(consumer.call.index)
        if segment is not None and mended.after > WORTH:
            mended = replace(mended, refined=self._refine(segment, layer, said, read))
        self._forget(consumer.call.index)
        return mended

    def _refine(
        self, segment: Segment, layer: _Layer, said: Sequence[Stop], read: Sequence[Stop]
    ) -> bool:
        """Whether the layers that speak to this one could be changed to its good."""
        parts: list[Part] = []
        values = [self._values(segment, n, stop) for n, stop in enumerate(read)]
        if not _follows(segment, layer, self._pass(0), values[0], read[0], self._tensors):
            return False

        def part(n: int) -> Part:
            return Part(self._pass(n), values[n], layer.scaled(said[n], read[n]))

        checks = [part(n) for n in range(self._held)]
        for n in range(self._held, len(read)):
            parts.append(part(n))
            if sum(len(part.wanted) for part in parts) >= ROWS:
                break
        changes = refined(segment, parts, checks, self._tensors, self._whitenings, layer.scale)
        for change in changes:
            self._tensors[change.layer.weight].add_(change.weight)
            if change.constants is not None:
                add_constants(change.layer, self._tensors, change.constants)
        if changes:
            for n, stop in enumerate(read):
                made = segment.before.run(self._pass(n), values[n], self._tensors, {})
                for number in segment.heard:
                    stop.kept[number].copy_(made[number])
        return bool(changes)

    def _pass(self, n: int) -> Sequence[Call]:
        return self._passes[len(self._batches[n])]

    def _values(self, segment: Segment, n: int, stop: Stop) -> dict[int, Tensor]:
        """What the segment is given in one batch."""
        images = {ref.id: self._batches[n] for ref in self._trace.inputs}
        return {n: images[n] if n in images else stop.kept[n] for n in segment.given}

    def _forget(self, index: int) -> None:
        """Whitenings that no later segment needs."""
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


def _follows(
    segment: Segment,
    layer: _Layer,
    recorded: Sequence[Call],
    values: Mapping[int, Tensor],
    stop: Stop,
    tensors: Mapping[str, Tensor],
) -> bool:
    """Whether the segment, run by itself, gives its last layer what the network gave it."""
    call = layer.consumer.call
    made = segment.before.run(recorded, values, tensors, {})
    again = made[call.args[layer.consumer.place].id]
    given: Tensor = stop.args[layer.consumer.place]
    return again.shape == given.shape and torch.allclose(
        again, given, rtol=_SAME, atol=_SAME * float(given.abs().max())
    )


_SAME = 1e-3


class _Layer:
    """One layer's least-squares problem, and where its solution goes."""

    def __init__(
        self,
        consumer: Consumer,
        original: Consumer,
        stop: Stop,
        plan: Plan,
        shapes: Mapping[str, Sequence[int]],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """``original``: the same layer in the original's pass."""
        self.consumer = consumer
        self._others = original.other, consumer.other
        self.form = consumer.form_of(stop.args)
        self.scale = consumer.norm.scale(tensors) if consumer.norm is not None else None
        self.whitening: Whitening | None = None
        self.beyond = torch.zeros(())  # [O]: what the norm after it adds to its answer since
        self._tensors = tensors
        self._weight = tensors[consumer.weight]
        self._kept = self._left(plan, shapes[consumer.weight]).to(self._weight.device)

    def _left(self, plan: Plan, shape: Sequence[int]) -> Tensor:
        """[O]: the output channels of the original that are left, in the slim network's order."""
        places = self.consumer.form.answers(shape)
        places = plan.of(self.consumer.weight).select(places)
        return self.form.matrix(places)[:, :, 0].flatten()

    def mend(
        self, said: Sequence[Stop], read: Sequence[Stop], held: int, generator: torch.Generator
    ) -> Mended:
        """Solve, and write the solution into the slim network.

        The first ``held`` passes are not solved for: where there are few rows, as much is changed
        as they confirm.
        """
        name, old = self.consumer.weight, self.form.matrix(self._weight).double()
        fit = fit_of(old, self._constants(old))
        places = rows_grid(said[held:], old.shape[2], generator, least=LEAST_ROWS)
        for rows, wanted in self._rows(said[held:], read[held:], places):
            fit.add(rows, wanted)
        before = fit.error()
        if not fit.finite:
            raise overflow(name)
        change, constants = fit.solve(constant=self.consumer.shifts)
        if fit.lower is not None:
            self.whitening = self._whitening(fit.lower, fit.mean)
        if before < SMALL:
            return Mended(name, before, before)
        if not fit.certain:
            others = self._rows(said[:held], read[:held], places)
            part = fit.confirmed(change, constants, others)
            change, constants = part[:, :, None] * change, part * constants
        self._weight.add_(self.form.weight(change, self._weight.shape))
        add_constants(self.consumer, self._tensors, constants.flatten())
        if self.consumer.bias is None:
            self.beyond = constants.flatten()
        return Mended(name, before, fit.error(change, constants))

    def _rows(
        self, said: Sequence[Stop], read: Sequence[Stop], places: Places
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """What it reads, and what it should say of that, piece by piece."""
        for theirs, ours in zip(said, read, strict=True):
            given = ours.args[self.consumer.place]
            for rows, *parts in self.form.pieces(given, places, *self._says(theirs, ours)):
                yield rows, self._wanted(*parts)

    def _whitening(self, lower: Tensor, mean: Tensor) -> Whitening:
        kind, groups = self._weight.dtype, len(lower)
        units = torch.ones(len(self._kept)) if self.scale is None else 1 / _sound(self.scale)
        return Whitening(
            lower.to(kind),
            mean.to(kind) if self.consumer.shifts else None,
            units.to(lower.device, kind).reshape(groups, -1),
        )

    def scaled(self, theirs: Stop, ours: Stop) -> Tensor:
        """[n, O]: what it should say in one batch, everywhere, times the scale."""
        wanted = self._wanted(*(self.form.outputs(y, None) for y in self._says(theirs, ours)))
        wanted = wanted - self.beyond.to(wanted.dtype)
        return wanted if self.scale is None else wanted * self.scale.to(wanted.dtype)

    def _says(self, theirs: Stop, ours: Stop) -> list[Tensor]:
        """What the original says, and the stream that it is added to, there and here."""
        whole, cut = self._others
        if whole is None or cut is None:
            return [theirs.result]
        return [theirs.result, theirs.kept[whole.id], ours.kept[cut.id]]

    def _wanted(
        self, said: Tensor, whole: Tensor | None = None, cut: Tensor | None = None
    ) -> Tensor:
        """[n, O]: what the original says, and what the stream lacks that this is added to."""
        said = said.index_select(1, self._kept)
        if whole is None or cut is None:
            return said
        lacks = whole.index_select(1, self._kept) - cut
        if self.scale is not None:  # it is added after the norm
            lacks = lacks * (1 / _sound(self.scale)).to(lacks.dtype)
        return said + lacks

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
    if consumer.bias is not None:
        tensors[consumer.bias].add_(constants)
    elif consumer.norm is not None:
        tensors[consumer.norm.mean].sub_(constants)
