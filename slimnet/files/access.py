"""Networks and files: open whatever a user has, save and load slim networks, prove them again."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from slimnet.capture.modules import copied, evaluation_mode
from slimnet.capture.randomness import drawing_from
from slimnet.capture.trace import capture
from slimnet.errors import CaptureError, InputError
from slimnet.example import map_tensors, normal, positional, tensors_of
from slimnet.files.artifact import (
    Artifact,
    check_cut_from,
    make_artifact,
    reweighted,
    write_artifact,
)
from slimnet.files.slim_file import is_slim, read_slim
from slimnet.lineage import is_cut_from, remember
from slimnet.network import Network
from slimnet.networks.arch import Arch
from slimnet.networks.checkpoint import open_model
from slimnet.networks.userfile import call_in_file
from slimnet.plan.companions import cut_state
from slimnet.plan.plan import Plan
from slimnet.plan.rebuild import rebuild
from slimnet.program.program import Program
from slimnet.progress import Progress, not_shown
from slimnet.proof.certificate import Certificate, difference
from slimnet.proving import prove
from slimnet.pruning import Pruned
from slimnet.repairs import Repair
from slimnet.repairs import repair as repair_layers
from slimnet.samples import Samples, samples_of


@dataclass(frozen=True, eq=False)
class Opened:
    """A network from a file: dense, or slim with what it was cut from."""

    model: nn.Module
    arch: Arch | None
    artifact: Artifact | None = None
    notes: tuple[str, ...] = ()
    dense: nn.Module | None = None  # what a slim network was cut from: its shapes only
    example: tuple[Any, ...] | None = None  # inputs that lie in the file
    recognised: bool = False  # by the names and shapes of its weights alone

    @property
    def class_is_unknown(self) -> bool:
        """Whether only the embedded program runs: the class of the network is not known."""
        return self.artifact is not None and self.dense is None

    @property
    def trains(self) -> bool:
        """Whether it can be trained: a program runs in evaluation mode only."""
        return not isinstance(self.model, Program)

    def artifact_of(self, pruned: Pruned) -> Artifact:
        """What to save after pruning this network: relative to what its file was cut from."""
        return make_artifact(
            pruned.model, *pruned.whole(), pruned.example, self.arch, trained=pruned.trained
        )


def open_network(
    path: str | Path,
    arch: Arch | None = None,
    *,
    weights: str | None = None,
    allow_pickle: bool = False,
) -> Opened:
    """Open a state dict, an exported program, a slim network or a pickled module.

    ``weights`` is the key of those to read where a checkpoint holds several. Raises
    :class:`InputError` for anything else, in one sentence.
    """
    if _holds_artifact(path, refuse=not allow_pickle):
        if weights is not None:
            raise InputError(f"{path} is a slim network, which holds no other weights")
        return _open_artifact(path, arch)
    opened = open_model(path, arch, weights=weights, allow_pickle=allow_pickle)
    return Opened(
        opened.model,
        opened.arch,
        None,
        opened.notes,
        example=opened.example,
        recognised=opened.recognised,
    )


def _holds_artifact(path: str | Path, *, refuse: bool) -> bool:
    try:
        return is_slim(path)
    except InputError:
        if refuse:
            raise
        return False


def _open_artifact(path: str | Path, arch: Arch | None) -> Opened:
    artifact = read_slim(path)
    built_by = artifact.arch if artifact.rebuilds and _same(arch, artifact.arch) else arch
    built = None if built_by is None else Network.of(built_by.build())
    dense = artifact.outline() if built is None else built.model
    before, after = artifact.plan.before or {}, artifact.plan.after or {}
    share = f" with {after['macs'] / before['macs']:.1%} of its MACs" if before.get("macs") else ""
    own = "exported program" if artifact.is_program else artifact.class_name
    name = built_by or artifact.arch or own
    model = _remembered(artifact, artifact.model(built))
    return Opened(model, built_by, artifact, (f"slim {name}{share}",), dense)


def _same(asked: Arch | None, stored: Arch | None) -> bool:
    """Whether the user asked for nothing else than what the file says."""
    return asked is None or str(asked) == str(stored)


def dense_of(
    opened: Opened, against: str | Path | None, *, allow_pickle: bool = False
) -> nn.Module | None:
    """What to time a network against: the given file, or a slim one's architecture as built."""
    if against is not None:
        return open_network(against, opened.arch, allow_pickle=allow_pickle).model
    if opened.artifact is not None and opened.arch is not None:
        return opened.arch.build(init=True)
    return None


@dataclass(frozen=True, eq=False)
class Reweighted:
    """A slim network whose weights changed after the cut, and its file's content."""

    model: nn.Module
    artifact: Artifact


@dataclass(frozen=True, eq=False)
class Repaired(Reweighted):
    """One with the weights of a repair, and what that did."""

    repair: Repair


def save(
    pruned: Pruned | Reweighted,
    path: str | Path,
    arch: Arch | str | None = None,
    *,
    trained: bool = False,
) -> Path:
    """Write a slim network to one file; one that was repaired from a file, as that knows it.

    ``arch`` names a built-in or torchvision architecture (``"torchvision:resnet18"``), which then
    is rebuilt on loading; without it the network is embedded as a program. Say ``trained`` where
    the weights were changed after the cut. Raises :class:`InputError` for a path that cannot be
    written, and for an ``arch`` that does not build this network: other shapes, or other outputs on
    the example (options that no shape shows belong into an :class:`~slimnet.networks.arch.Arch`).
    Warns where torch cannot record the network, so that the file loads only with its class.
    """
    source = pruned.artifact if isinstance(pruned, Reweighted) else pruned
    changed = trained or source.trained
    artifact = make_artifact(
        pruned.model, *_made_by(pruned), source.example, arch or _arch_of(pruned), trained=changed
    )
    if artifact.rebuilds:
        _check_rebuilt(Network.of(pruned.model), artifact)
    written = write_artifact(artifact, path)
    if artifact.caveat is not None:
        warnings.warn(f"{path}: {artifact.caveat}", stacklevel=2)
    return written


def _made_by(slim: Pruned | Reweighted) -> tuple[Plan, Certificate | None]:
    """Plan and certificate from the original on."""
    if isinstance(slim, Reweighted):
        return slim.artifact.plan, slim.artifact.certificate
    return slim.whole()


def _arch_of(slim: Pruned | Reweighted) -> Arch | None:
    return slim.artifact.arch if isinstance(slim, Reweighted) else None


def _plan_against(slim: Pruned, small: Network, against: Network) -> Plan:
    """The plan of all cuts where ``against`` is the original, else that of the last one."""
    whole, _ = slim.whole()
    return whole if is_cut_from(small, whole, against) else slim.plan


def _check_rebuilt(slim: Network, artifact: Artifact) -> None:
    rebuilt = Network.of(artifact.model().to(slim.device))
    with torch.no_grad():
        outputs = []
        for network in (slim, rebuilt):
            with evaluation_mode(network), drawing_from(0):
                inputs = map_tensors(torch.Tensor.clone, artifact.example)
                outputs.append(tensors_of(network.model(*inputs)))
    off = difference(*outputs)
    if off > _REBUILT:
        raise InputError(
            f"{artifact.arch} does not compute what this network computes (relative difference "
            f"{off:.0e} on the example): name the options that it was built with, "
            "arch=Arch(source, name, options), or leave arch out"
        )


_REBUILT = 1e-3  # float32's own rounding stays far below


def load(path: str | Path, into: nn.Module | None = None) -> nn.Module:
    """Read a slim network, in evaluation mode, without running code from the file.

    ``into`` is the dense network as your code builds it (it is not changed): the result is of its
    class and can be trained on. Without it, built-in and torchvision architectures are rebuilt, and
    any other runs as its embedded program. Raises :class:`InputError` for a file that is no slim
    network, and for an ``into`` that it was not cut from.
    """
    artifact = read_slim(path)
    dense = None if into is None else Network.of(into)
    return _remembered(artifact, artifact.model(dense).eval())


def _remembered(artifact: Artifact, model: nn.Module) -> nn.Module:
    """So that the network can be pruned again, and saved relative to the original."""
    remember(Network.of(model), artifact.plan, artifact.certificate, trained=artifact.trained)
    return model


@overload
def repair(
    slim: Pruned,
    against: nn.Module,
    data: Samples | Tensor,
    *,
    seed: int = 0,
    refine: bool = True,
    watch: Progress = not_shown,
) -> Pruned: ...
@overload
def repair(
    slim: Reweighted | Artifact | str | Path,
    against: nn.Module,
    data: Samples | Tensor,
    *,
    seed: int = 0,
    refine: bool = True,
    watch: Progress = not_shown,
) -> Repaired: ...
def repair(
    slim: Pruned | Reweighted | Artifact | str | Path,
    against: nn.Module,
    data: Samples | Tensor,
    *,
    seed: int = 0,
    refine: bool = True,
    watch: Progress = not_shown,
) -> Pruned | Repaired:
    """Win back, without labels, what a cut of ``against`` cost (:mod:`slimnet.repair`).

    ``slim`` is what :func:`slimnet.prune` returned, or a file; what comes back of it can be saved,
    verified and repaired again. ``data`` are images [N, C, H, W], normalised; no label is used.
    Without ``refine`` each layer is solved by itself. Raises :class:`InputError` where they do not
    fit the network, or the slim network is not one of ``against``.
    """
    samples = samples_of(data, against)
    if samples is None:
        raise InputError("repair needs images to solve on: give them as data")
    how: dict[str, Any] = {"seed": seed, "refine": refine, "watch": watch}
    network = Network.of(against)
    if isinstance(slim, Pruned):
        small = Network.of(slim.model)
        plan = _plan_against(slim, small, network)
        check_cut_from(network, small, plan)
        if small.device != network.device:
            small = Network.of(copied(small).to(network.device))
        model, report = repair_layers(network, small, plan, samples, **how)
        repaired = replace(slim, model=model, repair=report)
        remember(Network.of(model), *repaired.whole(), trained=True)
        return repaired
    artifact = _artifact_of(slim)
    small = Network.of(artifact.model(network).to(network.device))
    model, report = repair_layers(network, small, artifact.plan, samples, **how)
    fresh = reweighted(artifact, model)
    return Repaired(_remembered(fresh, model), fresh, report)


def _artifact_of(slim: Reweighted | Artifact | str | Path) -> Artifact:
    held = slim.artifact if isinstance(slim, Reweighted) else slim
    return held if isinstance(held, Artifact) else read_slim(held)


def apply(plan: Plan | Pruned | Artifact | str | Path, model: nn.Module | Mapping[str, Any]) -> Any:
    """Cut any checkpoint of the network that a plan was made for, without another look at it.

    ``plan`` may be what :func:`slimnet.prune` returned, or a file. A model gives a new one, and
    stays as it is; a state dict gives another (moving averages, say). Nothing is proven here:
    :func:`verify` does that. Raises :class:`InputError` where the plan does not fit.
    """
    if isinstance(plan, Pruned):
        plan = plan.whole()[0]
    elif not isinstance(plan, Plan):
        plan = _artifact_of(plan).plan
    if not isinstance(model, nn.Module):
        return cut_state(model, plan)
    slim = rebuild(Network.of(model), plan)
    remember(Network.of(slim), plan, None, trained=False)
    return slim


def verify(
    slim: Pruned | Reweighted | Artifact | str | Path, against: nn.Module, *, seed: int = 0
) -> Certificate:
    """Prove again that a slim network is ``against`` with the removed channels zeroed.

    Of a network whose weights were repaired or trained after the cut, only the structure is proven,
    with random weights. Raises :class:`~slimnet.errors.CertificateError` where the proof fails.
    """
    network = Network.of(against)
    if isinstance(slim, Pruned):
        small = Network.of(slim.model)
        plan = _plan_against(slim, small, network)
        return prove(network, small, plan, slim.example, seed=seed, trained=slim.trained)
    artifact = _artifact_of(slim)
    small = Network.of(artifact.model(network).to(network.device))
    example = map_tensors(lambda x: x.to(network.device), artifact.example)
    return prove(network, small, artifact.plan, example, seed=seed, trained=artifact.trained)


def example_for(
    opened: Opened, shapes: Sequence[Sequence[int]] = (), made_by: str | None = None
) -> tuple[tuple[Any, ...], str]:
    """Inputs to record the network with, and a sentence that says where they come from.

    ``made_by`` is a function of the user's, ``path/to/file.py:make_inputs``. Without it and
    ``shapes``: those of a slim network's file, else the architecture's usual ones, else the first
    layer's channels at common sizes, tried. Raises :class:`InputError`.
    """
    if shapes and made_by:
        raise InputError("--input and --example both say what the inputs are: give one of them")
    if made_by:
        return _user_example(opened.model, made_by), f"from {made_by}"
    if shapes:
        return tuple(normal(shape) for shape in shapes), "as given"
    if opened.artifact is not None:
        return opened.artifact.example, "as it was pruned with"
    if opened.example is not None:
        return opened.example, "as it was exported with"
    if opened.arch is not None and (usual := opened.arch.example()) is not None:
        return usual, "the architecture's usual size"
    network = Network.of(opened.model)
    guesses = _guesses(network.modules.values())
    for shape in guesses:
        example = (normal(shape),)
        try:
            capture(network, example)
        except CaptureError:
            continue
        return example, "guessed, and it runs"
    tried = ", ".join("x".join(map(str, shape)) for shape in guesses) or "nothing"
    raise InputError(
        f"the input shape cannot be told from the network (tried {tried}); give it, batch "
        "included: --input 1,3,224,224, or what makes the inputs: --example file.py:make_inputs"
    )


def _user_example(model: nn.Module, spec: str) -> tuple[Any, ...]:
    """What a function of the user's returns, as positional inputs."""
    inputs = call_in_file(spec, {})
    if isinstance(inputs, Tensor):
        return (inputs,)
    if isinstance(inputs, (tuple, Mapping)):
        return positional(model, inputs)
    raise InputError(
        f"{spec} returned a {type(inputs).__name__}: it must return a tensor, a tuple of "
        "positional inputs or a dict of keyword inputs"
    )


def _guesses(modules: Iterable[nn.Module]) -> list[tuple[int, ...]]:
    """Common sizes for the first convolution or linear layer of a model."""
    for module in modules:
        if isinstance(module, _ConvNd) and not module.transposed:
            dims = module.weight.dim() - 2
            sizes = {1: (1024, 256), 2: (224, 32, 64, 28, 299, 512), 3: (32, 16)}[dims]
            return [(1, module.in_channels, *(size,) * dims) for size in sizes]
        if isinstance(module, nn.Linear):
            return [(1, module.in_features), (1, 16, module.in_features)]
    return []
