"""The zoo's networks: their names, how one is built with weights that behave, its usual inputs.

Nothing is downloaded: weights are random, of the usual scale, and the batch norms hold the
statistics of two random samples; without that deep networks blow up, and rounding with them. Where
such weights make a network's output NaN or infinite, the network's own initialisation is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from slimnet.example import tensors_of
from slimnet.networks.arch import Arch
from slimnet.networks.sources import torchvision_names

TIMM_LIST = Path(__file__).with_name("timm_models.txt")
NO_HEADS_OF_TRAINING = {"aux_logits": False}  # neither tool sees them in eval mode
SMALLER_IMAGES = {"min_size": 320, "max_size": 640}  # at 800 pixels a pass takes many seconds
OPTIONS: Mapping[str, Mapping[str, Any]] = {  # how the name begins →
    "googlenet": NO_HEADS_OF_TRAINING,
    "inception_v3": NO_HEADS_OF_TRAINING,
    "fasterrcnn_resnet50": SMALLER_IMAGES,
    "maskrcnn": SMALLER_IMAGES,
    "keypointrcnn": SMALLER_IMAGES,
    "fcos": SMALLER_IMAGES,
    "retinanet": SMALLER_IMAGES,
}

IMAGES: Mapping[str, tuple[int, ...]] = {  # not the usual 546 or 768 pixels: tens of seconds a pass
    "deepseek_vit_412m": (1, 3, 224, 224),
    "gemma4_vit_167m": (1, 3, 224, 224),
    "qwen3_vit_88m": (1, 3, 224, 224),
}


@dataclass(frozen=True)
class Source:
    """A list of networks, and how long a tool may take for one."""

    families: Callable[[], dict[str, str]]  # name → family
    limit: int  # seconds from model to proven slim model


def torchvision_families() -> dict[str, str]:
    """All of torchvision but its quantised networks; the family is the kind of task."""
    from torchvision.models import get_model_builder

    kinds = {name: get_model_builder(name).__module__.split(".") for name in torchvision_names()}
    return {name: kind[2] if len(kind) > 3 else "" for name, kind in kinds.items()}


def timm_families() -> dict[str, str]:
    """The fixed list: one small network of each module of timm.models."""
    rows = [line.split() for line in TIMM_LIST.read_text("utf-8").splitlines()]
    return {name: family for family, name in (row for row in rows if row[0] != "#")}


SOURCES = {
    "torchvision": Source(torchvision_families, 900),
    "timm": Source(timm_families, 120),
}


def arch_of(source: str, name: str) -> Arch:
    """What the network is called, also in its slim.pt."""
    options = next((found for start, found in OPTIONS.items() if name.startswith(start)), {})
    return Arch(source, name, options if source == "torchvision" else {})


def built(arch: Arch) -> tuple[nn.Module, tuple[Any, ...], str]:
    """The network in eval mode, its inputs, and which weights it has; the same every time."""
    torch.manual_seed(0)
    usual = arch.example()
    example = (torch.randn(IMAGES[arch.name]),) if arch.name in IMAGES else usual
    model = calibrated(filled(arch.build()), example)
    if finite(model, example):
        return model, example, "He"
    torch.manual_seed(0)
    return calibrated(arch.build(init=True), example), example, "its own"


@torch.no_grad()
def filled(model: nn.Module) -> nn.Module:
    """Random weights of the usual scale, from the global seed."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=(2 * parameter.shape[0] / parameter.numel()) ** 0.5)
        else:
            parameter.uniform_(0.5, 1.5)
    return model


@torch.no_grad()
def calibrated(model: nn.Module, example: tuple[Any, ...]) -> nn.Module:
    """Batch-norm statistics of two random samples."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if norms:
        with _learning(norms):
            model(*two_samples(example))
    return model.eval()


@contextmanager
def _learning(norms: list[_BatchNorm]) -> Iterator[None]:
    """Only the norms are in training mode: a detector as a whole would ask for targets."""
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    yield
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.eval()


def two_samples(example: tuple[Any, ...]) -> tuple[Any, ...]:
    """Twice as many samples, of new noise: stacked, or listed where the network takes a list."""
    if isinstance(example[0], list):
        return ([torch.randn_like(image) for image in [*example[0], *example[0]]],)
    return tree_map(lambda x: torch.randn(2, *x.shape[1:]), example)


@torch.no_grad()
def finite(model: nn.Module, example: tuple[Any, ...]) -> bool:
    """Whether the network's output is a number everywhere."""
    return all(bool(output.isfinite().all()) for output in tensors_of(model(*example)))


def size_of(tensors: Iterator[Tensor]) -> int:
    """How many bytes they take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters())


def removed(dense: nn.Module, slim: nn.Module) -> float:
    """Fraction of the parameters that are gone."""
    return 1 - parameters(slim) / parameters(dense)
