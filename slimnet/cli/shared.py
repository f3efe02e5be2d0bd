"""What the commands share: networks, inputs and devices from their options; what they write."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from slimnet.cli import console
from slimnet.cli.commands import Files, Run
from slimnet.errors import InputError
from slimnet.example import map_tensors, tensors_of
from slimnet.files.access import Opened, example_for, open_network
from slimnet.files.artifact import Artifact, write_artifact
from slimnet.files.slim_file import read_slim, record_of
from slimnet.files.tensors_file import SUFFIX, write_tensors
from slimnet.networks.arch import parse_arch
from slimnet.networks.checkpoint import UNSEEN

if TYPE_CHECKING:
    from slimnet.train.execution import Execution


def place_of(run: Run) -> torch.device:
    """The device that was asked for, with as many threads."""
    use_threads(run)
    return device_called(run.device)


def use_threads(run: Run) -> None:
    """As many as were asked for."""
    if run.threads is not None:
        torch.set_num_threads(run.threads)


def device_called(name: str | None) -> torch.device:
    """A device that works here; without a name the GPU where there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # a device may be known and not be here
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise InputError(f"there is no device {name!r} here: the known ones are {here}") from error
    return device


def open_any(path: Path, files: Files, *, program: bool = False) -> Opened:
    """The network in the file; one that only runs as a ``program`` must be asked for."""
    arch = parse_arch(files.arch) if files.arch else None
    opened = open_network(path, arch, weights=files.weights, allow_pickle=files.allow_pickle)
    if opened.class_is_unknown and not program and opened.artifact is not None:
        built = opened.artifact.arch or "path/to/file.py:make_model"
        raise InputError(
            f"{path} holds a network of a class that is not known here: give what builds the dense "
            f"one with --arch {built}, which runs that file"
        )
    return opened


def open_to_train(path: Path, files: Files, *, dense: bool = False) -> Opened:
    """The network in the file; refused where it cannot be trained, or is not ``dense``."""
    opened = open_any(path, files)
    if not opened.trains:
        raise InputError(
            f"{path} is an exported program, which cannot be trained: give the network's class, "
            "--arch path/to/file.py:make_model"
        )
    if dense and opened.artifact is not None:
        raise InputError(
            f"{path} is a slim network, and what is written here is a plain state dict, without "
            "its plan: sparsify the dense network, then prune"
        )
    return opened


def slim_and_dense(slim: Path, against: Path, files: Files) -> tuple[Artifact, Opened]:
    """A slim network's file, and the network that it was cut from."""
    artifact = read_slim(slim)
    stated = artifact.arch if artifact.rebuilds else None
    arch = parse_arch(files.arch) if files.arch else stated
    try:
        dense = open_network(against, arch, weights=files.weights, allow_pickle=files.allow_pickle)
        return artifact, dense
    except InputError as error:
        if arch is None and artifact.arch is not None:
            raise InputError(f"{error}; {slim} was made with --arch {artifact.arch}") from error
        raise


def inputs_of(path: Path, opened: Opened, files: Files) -> tuple[tuple[Any, ...], str]:
    """Example inputs, and a sentence about the file: what it is, what it takes."""
    example, why = example_for(opened, list(files.input), files.example)
    sizes = ["x".join(map(str, leaf.shape)) or "a number" for leaf in tensors_of(example)]
    made = "; ".join(opened.notes) or str(opened.arch or type(opened.model).__name__)
    sentence = f"{path.name}: {made}; input {', '.join(sizes) or 'no tensor'} ({why})"
    return example, f"{sentence}; {UNSEEN}" if opened.recognised else sentence


def on_device(
    place: torch.device, model: nn.Module, example: tuple[Any, ...]
) -> tuple[nn.Module, tuple[Any, ...]]:
    """A network and its inputs on one device."""
    return model.to(place), map_tensors(lambda x: x.to(place), example)


def write_slim(artifact: Artifact, model: torch.nn.Module, output: Path) -> None:
    """As slimnet's own file, or as an exported program or tensors that carry plan and proof."""
    if output.suffix.lower() == SUFFIX:
        write_tensors(artifact, output)
        return
    if output.suffix.lower() != ".pt2":
        write_artifact(artifact, output)
        if artifact.caveat is not None:
            console.warn(f"{output}: {artifact.caveat}")
        return
    from slimnet.export import export_pt2

    export_pt2(model, artifact.example, output, extra=record_of(artifact))


def built_by(files: Files) -> Iterator[tuple[str, ...]]:
    """The options that say what a network is made of, as they are typed again."""
    named = {"--arch": files.arch, "--weights": files.weights}
    yield from ((name, value) for name, value in named.items() if value)
    if files.allow_pickle:
        yield ("--allow-pickle",)


def shape_text(shape: Sequence[int]) -> str:
    """``1,3,224,224``, as ``--input`` takes it."""
    return ",".join(map(str, shape))


def print_json(value: Any) -> None:
    """On stdout."""
    console.out.file.write(json.dumps(value, indent=1) + "\n")


def execution_called(precision: str | None) -> Execution | None:
    """The number type that a training was told; None leaves it to a trial."""
    # the trainings import data sets
    from slimnet.train.execution import Execution

    known = {"float32": Execution(), "bfloat16": Execution(bfloat16=True)}
    if precision is not None and precision not in known:
        raise InputError(f"unknown precision {precision!r}: the known ones are {', '.join(known)}")
    return known[precision] if precision else None
