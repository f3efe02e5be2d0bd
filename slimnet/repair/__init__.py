"""Repair without training: the slim network learns to say what the original says, layer by layer.

In forward order every convolution and linear map of the slim network gets the weights that best
reproduce the *original's* output from what the slim network now reads. Upstream error is part of
what it reads, and where its output is added to a residual stream, the error of that stream is part
of what it has to make up for (after He, Zhang and Sun, Channel Pruning for Accelerating Very Deep
Neural Networks, 2017, on any network that can be recorded). Then it is refined together with the
layers that speak to it alone. No label is used, and no loss of the network as a whole.

Some images are held back. They say how far a refinement goes, and a solution from few rows; on them
the change of the network's outputs is measured, with and without the new weights, with and without
re-estimated statistics of batch norms, and what changes them least is kept.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimnet.capture.modules import copied, device_of, evaluation_mode, named_modules
from slimnet.errors import InputError
from slimnet.example import tensors_of
from slimnet.planning.plan import Plan
from slimnet.reconstruction.readings import batch_of
from slimnet.repair.mending import Mended, Mending
from slimnet.watch import Watch, unwatched

HELD_OUT = 1 / 16
"""Share of the images that are held back to measure on."""


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
    solved: bool  # whether the new weights were kept, because they measured better
    reestimated: bool  # whether batch norms' statistics were, for the same reason

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
    refine: bool = True,
    watch: Watch = unwatched,
) -> tuple[nn.Module, Repair]:
    """A copy of ``slim``, which ``plan`` cut from ``model``, with weights that make up for the cut.

    Args:
        model: the original, with the blocks that the plan drops; it stays as it is.
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
    images = images.to(device_of(model))
    batch = batch_of(images)
    held = min(max(int(len(images) * HELD_OUT), 1), _MOST_HELD)
    fitted, measured = images[held:], images[:held]
    mended = copied(slim)
    mending = Mending(
        model, mended, plan, fitted.split(batch), measured.split(batch), refine=refine
    )
    answers = _outputs(model, measured, batch)
    layers = mending.run(torch.Generator().manual_seed(seed), watch)
    watch("measuring", 1.0)
    networks = {
        (solved, again): reestimated(network, fitted, batch) if again else network
        for solved, network in ((True, mended), (False, slim))
        for again in (False, True)
    }
    errors = {
        how: _change(answers, _outputs(net, measured, batch)) for how, net in networks.items()
    }
    best = min(errors, key=errors.__getitem__)
    before = errors[False, False]
    done = Repair(tuple(layers), len(fitted), held, before, errors[best], *best)
    return copied(networks[best]), done


_MOST_HELD = 128


def check_images(count: int) -> None:
    """Raise :class:`InputError` for fewer images than a repair can do with."""
    if count < 2:
        raise InputError("repair needs at least 2 images: one to solve for and one to measure on")


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
    norms = [module for _, module in named_modules(copy) if isinstance(module, _BatchNorm)]
    with torch.no_grad(), evaluation_mode(copy):  # which puts attributes back, but no statistics
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
        for part in images.split(batch) if norms else ():
            copy(part)
    return copy
