"""The command line: parse, call the API, print.

Every refusal is one sentence on stderr and exit code 2. What takes seconds to import (runtimes,
data sets, plots) is imported by the commands that use it, so that the others answer at once.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from slimnet import console, options
from slimnet.artifact import Artifact, write_artifact
from slimnet.calibration import network_before, read_images, read_samples, read_test_images
from slimnet.capture.modules import named_tensors
from slimnet.capture.trace import capture, map_tensors
from slimnet.criteria import check_needs, load_criteria
from slimnet.errors import InputError, SlimnetError
from slimnet.example import tensors_of
from slimnet.files import Opened, dense_of, example_for, open_network
from slimnet.files import repair as repair_file
from slimnet.files import verify as verify_file
from slimnet.networks.arch import parse_arch
from slimnet.output import check_writable, make_folder
from slimnet.prune import inspect as inspect_network
from slimnet.prune import prune as prune_network
from slimnet.record import read_slim, record_of
from slimnet.sensitivity import sensitivity as measure_sensitivity
from slimnet.version import __version__

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
    example: options.Example = None,
    allow_pickle: options.AllowPickle = False,
    heads: options.Heads = False,
    graph: options.Graph = None,
    as_json: options.Json = False,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Show what hangs together, what can be cut, and for each layer that cannot: why.

    Example: slimnet inspect resnet18.pt --graph resnet18.html
    """
    _use(threads)
    if graph is not None:
        from slimnet.report.picture import check_picture

        check_picture(graph)
    place = options.device(device)
    opened = _open(model, arch, allow_pickle)
    inputs, described = _example(model, opened, input, example)
    network, inputs = _on(place, opened.model, inputs)
    found = inspect_network(network, inputs, heads=heads)
    if graph is not None:
        from slimnet.report.picture import write_picture

        write_picture(graph, network, capture(network, inputs), found, title=described)
    if as_json:
        _print_json({"network": described, **found.to_json()})
        return
    console.say(described)
    console.say()
    console.show_inspection(found)
    if graph is not None:
        console.written(graph)


def _on(
    place: torch.device, model: nn.Module, example: tuple[Any, ...]
) -> tuple[nn.Module, tuple[Any, ...]]:
    """A network and its inputs on one device."""
    return model.to(place), map_tensors(lambda x: x.to(place), example)


def _write(artifact: Artifact, model: torch.nn.Module, output: Path) -> None:
    """As slimnet's own file, or as an exported program that carries plan and certificate."""
    if output.suffix != ".pt2":
        write_artifact(artifact, output)
        return
    from slimnet.export import export_pt2

    export_pt2(model, artifact.example, output, extra=record_of(artifact))


@app.command()
def prune(
    model: options.ModelFile,
    ratio: options.Ratio = None,
    macs: options.Macs = None,
    params: options.Params = None,
    bytes: options.Bytes = None,
    output: options.SlimFile = Path("slim.pt"),
    criterion: options.Criterion = None,
    across: options.Across = None,
    reduce: options.Reduce = None,
    data: options.Calibration = None,
    normalize: options.Normalize = None,
    samples: options.Samples = 1024,
    init: options.Init = None,
    scope: options.Scope = None,
    repair: options.Repair = False,
    align: options.AlignTo = "auto",
    min_channels: options.MinChannels = None,
    keep: options.Keep = None,
    layer_ratio: options.LayerRatio = None,
    steps: options.Steps = 1,
    heads: options.Heads = False,
    drop_blocks: options.DropBlocks = None,
    arch: options.Arch = None,
    input: options.Inputs = None,
    example: options.Example = None,
    allow_pickle: options.AllowPickle = False,
    verify: options.Verify = True,
    as_json: options.Json = False,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Cut a network down and prove the result; writes slim.pt, or an exported slim.pt2.

    Example: slimnet prune resnet18.pt --ratio 0.5 -o slim.pt
    """
    _use(threads)
    settings: dict[str, Any] = {
        "ratio": ratio,
        "macs": macs,
        "params": params,
        "bytes": options.size(bytes),
        "criterion": criterion,
        "across": across,
        "reduce": reduce,
        "drop_blocks": options.blocks(drop_blocks),
        **options.limits(scope, align, min_channels, keep, layer_ratio),
    }
    options.check_cut(**settings)
    options.check_data(criterion, repair, data=data is not None, init=init is not None)
    place = options.device(device)
    check_writable(output)
    opened = _open(model, arch, allow_pickle)
    inputs, described = _example(model, opened, input, example)
    with console.watching(quiet=as_json) as watch:
        images = read_samples(data, normalize, samples, inputs, seed)
        before = network_before(init, opened, allow_pickle=allow_pickle)
        watch("cutting and proving" if verify else "cutting", 0.0)
        network, inputs = _on(place, opened.model, inputs)
        pruned = prune_network(
            network,
            inputs,
            data=images,
            init=None if before is None else dict(named_tensors(before)),
            steps=steps,
            heads=heads,
            repair=repair,
            seed=seed,
            verify=verify,
            watch=watch,
            **settings,
        )
        watch("writing", 0.9)
        _write(opened.artifact_of(pruned), pruned.model, output)
    proof = pruned.certificate
    if as_json:
        record = {"network": described, "output": str(output), "plan": pruned.plan.to_json()}
        parts = {"certificate": proof, "repair": pruned.repair}
        _print_json(record | {name: part and part.to_json() for name, part in parts.items()})
        return
    console.say(described)
    console.say()
    console.show_cut(pruned.plan)
    console.show_proof(proof)
    if pruned.repair is not None:
        console.show_repair(pruned.repair)
    console.written(output)


@app.command()
def repair(
    slim: options.SlimInput,
    against: options.Original,
    data: options.Data,
    output: options.Repaired = Path("repaired.pt"),
    normalize: options.Normalize = None,
    samples: options.Samples = 1024,
    arch: options.Arch = None,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Win back the accuracy of a slim network without training and without labels.

    Example: slimnet repair slim.pt --against resnet18.pt --data npz:cifar10.npz -o repaired.pt
    """
    _use(threads)
    place = options.device(device)
    check_writable(output)
    artifact, dense = _slim_and_dense(slim, against, arch, allow_pickle)
    with console.watching(quiet=as_json) as watch:
        images = read_samples(data, normalize, samples, artifact.example, seed)
        mended = repair_file(artifact, dense.model.to(place), images, seed=seed, watch=watch)
        _write(mended.artifact, mended.model, output)
    done = mended.repair
    if as_json:
        _print_json({"output": str(output), "repair": done.to_json()})
        return
    console.show_repair(done)
    console.written(output)


@app.command()
def sensitivity(
    model: options.ModelFile,
    data: options.Measured = None,
    output: options.Page = Path("sensitivity.html"),
    points: options.Points = 5,
    criterion: options.OneCriterion = "l1",
    across: options.Across = None,
    reduce: options.Reduce = None,
    normalize: options.Normalize = None,
    samples: options.MeasuredImages = 512,
    init: options.Init = None,
    heads: options.Heads = False,
    arch: options.Arch = None,
    input: options.Inputs = None,
    example: options.Example = None,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Cut each group alone to several widths: accuracy, or the change of the outputs.

    Example: slimnet sensitivity resnet56.pt --data npz:cifar10.npz -o sensitivity.html
    """
    from slimnet.report.sensitivity import measured_sentence, sensitivity_table, write_sensitivity
    from slimnet.workflow import versions

    _use(threads)
    check_needs(criterion, data=data is not None, init=init is not None)
    check_writable(output)
    place = options.device(device)
    opened = _open(model, arch, allow_pickle)
    inputs, described = _example(model, opened, input, example)
    with console.watching(quiet=as_json) as watch:
        watch("reading images", 0.0)
        reads = data if read_images([criterion]) else None
        before = network_before(init, opened, allow_pickle=allow_pickle)
        images = read_test_images(data, normalize, samples, inputs)
        calibration = read_samples(reads, normalize, samples, inputs, seed)
        network, inputs = _on(place, opened.model, inputs)
        found = measure_sensitivity(
            network,
            inputs,
            images,
            points=points,
            criterion=criterion,
            across=across,
            reduce=reduce,
            calibration=calibration,
            init=None if before is None else dict(named_tensors(before)),
            heads=heads,
            seed=seed,
            watch=watch,
        )
    write_sensitivity(output, found, f"Sensitivity of {model.name}", versions())
    if as_json:
        _print_json({"network": described, "page": str(output), **found.to_json()})
        return
    console.say(described)
    console.say()
    console.show(sensitivity_table(found))
    console.say(measured_sentence(found))
    for layer, why in found.skipped:
        console.say(f"{layer} was not measured: {why}")
    console.written(output)


@app.command()
def verify(
    slim: options.SlimInput,
    against: options.Original,
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
    artifact, dense = _slim_and_dense(slim, against, arch, allow_pickle)
    certificate = verify_file(artifact, dense.model.to(place), seed=seed)
    if as_json:
        _print_json({**certificate.to_json(), "trained": artifact.trained})
    else:
        console.show_proof(certificate, trained=artifact.trained)


@app.command()
def export(
    slim: options.AnyNetwork,
    file: options.ExportedFile = None,
    onnx: options.Onnx = False,
    pt2: options.Pt2 = False,
    against: options.TimedAgainst = None,
    batch: options.Batch = 1,
    latency: options.Latency = True,
    arch: options.Arch = None,
    input: options.Inputs = None,
    example: options.Example = None,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
    threads: options.Threads = None,
) -> None:
    """Write ONNX, compare it with PyTorch, and time it against the dense network; or write .pt2.

    Example: slimnet export slim.pt --onnx slim.onnx
    """
    from slimnet.export import export_onnx
    from slimnet.export.against import measure_against
    from slimnet.study import write_json

    _use(threads)
    if onnx == pt2:
        raise InputError("name the format to export to: --onnx, or --pt2")
    target = file or slim.with_suffix(".onnx" if onnx else ".pt2")
    check_writable(target)
    opened = _open(slim, arch, allow_pickle, program=True)
    inputs, described = _example(slim, opened, input, example)
    if pt2:
        _export_pt2(opened, inputs, described, target, as_json=as_json)
        return
    dense = dense_of(opened, against, allow_pickle=allow_pickle) if latency else None
    with console.watching(quiet=as_json) as watch:
        watch("exporting", 0.0)
        exported = export_onnx(opened.model, inputs, target)
        measured = None
        if latency:
            watch("measuring latency", 0.5)
            measured = measure_against(target, dense, inputs, batch=batch, threads=threads)
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
    console.show_onnx(target, exported, measured)


def _export_pt2(
    opened: Opened, inputs: tuple[Any, ...], described: str, target: Path, *, as_json: bool
) -> None:
    from slimnet.export import export_pt2

    extra = {} if opened.artifact is None else record_of(opened.artifact)
    written = export_pt2(opened.model, inputs, target, extra=extra)
    if as_json:
        _print_json({"network": described, "pt2": written.to_json()})
        return
    console.say(described)
    console.show_program(target, written)


@app.command()
def compare(
    model: options.ModelFile,
    data: options.Data,
    output: options.Results,
    ratio: options.Ratios = "0.5",
    criterion: options.Criteria = "l1",
    across: options.Across = None,
    reduce: options.Reduce = None,
    samples: options.Samples = 1024,
    init: options.Init = None,
    regime: options.Regimes = "finetune,scratch-e,scratch-b",
    seeds: options.Seeds = 3,
    epochs: options.Epochs = 160,
    lr: options.LearningRate = 0.1,
    train_batch: options.TrainBatch = 64,
    weight_decay: options.WeightDecay = 1e-4,
    normalize: options.Normalize = None,
    train_images: options.TrainImages = None,
    test_images: options.TestImages = None,
    scope: options.Scope = "local",
    align: options.AlignTo = "auto",
    min_channels: options.MinChannels = None,
    keep: options.Keep = None,
    layer_ratio: options.LayerRatio = None,
    heads: options.Heads = False,
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
    from slimnet.study.masked import UNSTRUCTURED, cutting
    from slimnet.train import REGIMES, Schedule, load_data
    from slimnet.workflow import (
        Settings,
        check_cuts,
        one_image,
        run_comparison,
        write_comparison,
    )

    _use(threads)
    study = Study(
        ratios=options.numbers(ratio, "--ratio"),
        criteria=options.names(criterion, load_criteria(), UNSTRUCTURED),
        regimes=options.names(regime, REGIMES),
        seeds=tuple(range(seed, seed + seeds)),
        base=Schedule(epochs=epochs, lr=lr, batch=train_batch, weight_decay=weight_decay),
    )
    limits = options.limits(scope, align, min_channels, keep, layer_ratio)
    for name in cutting(study.criteria):
        options.check_cut(ratio=0.0, criterion=name, across=across, reduce=reduce, **limits)
        check_needs(name, data=True, init=init is not None)
    settings = Settings(
        prune={**limits, "across": across, "reduce": reduce, "heads": heads, "seed": seed},
        latency_batch=batch if latency else None,
        threads=threads,
        device=str(options.device(device)),
        samples=samples,
    )
    dataset = load_data(data, normalize).limited(train=train_images, test=test_images)
    opened = _open_to_train(model, arch, allow_pickle)
    example = one_image(opened, dataset)
    settings = replace(
        settings,
        data=dataset.samples(samples, seed) if read_images(cutting(study.criteria)) else None,
        init=network_before(init, opened, allow_pickle=allow_pickle),
    )
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


@app.command()
def sparsify(
    model: options.ModelFile,
    data: options.Data,
    output: options.SparseFile = Path("sparse.pt"),
    method: options.Method = "slimming",
    strength: options.Strength = None,
    rate: options.Rate = None,
    epochs: options.Epochs = 160,
    lr: options.LearningRate = 0.1,
    train_batch: options.TrainBatch = 64,
    weight_decay: options.WeightDecay = 1e-4,
    normalize: options.Normalize = None,
    train_images: options.TrainImages = None,
    test_images: options.TestImages = None,
    arch: options.Arch = None,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Train a network sparse, so that a cut costs less; writes a plain state dict.

    Stopped and started again with the same options, it goes on where it was.

    Example: slimnet sparsify net.pt --method slimming --data npz:cifar10.npz -o sparse.pt
    """
    from slimnet.sparsify import Recipe, checkpoint_of, write_state
    from slimnet.sparsify import sparsify as sparsify_network
    from slimnet.train import Schedule, load_data
    from slimnet.train.sparsity import load_sparsifiers
    from slimnet.workflow import one_image

    _use(threads)
    schedule = Schedule(epochs=epochs, lr=lr, batch=train_batch, weight_decay=weight_decay)
    amount = load_sparsifiers()[method].amount(method, strength, rate)
    place = options.device(device)
    check_writable(output)
    dataset = load_data(data, normalize).limited(train=train_images, test=test_images)
    opened = _open_to_train(model, arch, allow_pickle, dense=True)
    example = one_image(opened, dataset)
    with console.watching(quiet=as_json) as watch:
        sparse = sparsify_network(
            opened.model,
            example,
            dataset,
            Recipe(method, amount, schedule, seed),
            checkpoint=checkpoint_of(output),
            device=place,
            progress=lambda part: watch(f"training: {method}", part),
        )
    write_state(sparse.model, output)
    if as_json:
        _print_json({"network": str(model), "output": str(output), **sparse.to_json()})
        return
    console.show_sparse(sparse)
    console.written(output)


def _open_to_train(
    path: Path, arch: str | None, allow_pickle: bool, *, dense: bool = False
) -> Opened:
    opened = _open(path, arch, allow_pickle)
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


@app.command()
def demo(
    output: options.Results = Path("slimnet-demo"),
    seeds: options.Seeds = 3,
    as_json: options.Json = False,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """The whole way once, on scanned digits: train, cut, prove, retrain, export, measure.

    Example: slimnet demo -o demo
    """
    from slimnet.demo import run_demo

    _use(threads)
    place = str(options.device(device))
    folder = make_folder(output)
    with console.watching(quiet=as_json) as watch:
        result = run_demo(folder, seeds=seeds, watch=watch, threads=threads, device=place)
    if as_json:
        _print_json({n.name: n.results.to_json() for n in result.networks if n.results})
    else:
        console.show_demo(result, folder)


def _slim_and_dense(
    slim: Path, against: Path, arch: str | None, allow_pickle: bool
) -> tuple[Artifact, Opened]:
    """A slim network's file, and the network that it was cut from."""
    artifact = read_slim(slim)
    known = parse_arch(arch) if arch else artifact.arch if artifact.rebuilds else None
    try:
        return artifact, open_network(against, known, allow_pickle=allow_pickle)
    except InputError as error:
        if known is None and artifact.arch is not None:
            raise InputError(f"{error}; {slim} was made with --arch {artifact.arch}") from error
        raise


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


def _example(
    path: Path, opened: Opened, shapes: list[str] | None, made_by: str | None
) -> tuple[tuple[Any, ...], str]:
    """Example inputs, and a sentence about the file: what it is, what it takes."""
    example, why = example_for(opened, [options.shape(text) for text in shapes or []], made_by)
    sizes = ["x".join(map(str, leaf.shape)) or "a number" for leaf in tensors_of(example)]
    made = "; ".join(opened.notes) or str(opened.arch or type(opened.model).__name__)
    return example, f"{path.name}: {made}; input {', '.join(sizes) or 'no tensor'} ({why})"


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


_COMMANDS = frozenset(
    ["inspect", "prune", "repair", "sensitivity", "verify", "export", "compare", "sparsify", "demo"]
)
