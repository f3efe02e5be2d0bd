"""The command line: parse, call the API, print.

Every refusal is one sentence on stderr and exit code 2. What takes seconds to import (runtimes,
data sets, plots) is imported by the commands that use it, so that the others answer at once.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from torch import nn

from slimnet import console, options
from slimnet.arch import parse_arch
from slimnet.artifact import read_artifact, write_artifact
from slimnet.criteria import load_criteria
from slimnet.errors import CaptureError, InputError, SlimnetError
from slimnet.files import Opened, example_for, open_network
from slimnet.files import verify as verify_file
from slimnet.output import check_writable, make_folder
from slimnet.prune import Inspection
from slimnet.prune import inspect as inspect_network
from slimnet.prune import prune as prune_network
from slimnet.trace import capture, map_tensors
from slimnet.version import __version__

if TYPE_CHECKING:
    from slimnet.export import Latency, OnnxExport
    from slimnet.train import Dataset
    from slimnet.workflow import DemoResult

app = typer.Typer(
    help="Make a trained PyTorch network smaller and really faster, with a proof of every cut.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_UsageError: Any = typer.BadParameter.__mro__[1]  # click's, wherever this typer keeps it


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: a refusal is one sentence and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(app(given or ["--help"], prog_name="slimnet", standalone_mode=False) or 0)
    except SlimnetError as error:
        _refuse(str(error))
    except _UsageError as error:
        _refuse(f"{error.format_message().rstrip('.')} ({_help(given)})")
    except (KeyboardInterrupt, typer.Abort):
        console.err.print("slimnet: stopped")
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _refuse(sentence: str) -> None:
    text = " ".join(sentence.split())
    console.err.print(f"slimnet: {text}", markup=False)
    sys.exit(2)


def _help(given: Sequence[str]) -> str:
    command = given[0] if given and given[0] in _COMMANDS else ""
    return f"{' '.join(['slimnet', command]).strip()} --help shows how"


def _version(value: bool) -> None:
    if value:
        console.say(f"slimnet {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


@app.command()
def inspect(
    model: options.ModelFile,
    arch: options.Arch = None,
    input: options.Inputs = None,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Show what hangs together, what can be cut, and for each layer that cannot: why.

    Example: slimnet inspect resnet18.pt
    """
    _use(threads)
    place = options.device(device)
    opened = _open(model, arch, allow_pickle)
    example, described = _example(model, opened, input)
    found = inspect_network(*_on(place, opened.model, example))
    if as_json:
        _print_json({"network": described, **_inspection(found)})
        return
    console.say(described)
    console.say()
    console.show_inspection(found)


def _on(
    place: torch.device, model: nn.Module, example: tuple[Any, ...]
) -> tuple[nn.Module, tuple[Any, ...]]:
    """A network and its inputs on one device."""
    return model.to(place), map_tensors(lambda x: x.to(place), example)


def _inspection(found: Inspection) -> dict[str, Any]:
    groups = [
        {
            "number": group.number,
            "channels": group.width,
            "channels_at_a_time": group.channels_per_atom,
            "layers": group.layers,
            "approximate": [str(reason) for reason in group.approximate],
        }
        for group in found.groups
    ]
    layers = [asdict(layer) for layer in found.layers]
    return {"cost": found.cost.to_json(), "layers": layers, "groups": groups}


@app.command()
def prune(
    model: options.ModelFile,
    ratio: Annotated[
        float | None, typer.Option("--ratio", help="share of the channels to remove, [0, 1)")
    ] = None,
    macs: Annotated[
        float | None, typer.Option("--macs", help="share of the MACs that may remain, (0, 1]")
    ] = None,
    params: Annotated[
        float | None,
        typer.Option("--params", help="share of the parameters that may remain, (0, 1]"),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="the slim network")] = Path(
        "slim.pt"
    ),
    criterion: Annotated[
        str, typer.Option("--criterion", help=f"one of: {', '.join(load_criteria())}")
    ] = "l1",
    scope: options.Scope = "local",
    align: options.AlignTo = "auto",
    min_channels: options.MinChannels = None,
    keep: options.Keep = None,
    layer_ratio: options.LayerRatio = None,
    arch: options.Arch = None,
    input: options.Inputs = None,
    allow_pickle: options.AllowPickle = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="prove the result (four passes in float64)")
    ] = True,
    as_json: options.Json = False,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Cut a network down and prove the result; writes slim.pt.

    Example: slimnet prune resnet18.pt --ratio 0.5 -o slim.pt
    """
    _use(threads)
    settings: dict[str, Any] = {
        "ratio": ratio,
        "macs": macs,
        "params": params,
        "criterion": criterion,
        "scope": scope,
        "align": options.align(align),
        "min_channels": min_channels,
        "keep": tuple(keep or ()),
        "layer_ratio": options.layer_ratios(layer_ratio or []),
    }
    options.check_cut(**settings)
    place = options.device(device)
    check_writable(output)
    opened = _open(model, arch, allow_pickle)
    example, described = _example(model, opened, input)
    with console.watching(quiet=as_json) as watch:
        watch("cutting and proving" if verify else "cutting", 0.0)
        network, inputs = _on(place, opened.model, example)
        pruned = prune_network(network, inputs, seed=seed, verify=verify, **settings)
        watch("writing", 0.9)
        write_artifact(opened.artifact_of(pruned), output)
    proof = pruned.certificate
    if as_json:
        record = {"network": described, "output": str(output), "plan": pruned.plan.to_json()}
        _print_json(record | {"certificate": proof.to_json() if proof else None})
        return
    console.say(described)
    console.say()
    console.show_cut(pruned.plan)
    console.show_proof(proof)
    console.written(output)


@app.command()
def verify(
    slim: Annotated[Path, typer.Argument(help="a slim.pt", show_default=False)],
    against: Annotated[Path, typer.Option("--against", help="the network that it was cut from")],
    arch: options.Arch = None,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Prove a slim network again, from the files alone.

    Example: slimnet verify slim.pt --against resnet18.pt
    """
    _use(threads)
    place = options.device(device)
    artifact = read_artifact(slim)
    known = parse_arch(arch) if arch else artifact.arch if artifact.rebuilds else None
    try:
        dense = open_network(against, known, allow_pickle=allow_pickle)
    except InputError as error:
        if known is None and artifact.arch is not None:
            raise InputError(f"{error}; {slim} was made with --arch {artifact.arch}") from error
        raise
    certificate = verify_file(artifact, dense.model.to(place), seed=seed)
    if as_json:
        _print_json({**certificate.to_json(), "trained": artifact.trained})
    else:
        console.show_proof(certificate, trained=artifact.trained)


@app.command()
def export(
    slim: Annotated[Path, typer.Argument(help="a slim.pt, or any network", show_default=False)],
    file: Annotated[
        Path | None, typer.Argument(help="the ONNX file; the network's name by default")
    ] = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="write ONNX (the only format so far)")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option("--against", help="the dense network to time it against; known for built-ins"),
    ] = None,
    batch: options.Batch = 1,
    latency: options.Latency = True,
    arch: options.Arch = None,
    input: options.Inputs = None,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
    threads: options.Threads = None,
) -> None:
    """Write ONNX, compare it with PyTorch, and time it against the dense network.

    Example: slimnet export slim.pt --onnx slim.onnx
    """
    from slimnet.export import export_onnx
    from slimnet.study import write_json

    _use(threads)
    if not onnx:
        raise InputError("name the format to export to: --onnx")
    target = file or slim.with_suffix(".onnx")
    check_writable(target)
    opened = _open(slim, arch, allow_pickle, program=True)
    example, described = _example(slim, opened, input)
    dense = _dense(opened, against, allow_pickle) if latency else None
    with console.watching(quiet=as_json) as watch:
        watch("exporting", 0.0)
        exported = export_onnx(opened.model, example, target)
        measured = None
        if latency:
            watch("measuring latency", 0.5)
            measured = _measure(target, dense, example, batch, threads)
    record = {
        "network": described,
        "onnx": exported.to_json(),
        "latency": None if measured is None else measured.to_json(),
    }
    write_json(target.with_name(f"{target.name}.json"), record)
    if as_json:
        _print_json(record)
        return
    console.say(described)
    _show_export(target, exported, measured)


def _dense(opened: Opened, against: Path | None, allow_pickle: bool) -> torch.nn.Module | None:
    """The dense network to time against: the given file, or the architecture as it is built."""
    if against is not None:
        return open_network(against, opened.arch, allow_pickle=allow_pickle).model
    if opened.artifact is not None and opened.arch is not None:
        return opened.arch.build(init=True)
    return None


def _measure(
    target: Path,
    dense: torch.nn.Module | None,
    example: tuple[Any, ...],
    batch: int,
    threads: int | None,
) -> Latency:
    from slimnet.export import export_onnx, measure_latency

    with tempfile.TemporaryDirectory(prefix="slimnet-") as folder:
        files = {"slim": target}
        if dense is not None:
            export_onnx(dense, example, Path(folder) / "dense.onnx", verify=False)
            files = {"dense": Path(folder) / "dense.onnx", "slim": target}
        return measure_latency(files, example, batch=batch, threads=threads)


def _show_export(target: Path, exported: OnnxExport, measured: Latency | None) -> None:
    batch = "dynamic batch" if exported.dynamic_batch else f"fixed batch: {exported.static_reason}"
    console.written(
        target, f"written: {exported.parameters:,} numbers, opset {exported.opset}, {batch}"
    )
    parity = exported.parity
    if parity is not None:
        console.say(
            f"equals PyTorch within {parity.error:.1e} (relative, tolerance "
            f"{parity.tolerance:.0e}, onnxruntime, batches {', '.join(map(str, parity.batches))})"
        )
    if measured is not None:
        console.say(f"latency: {measured.sentence()}")
        if not measured.speedups:
            console.say("timed alone: --against DENSE.pt compares it with the dense network")
        console.note(measured.conditions())


@app.command()
def compare(
    model: options.ModelFile,
    data: Annotated[
        str,
        typer.Option(
            "--data", help="digits, npz:FILE, cifar10:ROOT, imagefolder:ROOT, file.py:make_data"
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="folder of results; resumed")],
    ratio: Annotated[str, typer.Option("--ratio", help="shares of channels: 0.3,0.5,0.7")] = "0.5",
    criterion: Annotated[
        str, typer.Option("--criterion", help=f"any of: {', '.join(load_criteria())}")
    ] = "l1",
    regime: Annotated[
        str, typer.Option("--regime", help="how to retrain; an unknown name lists all")
    ] = "finetune,scratch-e,scratch-b",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="runs of each, for the spread")] = 3,
    epochs: Annotated[int, typer.Option("--epochs", help="of the base schedule")] = 160,
    lr: Annotated[float, typer.Option("--lr", help="of the base schedule")] = 0.1,
    train_batch: Annotated[int, typer.Option("--train-batch", help="images per step")] = 64,
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", min=0, help="of the base schedule")
    ] = 1e-4,
    normalize: Annotated[
        str | None, typer.Option("--normalize", help="imagenet, cifar10, none or MEANS/STDS")
    ] = None,
    train_images: Annotated[
        int | None, typer.Option("--train-images", min=1, help="use only so many")
    ] = None,
    test_images: Annotated[
        int | None, typer.Option("--test-images", min=1, help="use only so many")
    ] = None,
    scope: options.Scope = "local",
    align: options.AlignTo = "auto",
    min_channels: options.MinChannels = None,
    keep: options.Keep = None,
    layer_ratio: options.LayerRatio = None,
    batch: options.Batch = 1,
    latency: options.Latency = True,
    arch: options.Arch = None,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Prune, retrain in several regimes with several seeds, and compare; writes report.html.

    Stopped and started again with the same options, it goes on where it was.

    Example: slimnet compare net.pt --data npz:cifar10.npz --ratio 0.3,0.5 --seeds 3 -o study
    """
    from slimnet.report import table
    from slimnet.study import Study
    from slimnet.train import REGIMES, Schedule, load_data
    from slimnet.workflow import Settings, check_cuts, run_comparison, write_comparison

    _use(threads)
    study = Study(
        ratios=options.numbers(ratio, "--ratio"),
        criteria=options.names(criterion, load_criteria()),
        regimes=options.names(regime, REGIMES),
        seeds=tuple(range(seed, seed + seeds)),
        base=Schedule(epochs=epochs, lr=lr, batch=train_batch, weight_decay=weight_decay),
    )
    limits: dict[str, Any] = {
        "scope": scope,
        "align": options.align(align),
        "min_channels": min_channels,
        "keep": list(keep or ()),
        "layer_ratio": options.layer_ratios(layer_ratio or []),
    }
    options.check_cut(ratio=0.0, **limits)
    settings = Settings(
        prune={**limits, "seed": seed},
        latency_batch=batch if latency else None,
        threads=threads,
        device=str(options.device(device)),
    )
    dataset = load_data(data, normalize).limited(train=train_images, test=test_images)
    opened = _open(model, arch, allow_pickle)
    example = _fitting(opened, dataset)
    check_cuts(opened.model, example, study, settings)
    folder = make_folder(output)
    with console.watching(quiet=as_json) as watch:
        network = run_comparison(
            model.stem, opened.model, example, dataset, study, folder, settings, watch
        )
        command = shlex.join(["slimnet", *sys.argv[1:]])
        page = write_comparison(folder, f"{model.name}: slim networks", command, [network])
    if as_json:
        _print_json(network.results.to_json() if network.results else {})
        return
    if network.results is not None:
        console.show(table(network.results))
    console.written(page, "written, with results.json and the cells beside it")


def _fitting(opened: Opened, dataset: Dataset) -> tuple[torch.Tensor]:
    """One image as the example; refuses data that the network cannot train on."""
    from slimnet.train import check_fits

    usual = opened.arch.input_shape if opened.arch is not None else None
    check_fits(dataset, usual or dataset.image_shape, dataset.num_classes)
    example = (torch.zeros(1, *dataset.image_shape),)
    try:
        capture(opened.model, example)
    except CaptureError as error:
        size = "x".join(map(str, dataset.image_shape))
        why = str(error.__cause__).split("\n")[0]
        raise InputError(
            f"{dataset.name}: the network does not run on its images of {size}: {why}"
        ) from error
    with torch.no_grad():
        scores = opened.model(*example)
    if not isinstance(scores, torch.Tensor) or scores.dim() != 2:
        raise InputError("compare needs a network whose output is one score per class [N, classes]")
    check_fits(dataset, dataset.image_shape, int(scores.shape[1]))
    return example


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="folder of results")] = Path(
        "slimnet-demo"
    ),
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="runs of each regime")] = 3,
    as_json: options.Json = False,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """The whole way once, on scanned digits: train, cut, prove, retrain, export, measure.

    Example: slimnet demo -o demo
    """
    from slimnet.workflow import run_demo

    _use(threads)
    place = str(options.device(device))
    folder = make_folder(output)
    with console.watching(quiet=as_json) as watch:
        result = run_demo(folder, seeds=seeds, watch=watch, threads=threads, device=place)
    if as_json:
        _print_json({n.name: n.results.to_json() for n in result.networks if n.results})
    else:
        _show_demo(result, folder)


def _show_demo(result: DemoResult, folder: Path) -> None:
    from slimnet.report import table, words
    from slimnet.verify import Certificate

    for network in result.networks:
        if network.results is not None:
            console.show(table(network.results, network.name))
        for slim in network.slim:
            if slim.certificate is not None:
                console.show_proof(Certificate.from_json(slim.certificate))
            console.say(words.speed_sentence(slim.latency))
            console.say()
    if result.conditions:
        console.note(f"ms: {result.conditions}")
    console.written(folder, "holds report.html, results.json, slim.pt, dense.onnx and slim.onnx")


def _use(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def _open(path: Path, arch: str | None, allow_pickle: bool, *, program: bool = False) -> Opened:
    """The network in the file; one that only runs as a ``program`` must be asked for."""
    opened = open_network(path, parse_arch(arch) if arch else None, allow_pickle=allow_pickle)
    if opened.is_program and not program and opened.artifact is not None:
        built = opened.artifact.arch or "path/to/file.py:make_model"
        raise InputError(
            f"{path} holds a network of a class that is not known here: give what builds the dense "
            f"one with --arch {built}, which runs that file"
        )
    return opened


def _example(path: Path, opened: Opened, inputs: list[str] | None) -> tuple[tuple[Any, ...], str]:
    """Example inputs, and a sentence about the file: what it is, what it takes."""
    shapes = [options.shape(text) for text in inputs or []]
    example, why = example_for(opened, shapes)
    sizes = [
        "x".join(map(str, leaf.shape)) or "a number"
        for leaf in torch.utils._pytree.tree_leaves(example)
        if isinstance(leaf, torch.Tensor)
    ]
    made = "; ".join(opened.notes) or str(opened.arch or type(opened.model).__name__)
    return example, f"{path.name}: {made}; input {', '.join(sizes) or 'no tensor'} ({why})"


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


_COMMANDS = ("inspect", "prune", "verify", "export", "compare", "demo")
