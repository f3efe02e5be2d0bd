"""Repair without training: each layer learns, by least squares, to say what the original says.

In forward order every convolution and linear map of the slim network gets the weights that best
reproduce the *original's* output from what the slim network now reads. Upstream error is part of
what it reads, and where its output is added to a residual stream, the error of that stream is part
of what it has to make up for. No label and no gradient is used. After He, Zhang and Sun, Channel
Pruning for Accelerating Very Deep Neural Networks, 2017, on any network that can be recorded.

Some images are held back: on them the change of the network's outputs is measured, and whether
re-estimating the batch norms' statistics makes it smaller; it is kept only then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimnet.consumers import Consumer, Form, Places, consumers_of
from slimnet.errors import InputError
from slimnet.example import tensors_of
from slimnet.least_squares import fit_of
from slimnet.lockstep import Stop, Walk, meet, walking
from slimnet.modules import copied, device_of, evaluation_mode, named_modules, named_tensors
from slimnet.plan import Plan
from slimnet.readings import batch_of, recorded, rows_grid
from slimnet.rebuild import survivors
from slimnet.trace import Trace
from slimnet.watch import Watch, unwatched

LEAST_ROWS = 1 << 17
"""Of least squares, as far as there are as many; so many gain a tenth of a point over a quarter."""

HELD_OUT = 1 / 16
"""Share of the images that are held back to measure on."""
SMALL = 1e-9
"""A layer whose error, over its output's variance, is below this is left as it is."""


@dataclass(frozen=True)
class Mended:
    """One layer: its error over the variance of its output, on the images that were solved for."""

    layer: str
    before: float
    after: float


@dataclass(frozen=True)
class Repair:
    """What was done, and what the network's outputs gained on images that were held back.

    Errors are the mean squared change of the outputs over the original outputs' variance.
    """

    layers: tuple[Mended, ...]
    images: int
    held_out: int
    before: float
    after: float
    reestimated: bool  # whether batch norms' statistics were, because it measured better

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return asdict(self)


def repair(
    model: nn.Module,
    slim: nn.Module,
    plan: Plan,
    images: Tensor,
    *,
    seed: int = 0,
    watch: Watch = unwatched,
) -> tuple[nn.Module, Repair]:
    """A copy of ``slim``, which ``plan`` cut from ``model``, with weights that make up for the cut.

    Args:
        model: the original; it stays as it is.
        slim: what the plan made of it.
        plan: which says what of the original survives.
        images: [N, C, H, W], normalised; no label is used.
        seed: of the places of large feature maps that are looked at.
        watch: told how far it is.

    Raises :class:`InputError` where the network does not run on the images, and
    :class:`CaptureError` where its batches do not run the same calls.
    """
    if len(images) < 2:
        raise InputError("repair needs at least 2 images: one to solve for and one to measure on")
    images = images.to(device_of(model))
    batch = batch_of(images)
    held = min(max(int(len(images) * HELD_OUT), 1), _MOST_HELD)
    fitted, measured = images[held:], images[:held]
    trace = recorded(model, fitted[:batch])
    answers = _outputs(model, measured, batch)
    mended = copied(slim)
    layers = _solve(model, mended, plan, trace, fitted.split(batch), seed, watch)
    watch("measuring", 1.0)
    other = reestimated(mended, fitted, batch)
    errors = [_change(answers, _outputs(one, measured, batch)) for one in (slim, mended, other)]
    better = errors[2] < errors[1]
    done = Repair(tuple(layers), len(fitted), held, errors[0], min(errors[1:]), better)
    return (other if better else mended), done


_MOST_HELD = 128


def _solve(
    model: nn.Module,
    slim: nn.Module,
    plan: Plan,
    trace: Trace,
    batches: Sequence[Tensor],
    seed: int,
    watch: Watch,
) -> list[Mended]:
    """Write new weights into ``slim``, layer by layer, while both networks walk through it."""
    consumers = {c.call.index: c for c in consumers_of(trace) if c.weight not in plan.scaled}
    stops = {i: frozenset([c.other.id] if c.other else []) for i, c in consumers.items()}
    says = [Walk(model, (part,), trace, stops, after=True) for part in batches]
    reads = [Walk(slim, (part,), trace, stops, after=False) for part in batches]
    shapes = {name: tensor.shape for name, tensor in named_tensors(model)}
    tensors = dict(named_tensors(slim))
    generator = torch.Generator().manual_seed(seed)
    found: list[Mended] = []
    with torch.no_grad(), walking([*says, *reads], [model, slim]):
        while said := meet(says):
            read = meet(reads)
            consumer = consumers[said[0].call.index]
            watch(f"repairing {consumer.weight}", len(found) / len(consumers))
            form = consumer.form_of(read[0].args)
            kept = _kept(consumer, form, shapes[consumer.weight], plan)
            layer = _Layer(consumer, form, kept.to(batches[0].device), tensors)
            found.append(layer.mend(said, read, generator))
        meet(reads)
    return found


class _Layer:
    """One layer's least-squares problem, and where its solution goes."""

    def __init__(
        self, consumer: Consumer, form: Form, kept: Tensor, tensors: Mapping[str, Tensor]
    ) -> None:
        """``kept`` [O]: the output channels of the original that are left."""
        self.consumer = consumer
        self.form = form
        self.kept = kept
        self.tensors = tensors
        self.weight = tensors[consumer.weight]
        self.scale = consumer.norm.scale(tensors) if consumer.norm is not None else None
        self.places: Places = None

    def mend(
        self, said: Sequence[Stop], read: Sequence[Stop], generator: torch.Generator
    ) -> Mended:
        """Solve, and write the solution into the slim network."""
        name, old = self.consumer.weight, self.form.matrix(self.weight).double()
        fit = fit_of(old, self._constants(old))
        self.places = rows_grid(said, old.shape[2], generator, least=LEAST_ROWS)
        for theirs, ours in zip(said, read, strict=True):
            rows = self.form.rows(ours.args[self.consumer.place], self.places)
            fit.add(rows, self._wanted(theirs, ours))
        before = fit.error()
        if before < SMALL:
            return Mended(name, before, before)
        change, constants = fit.solve(constant=self.consumer.shifts)
        self._add(change, constants)
        return Mended(name, before, fit.error(change, constants))

    def _wanted(self, theirs: Stop, ours: Stop) -> Tensor:
        """[n, O]: what the original says, and what the stream lacks that this is added to."""
        said = self.form.outputs(theirs.result, self.places)[:, self.kept]
        if self.consumer.other is None:
            return said
        whole, cut = (stop.kept[self.consumer.other.id] for stop in (theirs, ours))
        lacks = self.form.outputs(whole, self.places)[:, self.kept]
        lacks = lacks - self.form.outputs(cut, self.places)
        if self.scale is not None:  # it is added after the norm
            weak = self.scale.abs() < 1e-3 * self.scale.abs().max()
            lacks = (lacks / self.scale.masked_fill(weak, torch.inf)).to(said.dtype)
        return said + lacks

    def _constants(self, matrix: Tensor) -> Tensor:
        """[G, O]."""
        if self.consumer.bias is None:
            return matrix.new_zeros(matrix.shape[:2])
        return self.tensors[self.consumer.bias].double().reshape(matrix.shape[:2])

    def _add(self, change: Tensor, constants: Tensor) -> None:
        self.weight.add_(self.form.weight(change, self.weight.shape))
        constants = constants.flatten()
        if self.consumer.bias is not None:
            self.tensors[self.consumer.bias].add_(constants)
        elif self.consumer.norm is not None:
            self.tensors[self.consumer.norm.mean].sub_(constants)


def _kept(consumer: Consumer, form: Form, shape: Sequence[int], plan: Plan) -> Tensor:
    """[O]: the output channels of the original that are left, in the slim network's order."""
    places = consumer.form.answers(shape)
    for axis, gone in plan.removed.get(consumer.weight, {}).items():
        places = places.index_select(axis, survivors(shape[axis], gone))
    return form.matrix(places)[:, :, 0].flatten()


def _outputs(model: nn.Module, images: Tensor, batch: int) -> Tensor:
    """[N, everything that the network answers]."""
    with torch.no_grad(), evaluation_mode(model):
        parts = [tensors_of(model(part)) for part in images.split(batch)]
    floats = [[x.flatten(1) for x in part if x.is_floating_point()] for part in parts]
    return torch.cat([torch.cat(part, 1) for part in floats])


def _change(answers: Tensor, others: Tensor) -> float:
    """Mean squared, over the variance of the answers."""
    answers, others = answers.double(), others.double()
    spread = (answers - answers.mean(0)).square().mean() if len(answers) > 1 else answers.var()
    return float((answers - others).square().mean() / spread.clamp(min=1e-30))


def reestimated(model: nn.Module, images: Tensor, batch: int) -> nn.Module:
    """A copy whose batch norms hold the statistics of what they now read, over all images."""
    copy = copied(model)
    with torch.no_grad(), evaluation_mode(copy):  # which puts attributes back, but no statistics
        for _, module in named_modules(copy):
            if isinstance(module, _BatchNorm):
                module.reset_running_stats()
                module.momentum = None  # the mean over all batches
                module.train()
        for part in images.split(batch):
            copy(part)
    return copy
