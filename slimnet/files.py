"""Networks and files: open whatever a user has, save and load slim networks, prove them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from slimnet.arch import Arch
from slimnet.artifact import (
    Artifact,
    is_artifact,
    make_artifact,
    read_artifact,
    write_artifact,
)
from slimnet.checkpoint import load_payload, open_model
from slimnet.compose import compose
from slimnet.errors import CaptureError, InputError
from slimnet.modules import device_of, named_modules
from slimnet.prune import Pruned, prove
from slimnet.trace import capture, map_tensors
from slimnet.verify import Certificate


@dataclass(frozen=True, eq=False)
class Opened:
    """A network from a file: dense, or slim with what it was cut from."""

    model: nn.Module
    arch: Arch | None
    artifact: Artifact | None = None
    notes: tuple[str, ...] = ()
    dense: nn.Module | None = None  # what a slim network was cut from: its shapes only

    @property
    def is_program(self) -> bool:
        """Whether only the embedded program runs: the class of the network is not known."""
        return self.artifact is not None and self.dense is None

    def artifact_of(self, pruned: Pruned) -> Artifact:
        """What to save after pruning this network, from where it stands."""
        fresh = make_artifact(
            pruned.model, pruned.plan, pruned.certificate, pruned.example, self.arch
        )
        if self.artifact is None or self.dense is None:
            return fresh
        plan = compose(self.artifact.plan, pruned.plan, self.dense)
        return replace(fresh, plan=plan, trained=self.artifact.trained)


def open_network(
    path: str | Path, arch: Arch | None = None, *, allow_pickle: bool = False
) -> Opened:
    """Open a state dict, a slim network or, if ``allow_pickle``, a pickled module.

    Raises :class:`InputError` for anything else, in one sentence.
    """
    if _holds_artifact(path, refuse=not allow_pickle):
        return _open_artifact(path, arch)
    opened = open_model(path, arch, allow_pickle=allow_pickle)
    return Opened(opened.model, opened.arch, None, opened.notes)


def _holds_artifact(path: str | Path, *, refuse: bool) -> bool:
    try:
        return is_artifact(load_payload(path))
    except InputError:
        if refuse:
            raise
        return False


def _open_artifact(path: str | Path, arch: Arch | None) -> Opened:
    artifact = read_artifact(path)
    known = artifact.arch if artifact.rebuilds and _same(arch, artifact.arch) else arch
    dense = known.build() if known is not None else None
    before, after = artifact.plan.before or {}, artifact.plan.after or {}
    share = f" with {after['macs'] / before['macs']:.1%} of its MACs" if before.get("macs") else ""
    made = known or artifact.arch or artifact.class_name
    return Opened(artifact.model(dense), known, artifact, (f"slim {made}{share}",), dense)


def _same(asked: Arch | None, stored: Arch | None) -> bool:
    """Whether the user asked for nothing else than what the file says."""
    return asked is None or str(asked) == str(stored)


def save(
    pruned: Pruned, path: str | Path, arch: Arch | str | None = None, *, trained: bool = False
) -> Path:
    """Write a slim network to one file.

    ``arch`` names a built-in or torchvision architecture (``"torchvision:resnet18"``), which then
    is rebuilt on loading; without it the network is embedded as a program. Say ``trained`` where
    the weights were changed after the cut. Raises :class:`InputError` for a path that cannot be
    written, and for an ``arch`` that does not build this network.
    """
    artifact = make_artifact(
        pruned.model, pruned.plan, pruned.certificate, pruned.example, arch, trained=trained
    )
    return write_artifact(artifact, path)


def load(path: str | Path, into: nn.Module | None = None) -> nn.Module:
    """Read a slim network, in evaluation mode, without running code from the file.

    ``into`` is the dense network as your code builds it (it is not changed): the result is of its
    class and can be trained on. Without it, built-in and torchvision architectures are rebuilt, and
    any other runs as its embedded program. Raises :class:`InputError` for a file that is no slim
    network, and for an ``into`` that it was not cut from.
    """
    return read_artifact(path).model(into).eval()


def verify(
    slim: Pruned | Artifact | str | Path, against: nn.Module, *, seed: int = 0
) -> Certificate:
    """Prove again that a slim network is ``against`` with the removed channels zeroed.

    Of a network whose weights were trained after the cut, only the structure is proven, with random
    weights. Raises :class:`~slimnet.errors.CertificateError` where the proof fails.
    """
    if isinstance(slim, Pruned):
        return prove(against, slim.model, slim.plan, slim.example, seed=seed)
    artifact = slim if isinstance(slim, Artifact) else read_artifact(slim)
    place = device_of(against)
    model = artifact.model(against).to(place)
    example = map_tensors(lambda x: x.to(place), artifact.example)
    return prove(against, model, artifact.plan, example, seed=seed, trained=artifact.trained)


def example_for(
    opened: Opened, shapes: Sequence[Sequence[int]] = ()
) -> tuple[tuple[Any, ...], str]:
    """Inputs to record the network with, and a sentence that says where their shape comes from.

    Without ``shapes``: those of a slim network's file, else the architecture's usual size, else
    the first layer's channels at common sizes, tried. Raises :class:`InputError`.
    """
    if shapes:
        return tuple(_random(shape) for shape in shapes), "as given"
    if opened.artifact is not None:
        return opened.artifact.example, "as it was pruned with"
    if opened.arch is not None and opened.arch.input_shape is not None:
        return (_random((1, *opened.arch.input_shape)),), "the architecture's usual size"
    guesses = _guesses(opened.model)
    for shape in guesses:
        example = (_random(shape),)
        try:
            capture(opened.model, example)
        except CaptureError:
            continue
        return example, "guessed, and it runs"
    tried = ", ".join("x".join(map(str, shape)) for shape in guesses) or "nothing"
    raise InputError(
        f"the input shape cannot be told from the network (tried {tried}); give it, batch "
        "included: --input 1,3,224,224"
    )


def _random(shape: Sequence[int]) -> torch.Tensor:
    try:
        return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))
    except RuntimeError as error:
        sizes = "x".join(map(str, shape))
        raise InputError(f"an input of {sizes} numbers does not fit into memory") from error


def _guesses(model: nn.Module) -> list[tuple[int, ...]]:
    """Common sizes for the first convolution or linear layer of a model."""
    for _, module in named_modules(model):
        if isinstance(module, _ConvNd) and not module.transposed:
            dims = module.weight.dim() - 2
            sizes = {1: (1024, 256), 2: (224, 32, 64, 28, 299, 512), 3: (32, 16)}[dims]
            return [(1, module.in_channels, *(size,) * dims) for size in sizes]
        if isinstance(module, nn.Linear):
            return [(1, module.in_features), (1, 16, module.in_features)]
    return []
