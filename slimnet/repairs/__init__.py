"""Repair without labels: the slim network's layers are fitted to the original's, one by one.

In forward order every convolution and linear map of the slim network gets the weights that best
reproduce the *original's* output from its inputs in the slim network (:mod:`.layers`). So its
inputs hold the error of the layers before it, and where its output is added to a residual stream,
the error of that stream is part of its target (after He, Zhang and Sun, Channel Pruning for
Accelerating Very Deep Neural Networks, 2017, on any network that can be recorded). Where heads of
attention are narrower, its target is the best mixtures of their channels (:mod:`.wanted`,
:mod:`.heads`) in place of those that were left. Then the layer is refined together with the layers
before it that only it reads, and at last all are trained together towards the original's streams
and outputs (:mod:`.ahead`). No label is used.

Some images are held back. They decide how far a refinement goes, which pass over all layers is
kept, and how much of a solution from few rows is taken. On them the error of the network's outputs
(:mod:`.output_error`) is measured, with and without the new weights, with and without re-estimated
statistics of batch norms, and the network of least error is kept. A network in half precision is
repaired in single, its sums in double, and measured as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimnet.capture.modules import clone, copied, evaluation_mode, single
from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.plan.plan import Plan
from slimnet.progress import Progress, not_shown
from slimnet.repairs.ahead import look_ahead
from slimnet.repairs.layers import LayerRepair, LayerwiseRepair
from slimnet.repairs.output_error import check_targets, output_error
from slimnet.samples import SampleBatches, Samples, as_samples
from slimnet.statistics.batches import fitting, in_single
from slimnet.statistics.moments import batch_of
from slimnet.statistics.outputs import output_rows

HELD_OUT = 1 / 16
"""Share of the images that are held back to measure on."""


@dataclass(frozen=True)
class Repair:
    """What a repair did, and the error of the outputs on images that were held back.

    Errors are the mean squared change of the outputs over the original outputs' variance; of a
    network that gives whole numbers only, the share of them that differ.
    """

    layers: tuple[LayerRepair, ...]
    images: int
    held_out: int
    before: float
    after: float
    solved: bool  # whether the new weights were kept, because they measured better
    reestimated: bool  # whether batch norms' statistics were, for the same reason
    ahead: bool  # whether all weights were then trained together, because that was better

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists; None for an error that is infinite, as JSON has no such number."""
        return {**asdict(self), "before": self.before if math.isfinite(self.before) else None}


def repair(
    network: Network,
    slim: Network,
    plan: Plan,
    samples: Samples | Tensor,
    *,
    seed: int = 0,
    refine: bool = True,
    watch: Progress = not_shown,
) -> tuple[nn.Module, Repair]:
    """A copy of ``slim``, cut from ``network`` by ``plan``, with weights that make up for the cut.

    Args:
        network: the original, with the blocks that the plan drops; it stays as it is.
        slim: what the plan made of it.
        plan: which says what of the original survives.
        samples: any inputs, or images [N, C, H, W], normalised; no label is used.
        seed: of the places of large feature maps that are looked at.
        refine: whether a layer is refined together with the layers before it that only it reads,
            after least squares of each layer by itself, and at last all layers together.
        watch: told how far it is.

    Raises :class:`InputError` where the network does not run on the images, and
    :class:`CaptureError` where its batches do not run the same calls.
    """
    cut, samples = single(slim), fitting(network, as_samples(samples))
    check_samples(samples)
    batch, held = batch_of(samples), min(max(int(len(samples) * HELD_OUT), 1), _MOST_HELD)
    checked, _ = samples.split(held)
    measured, fitted = fitting(cut, samples).split(held)
    targets = output_rows(network, checked, batch, plan.outputs)
    check_targets(targets, network.name)
    solved = Network.of(copied(cut))
    original = in_single(network, samples)
    parts = [list(part.batches(batch)) for part in (fitted, measured)]
    layerwise = LayerwiseRepair(original, solved, plan, *parts, refine=refine)
    generator = torch.Generator().manual_seed(seed)
    layers = layerwise.run(generator, watch)
    ahead = refine and look_ahead(
        layerwise.networks, layerwise.features(), fitted, measured, generator, watch
    )
    watch("measuring", 1.0)
    candidates = _candidates(solved, cut, fitted, batch)
    networks = {how: _narrowed(candidate, slim) for how, candidate in candidates.items()}
    errors = _errors(networks, targets, checked, batch, plan.outputs)
    best = min(errors, key=errors.__getitem__)
    before = errors[False, False]
    report = Repair(tuple(layers), len(fitted), len(checked), before, errors[best], *best, ahead)
    return copied(networks[best]), report


_MOST_HELD = 128


def check_number(count: int) -> None:
    """Raise :class:`InputError` for fewer images than a repair can do with."""
    if count < 2:
        raise InputError("repair needs at least 2 images: one to solve for and one to measure on")


def check_samples(samples: Samples) -> None:
    """The same of these, which must also be two batches where they are of several sizes."""
    check_number(len(samples))
    if isinstance(samples, SampleBatches) and len(samples.parts) < 2:
        raise InputError("repair needs at least 2 batches of samples of different sizes")


_How: TypeAlias = tuple[bool, bool]
"""Whether a candidate has the new weights, and whether it has re-estimated statistics."""


def _candidates(solved: Network, cut: Network, samples: Samples, batch: int) -> dict[_How, Network]:
    """The networks of which the best is kept."""
    candidates = {(True, False): solved, (False, False): cut}
    if len(samples) < 2:  # which have no statistics
        return candidates
    return {
        (True, False): solved,
        (True, True): reestimated(solved, samples, batch),
        (False, False): cut,
        (False, True): reestimated(cut, samples, batch),
    }


def _errors(
    networks: Mapping[_How, Network],
    targets: Tensor,
    samples: Samples,
    batch: int,
    read: Sequence[str],
) -> dict[_How, float]:
    """The output error of each; raises :class:`InputError` where all are infinite."""
    errors = {
        how: output_error(targets, output_rows(network, samples, batch, read))
        for how, network in networks.items()
    }
    if min(errors.values()) == math.inf:
        raise InputError(
            "the slim network gives NaN or infinite outputs on the calibration images, with new "
            "weights and without: cut less, or repair it in single precision (model.float())"
        )
    return errors


def _narrowed(network: Network, slim: Network) -> Network:
    """A network that was repaired in single precision, converted to the types of ``slim``."""
    kinds = {name: tensor.dtype for name, tensor in slim.tensors.items()}
    if all(tensor.dtype == kinds[name] for name, tensor in network.tensors.items()):
        return network
    return Network.of(clone(network, lambda name, tensor: tensor.detach().to(kinds[name])))


def reestimated(network: Network, samples: Samples | Tensor, batch: int) -> Network:
    """A copy whose batch norms hold the statistics of what they now read, over all samples."""
    copy = Network.of(copied(network))
    norms = [module for module in copy.modules.values() if isinstance(module, _BatchNorm)]
    with torch.no_grad(), evaluation_mode(copy):  # which puts attributes back, but no statistics
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
        for part in as_samples(samples).batches(batch) if norms else ():
            copy.model(*part.inputs)
    return copy
