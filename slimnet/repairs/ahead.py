"""Repair that looks ahead: all weights together, towards the original's streams and outputs.

Layer by layer, each makes the best of what it is given, and nothing knows what later layers need.
So afterwards all parameters are trained for a few passes over the same images, without labels:
after every sum each residual stream is to be the original's (where there are no streams, each
layer's output), and so are the outputs. Each error counts over its target's variance. Step sizes
are relative to the size of each parameter, as in Adafactor (Shazeer and Stern 2018), so that no
rate has to be chosen for a network; the steps are those of Adam.

Samples that are held back decide which pass was best, and whether anything changes at all. They
must be several, and the gain clear: a hundredth on six samples was a loss of a quarter on new ones
(toy networks).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from slimnet.capture.graph import Call
from slimnet.capture.trace import Trace
from slimnet.network import Network
from slimnet.progress import Progress
from slimnet.reconstruction.lockstep import Walk, together, walking
from slimnet.reconstruction.segments import Segment, aligned, whole_of
from slimnet.samples import Samples
from slimnet.statistics.moments import batch_of, recorded

PASSES = 6
"""Over the images."""
RATE = 0.02
"""The largest step of a parameter, in parts of its root mean square."""
SMALLEST = 1e-3
"""Root mean square that is counted at least, so that what is zero can move."""
WARM = 10
"""Steps until that rate is reached; then it falls as half a cosine."""
BATCH = 64
"""Samples at most; fewer large ones, as in the passes layer by layer."""
NUMBERS = 1 << 11
"""Of what one sample has of a feature, so many numbers are compared, at random places."""
HELD = 16
"""Samples that must be held back at least."""
CLEAR = 0.98
"""Of the error before, so much must be left at most: less of a gain may be luck."""
_SAME = 1e-3
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Feature:
    """The first result of a call, which is to be the original's."""

    call: int  # its number in the slim network's pass
    original: int  # and in the original's
    axis: int = 0  # of its channels
    left: Tensor | None = None  # [channels] int64: those of the original that are left, if cut

    def of_original(self, result: Tensor) -> Tensor:
        """What is left of the original's result."""
        if self.left is None:
            return result
        return result.index_select(self.axis, self.left.to(result.device))


@dataclass(frozen=True, eq=False)
class Networks:
    """The original and the slim network with their passes."""

    original: Network
    slim: Network
    whole: Trace  # the original's pass
    trace: Trace  # the same without dropped blocks: on its tensors stand the slim network's calls


@dataclass(frozen=True, eq=False)
class _Part:
    """One batch, and what is wanted of each feature in it, by the number of its call."""

    calls: Sequence[Call]
    values: Mapping[int, Tensor]  # the network's inputs, by the tensors' numbers
    targets: Mapping[int, Tensor]  # [rows, numbers]: at some places
    places: Mapping[int, Tensor]
    spreads: Mapping[int, float]  # the squared distances of the targets from their mean, summed


def look_ahead(
    networks: Networks,
    features: Sequence[Feature],
    fitted: Samples,
    measured: Samples,
    generator: torch.Generator,
    watch: Progress,
) -> bool:
    """Train the slim network's parameters in place; whether that was clearly better, else none.

    Args:
        networks: the original stays as it is.
        features: what is compared.
        fitted: samples to train on.
        measured: samples that decide which pass over them was best.
        generator: draws places and the order of batches.
        watch: told how far it is.
    """
    segment = whole_of(networks.trace)
    if segment is None or not features or len(measured) < HELD:
        return False
    size = min(BATCH, batch_of(fitted))
    reader = _Reader(networks, features, generator)
    checks = [reader.part(batch) for batch in measured.batches(size)]
    if not all(reader.is_reproduced(segment, *pair) for pair in checks):
        return False
    parts = [reader.part(batch)[1] for batch in fitted.batches(size)]
    training = _Training(segment, networks.slim, len(parts))
    best, least = None, CLEAR * training.error([part for _, part in checks])
    for number in range(PASSES):
        watch("repairing all layers together", number / PASSES)
        for n in torch.randperm(len(parts), generator=generator).tolist():
            training.step(parts[n])
        error = training.error([part for _, part in checks])
        if error < least:
            best, least = training.parameters(), error
    with torch.no_grad():
        for name, values in (best or {}).items():
            networks.slim.tensors[name].copy_(values)
    return best is not None


class _Reader:
    """Runs both networks over batches, and reads the features."""

    def __init__(
        self, networks: Networks, features: Sequence[Feature], generator: torch.Generator
    ) -> None:
        self._networks = networks
        self._features = features
        self._generator = generator
        self._passes: dict[Any, list[Call] | None] = {}
        self._places: dict[tuple[int, int], Tensor] = {}

    def part(self, batch: Samples) -> tuple[Samples, _Part]:
        """A batch with its targets."""
        targets, places, spreads = {}, {}, {}
        whole = self._networks.whole
        wanted = {feature.original: feature for feature in self._features}
        for index, result in self._results(self._networks.original, whole, wanted, batch):
            numbers = _in_rows(wanted[index].of_original(result))
            call = wanted[index].call
            places[call] = self._place(call, numbers.shape[1])
            targets[call] = numbers.index_select(1, places[call])
            spread = float((targets[call] - targets[call].mean(0)).square().sum())
            spreads[call] = max(spread, _TINY)
        ids = [ref.id for ref in self._networks.trace.inputs]
        values = dict(zip(ids, batch.tensors, strict=True))
        return batch, _Part(self._calls(batch), values, targets, places, spreads)

    def is_reproduced(self, segment: Segment, batch: Samples, part: _Part) -> bool:
        """Whether the slim network's calls, run one by one, make what the network makes."""
        if not part.calls or not segment.inputs <= part.values.keys():
            return False
        again = dict(_run(segment, part, self._networks.slim.tensors))
        trace, slim = self._networks.trace, self._networks.slim
        actual = {
            index: _in_rows(result).index_select(1, part.places[index])
            for index, result in self._results(slim, trace, part.targets, batch)
        }
        return all(
            torch.allclose(again[n], y, rtol=_SAME, atol=_SAME * float(y.abs().max()))
            for n, y in actual.items()
        )

    def _results(
        self, network: Network, trace: Trace, calls: Iterable[int], batch: Samples
    ) -> Iterator[tuple[int, Tensor]]:
        """What a network's calls make of a batch."""
        stops = dict.fromkeys(calls, frozenset[int]())
        walk = Walk(network.model, batch.inputs, trace, stops, after=True)
        with torch.no_grad(), walking([walk], [network]):
            for ((stop,),) in together(trace, stops, [walk]):
                result = stop.result
                yield stop.call.index, result[0] if isinstance(result, (tuple, list)) else result

    def _calls(self, batch: Samples) -> Sequence[Call]:
        """The slim network's calls on a batch of such shapes; none where they are others."""
        if batch.shapes not in self._passes:
            trace = recorded(self._networks.slim, batch)
            self._passes[batch.shapes] = aligned(self._networks.trace, trace)
        return self._passes[batch.shapes] or ()

    def _place(self, call: int, numbers: int) -> Tensor:
        """Which of a row's numbers are compared."""
        if (call, numbers) not in self._places:
            drawn = torch.randperm(numbers, generator=self._generator)[:NUMBERS].sort().values
            self._places[call, numbers] = drawn.to(self._networks.slim.device)
        return self._places[call, numbers]


class _Training:
    """The slim network's parameters while they are trained."""

    def __init__(self, segment: Segment, slim: Network, batches: int) -> None:
        self._segment = segment
        self._fixed = slim.tensors
        self._leaves = {
            name: parameter.detach().clone().requires_grad_()
            for name, parameter in slim.model.named_parameters()
            if parameter.is_floating_point()
        }
        rates = [{"params": [x], "lr": RATE * _size(x)} for x in self._leaves.values()]
        self._optimizer = torch.optim.Adam(rates)
        self._schedule = LambdaLR(self._optimizer, partial(_rate, steps=PASSES * batches))

    def step(self, part: _Part) -> None:
        """One step on one batch."""
        self._optimizer.zero_grad()
        with torch.enable_grad():
            self._loss(part).backward()
        self._optimizer.step()
        self._schedule.step()

    def error(self, parts: Sequence[_Part]) -> float:
        """The mean loss; infinite where it is no number."""
        with torch.no_grad():
            error = sum(float(self._loss(part)) for part in parts) / len(parts)
        return error if math.isfinite(error) else math.inf

    def parameters(self) -> dict[str, Tensor]:
        """By name, as they are now."""
        return {name: leaf.detach().clone() for name, leaf in self._leaves.items()}

    def _loss(self, part: _Part) -> Tensor:
        """The squared errors over the targets' variance, summed over the features."""
        tensors = {**self._fixed, **self._leaves}
        errors = [
            (numbers - part.targets[call]).square().sum() / part.spreads[call]
            for call, numbers in _run(self._segment, part, tensors)
        ]
        return torch.stack(errors).sum()


def _run(segment: Segment, part: _Part, tensors: Mapping[str, Tensor]) -> list[tuple[int, Tensor]]:
    """By the number of its call, each feature at the places that are compared."""
    found: list[tuple[int, Tensor]] = []

    def see(call: Call, result: Tensor) -> None:
        if call.index in part.places:
            found.append((call.index, _in_rows(result).index_select(1, part.places[call.index])))

    segment.run(part.calls, part.values, tensors, {}, see)
    return found


def _in_rows(x: Tensor) -> Tensor:
    """[rows, numbers], a row for each sample where these come first."""
    return x.reshape(len(x), -1) if x.dim() else x.reshape(1, 1)


def _size(x: Tensor) -> float:
    return max(float(x.detach().square().mean().sqrt()), SMALLEST)


def _rate(step: int, *, steps: int) -> float:
    return min((step + 1) / WARM, 1.0) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
