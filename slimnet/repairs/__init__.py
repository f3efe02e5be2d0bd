"""Repair without training: the slim network learns to say what the original says, layer by layer.

In forward order every convolution and linear map of the slim network gets the weights that best
reproduce the *original's* output from what the slim network now reads. Upstream error is part of
what it reads, and where its output is added to a residual stream, the error of that stream is part
of what it has to make up for (after He, Zhang and Sun, Channel Pruning for Accelerating Very Deep
Neural Networks, 2017, on any network that can be recorded). Then it is refined together with the
layers that speak to it alone. No label is used, and no loss of the network as a whole.

Some images are held back. They say how far a refinement goes, and a solution from few rows; on them
the change of the network's outputs is measured, with and without the new weights, with and without
re-estimated statistics of batch norms, and what changes them least is kept. A network in half
precision is repaired in single, its sums in double, and measured as it is.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimnet.capture.modules import clone, copied, evaluation_mode, single
from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.plan.plan import Plan
from slimnet.progress import Progress, not_shown
from slimnet.repairs.change import change, check_answers
from slimnet.repairs.mending import Mended, Mending
from slimnet.samples import Samples, batch_sizes
from slimnet.statistics.batches import fitting, in_single
from slimnet.statistics.moments import batch_of
from slimnet.statistics.outputs import answers

HELD_OUT = 1 / 16
"""Share of the images that are held back to measure on."""


@dataclass(frozen=True)
class Repair:
    """What was done, and what the network's outputs gained on images that were held back.

    Errors are the mean squared change of the outputs over the original outputs' variance; of a
    network that gives whole numbers only, the share of them that differ.
    """

    layers: tuple[Mended, ...]
    images: int
    held_out: int
    before: float
    after: float
    solved: bool  # whether the new weights were kept, because they measured better
    reestimated: bool  # whether batch norms' statistics were, for the same reason

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists; None for an error that is infinite, as JSON has no such number."""
        return {**asdict(self), "before": self.before if math.isfinite(self.before) else None}


def repair(
    network: Network,
    slim: Network,
    plan: Plan,
    images: Tensor,
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
        images: [N, C, H, W], normalised; no label is used.
        seed: of the places of large feature maps that are looked at.
        refine: whether layers change together with those that speak to them alone, after least
            squares of each layer by itself.
        watch: told how far it is.

    Raises :class:`InputError` where the network does not run on the images, and
    :class:`CaptureError` where its batches do not run the same calls.
    """
    check_images(len(images))
    cut, given = single(slim), fitting(network, Samples(images)).images
    batch, wide = batch_of(given), fitting(cut, Samples(given)).images
    held = min(max(int(len(images) * HELD_OUT), 1), _MOST_HELD)
    fitted, measured = wide[held:], wide[:held]
    said = answers(network, given[:held], batch)
    check_answers(said, network.name)
    mended = Network.of(copied(cut))
    splits = [images.split(batch_sizes(len(images), batch)) for images in (fitted, measured)]
    mending = Mending(in_single(network, Samples(given)), mended, plan, *splits, refine=refine)
    layers = mending.run(torch.Generator().manual_seed(seed), watch)
    watch("measuring", 1.0)
    networks = {how: _narrowed(way, slim) for how, way in _ways(mended, cut, fitted, batch).items()}
    errors = {how: change(said, answers(net, given[:held], batch)) for how, net in networks.items()}
    best = min(errors, key=errors.__getitem__)
    if errors[best] == math.inf:
        raise InputError(
            "the slim network gives NaN or infinite outputs on the calibration images, with new "
            "weights and without: cut less, or repair it in single precision (model.float())"
        )
    before = errors[False, False]
    done = Repair(tuple(layers), len(fitted), held, before, errors[best], *best)
    return copied(networks[best]), done


_MOST_HELD = 128


def check_images(count: int) -> None:
    """Raise :class:`InputError` for fewer images than a repair can do with."""
    if count < 2:
        raise InputError("repair needs at least 2 images: one to solve for and one to measure on")


def _ways(
    mended: Network, cut: Network, images: Tensor, batch: int
) -> dict[tuple[bool, bool], Network]:
    """With the new weights or without, with re-estimated statistics or without."""
    found = {(True, False): mended, (True, True): mended, (False, False): cut, (False, True): cut}
    if len(images) < 2:  # which have no statistics
        return {how: network for how, network in found.items() if not how[1]}
    return {
        how: reestimated(network, images, batch) if how[1] else network
        for how, network in found.items()
    }


def _narrowed(network: Network, slim: Network) -> Network:
    """A network that was repaired in single precision, in the types of ``slim``."""
    kinds = {name: tensor.dtype for name, tensor in slim.tensors.items()}
    if all(tensor.dtype == kinds[name] for name, tensor in network.tensors.items()):
        return network
    return Network.of(clone(network, lambda name, tensor: tensor.detach().to(kinds[name])))


def reestimated(network: Network, images: Tensor, batch: int) -> Network:
    """A copy whose batch norms hold the statistics of what they now read, over all images."""
    copy = Network.of(copied(network))
    norms = [module for module in copy.modules.values() if isinstance(module, _BatchNorm)]
    with torch.no_grad(), evaluation_mode(copy):  # which puts attributes back, but no statistics
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
        for part in images.split(batch_sizes(len(images), batch)) if norms else ():
            copy.model(part)
    return copy
