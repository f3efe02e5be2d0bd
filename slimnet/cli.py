"""The command line: parse, call the API, print.

Every refusal is one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from slimnet import console
from slimnet.arch import Arch, parse_arch
from slimnet.artifact import read_artifact, write_artifact
from slimnet.budget import Align
from slimnet.criteria import load_criteria
from slimnet.errors import InputError, SlimnetError
from slimnet.export import export_onnx, measure_latency
from slimnet.files import Opened, example_for, open_network
from slimnet.files import verify as verify_file
from slimnet.prune import inspect as inspect_network
from slimnet.prune import prune as prune_network
from slimnet.report import table
from slimnet.study import Study, write_json
from slimnet.train import REGIMES, Schedule, check_fits, load_data
from slimnet.version import __version__
from slimnet.workflow import Settings, folder_for, write_comparison
from slimnet.workflow import compare as compare_network
from slimnet.workflow import demo as run_demo

app = typer.Typer(
    help="Make a trained PyTorch network smaller and really faster, with a proof of every cut.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelFile = Annotated[Path, typer.Argument(help="state dict or slim.pt", show_default=False)]
ArchOption = Annotated[
    str | None,
    typer.Option(
        "--arch",
        help="torchvision:NAME, slimnet:NAME or file.py:make_model (runs that file); "
        "recognised from the weights where possible",
    ),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option("--input", help="input shape, batch included: 1,3,224,224; once per input"),
]
PickleOption = Annotated[
    bool, typer.Option("--allow-pickle", help="load a pickled module: this runs code from the file")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON and nothing else")]
SeedOption = Annotated[int, typer.Option("--seed", help="of everything random")]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, …; a GPU is used where there is one")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads; all cores by default")
]
AlignOption = Annotated[
    str, typer.Option("--align", help="round widths to a multiple: auto (16, 8 if narrow), N, off")
]
ScopeOption = Annotated[
    str, typer.Option("--scope", help="local: the same share everywhere; global: one threshold")
]
MinOption = Annotated[
    int | None, typer.Option("--min-channels", help="the least that a group keeps")
]
KeepOption = Annotated[
    list[str] | None, typer.Option("--keep", help="layers to leave alone: layer4.* ; repeatable")
]
LayerRatioOption = Annotated[
    list[str] | None,
    typer.Option("--layer-ratio", help="a ratio of their own: 'features.0=0.2' ; repeatable"),
]


def _version(value: bool) -> None:
    if value:
        console.out.print(f"slimnet {__version__}")
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
    model: ModelFile,
    arch: ArchOption = None,
    input: InputOption = None,
    allow_pickle: PickleOption = False,
    as_json: JsonOption = False,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Show what hangs together, what can be cut, and for each layer that cannot: why.

    Example: slimnet inspect resnet18.pt
    """
    _machine(threads)
    opened, example = _open(model, arch, input, allow_pickle, as_json, device)
    found = inspect_network(opened.model, example)
    if as_json:
        _print_json(
            {
                "cost": found.cost.to_json(),
                "layers": [vars(layer) for layer in found.layers],
                "groups": [
                    {
                        "number": group.number,
                        "channels": group.width,
                        "layers": group.layers,
                        "approximate": [str(reason) for reason in group.approximate],
                    }
                    for group in found.groups
                ],
            }
        )
        return
    console.out.print(console.layers_table(found))
    console.out.print()
    console.out.print(console.groups_table(found))
    prunable = sum(layer.prunable > 0 for layer in found.layers)
    console.out.print(
        f"\n{prunable} of {len(found.layers)} layers can be pruned, in {len(found.groups)} groups; "
        f"{found.cost.macs:,} MACs, {found.cost.params:,} parameters"
    )


@app.command()
def prune(
    model: ModelFile,
    ratio: Annotated[
        float | None, typer.Option("--ratio", help="share of the channels to remove, [0, 1)")
    ] = None,
    macs: Annotated[
        float | None, typer.Option("--macs", help="share of the MACs that may remain, (0, 1]")
    ] = None,
    params: Annotated[
        float | None, typer.Option("--params", help="share of the parameters that may remain")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="the slim network")] = Path(
        "slim.pt"
    ),
    criterion: Annotated[
        str, typer.Option("--criterion", help=f"one of: {', '.join(load_criteria())}")
    ] = "l1",
    scope: ScopeOption = "local",
    align: AlignOption = "auto",
    min_channels: MinOption = None,
    keep: KeepOption = None,
    layer_ratio: LayerRatioOption = None,
    arch: ArchOption = None,
    input: InputOption = None,
    allow_pickle: PickleOption = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="prove the result (four passes in float64)")
    ] = True,
    as_json: JsonOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Cut a network down and prove the result; writes slim.pt.

    Example: slimnet prune resnet18.pt --ratio 0.5 -o slim.pt
    """
    _machine(threads)
    _writable(output)
    opened, example = _open(model, arch, input, allow_pickle, as_json, device)
    with console.watching(quiet=as_json) as watch:
        watch("cutting and proving" if verify else "cutting", 0.0)
        pruned = prune_network(
            opened.model,
            example,
            ratio=ratio,
            macs=macs,
            params=params,
            criterion=criterion,
            scope=scope,  # type: ignore[arg-type]
            align=_align(align),
            min_channels=min_channels,
            keep=keep or (),
            layer_ratio=_ratios(layer_ratio or []),
            seed=seed,
            verify=verify,
        )
        watch("writing", 0.9)
        write_artifact(opened.artifact_of(pruned), output)
    plan, certificate = pruned.plan, pruned.certificate
    if as_json:
        _print_json(
            {
                "output": str(output),
                "plan": plan.to_json(),
                "certificate": certificate.to_json() if certificate else None,
            }
        )
        return
    console.out.print(console.cut_table(plan))
    console.out.print()
    console.out.print(console.cost_table(plan.before or {}, plan.after or {}))
    console.out.print()
    console.note(list(console.asked_and_achieved(plan)))
    if plan.untouched:
        console.out.print(f"{len(plan.untouched)} layers left alone: slimnet inspect says why")
    console.out.print(f"proof: {certificate or 'none, it was switched off'}")
    console.out.print(f"[bold]{output}[/bold] written")


@app.command()
def verify(
    slim: Annotated[Path, typer.Argument(help="a slim.pt")],
    against: Annotated[Path, typer.Option("--against", help="the network that it was cut from")],
    arch: ArchOption = None,
    allow_pickle: PickleOption = False,
    as_json: JsonOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Prove a slim network again, from the files alone.

    Example: slimnet verify slim.pt --against resnet18.pt
    """
    _machine(threads)
    artifact = read_artifact(slim)
    known = parse_arch(arch) if arch else artifact.arch if _is_named(artifact.arch) else None
    dense = open_network(against, known, allow_pickle=allow_pickle)
    certificate = verify_file(artifact, dense.model, seed=seed)
    if as_json:
        _print_json(certificate.to_json())
    else:
        console.out.print(f"proof: {certificate}")


@app.command()
def export(
    slim: Annotated[Path, typer.Argument(help="a slim.pt, or any network")],
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
    batch: Annotated[int, typer.Option("--batch", min=1, help="batch of the measurement")] = 1,
    latency: Annotated[bool, typer.Option("--latency/--no-latency", help="measure it")] = True,
    arch: ArchOption = None,
    input: InputOption = None,
    allow_pickle: PickleOption = False,
    as_json: JsonOption = False,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Write ONNX, compare it with PyTorch, and time it against the dense network.

    Example: slimnet export slim.pt --onnx slim.onnx
    """
    _machine(threads)
    if not onnx:
        raise InputError("name the format to export to: --onnx")
    target = file or slim.with_suffix(".onnx")
    _writable(target)
    opened, example = _open(slim, arch, input, allow_pickle, as_json, None)
    with console.watching(quiet=as_json) as watch:
        watch("exporting", 0.0)
        written = export_onnx(opened.model, example, target)
        record: dict[str, Any] = {"onnx": written.to_json(), "latency": None}
        measured = None
        dense = _dense(opened, against, allow_pickle) if latency else None
        if latency:
            watch("measuring latency", 0.5)
            measured = _measure(target, dense, example, batch, threads)
            record["latency"] = measured.to_json()
    write_json(target.with_name(f"{target.name}.json"), record)
    if as_json:
        _print_json(record)
        return
    parity = written.parity
    console.out.print(
        f"[bold]{target}[/bold]: {written.parameters:,} numbers, opset {written.opset}, "
        + ("dynamic batch" if written.dynamic_batch else f"fixed batch: {written.static_reason}")
    )
    if parity is not None:
        console.out.print(
            f"equals PyTorch within {parity.error:.1e} (relative, tolerance {parity.tolerance:.0e}, "
            f"batches {', '.join(map(str, parity.batches))}, onnxruntime)"
        )
    if measured is not None:
        console.out.print(f"latency: {measured.sentence()}")
        if dense is None:
            console.out.print("alone: give the dense network with --against to compare")
        console.note([measured.conditions()])


@app.command()
def compare(
    model: ModelFile,
    data: Annotated[
        str,
        typer.Option(
            "--data", help="digits, npz:FILE, cifar10:ROOT, imagefolder:ROOT, file.py:make_data"
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="folder of results; resumed")],
    ratio: Annotated[str, typer.Option("--ratio", help="shares of channels: 0.3,0.5,0.7")] = "0.5",
    criterion: Annotated[str, typer.Option("--criterion", help="l1,bn-scale, …")] = "l1",
    regime: Annotated[
        str, typer.Option("--regime", help=f"any of: {', '.join(REGIMES)}")
    ] = "finetune,scratch-e,scratch-b",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="runs of each, for the spread")] = 3,
    epochs: Annotated[int, typer.Option("--epochs", help="of the base schedule")] = 160,
    lr: Annotated[float, typer.Option("--lr", help="of the base schedule")] = 0.1,
    train_batch: Annotated[int, typer.Option("--train-batch", help="images per step")] = 64,
    weight_decay: Annotated[float, typer.Option("--weight-decay")] = 1e-4,
    normalize: Annotated[
        str | None, typer.Option("--normalize", help="imagenet, cifar10, none or MEANS/STDS")
    ] = None,
    train_images: Annotated[
        int | None, typer.Option("--train-images", min=1, help="use only so many")
    ] = None,
    test_images: Annotated[
        int | None, typer.Option("--test-images", min=1, help="use only so many")
    ] = None,
    scope: ScopeOption = "local",
    align: AlignOption = "auto",
    min_channels: MinOption = None,
    keep: KeepOption = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="batch of the latency")] = 1,
    latency: Annotated[bool, typer.Option("--latency/--no-latency", help="measure it")] = True,
    arch: ArchOption = None,
    input: InputOption = None,
    allow_pickle: PickleOption = False,
    as_json: JsonOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Prune, retrain in several regimes with several seeds, and compare; writes report.html.

    Stopped and started again with the same options, it goes on where it was.

    Example: slimnet compare net.pt --data npz:cifar10.npz --ratio 0.3,0.5 --seeds 3 -o study
    """
    _machine(threads)
    study = Study(
        ratios=tuple(_numbers(ratio, "--ratio")),
        criteria=_known(criterion, load_criteria()),
        regimes=_known(regime, REGIMES),
        seeds=tuple(range(seed, seed + seeds)),
        base=Schedule(epochs=epochs, lr=lr, batch=train_batch, weight_decay=weight_decay),
    )
    dataset = load_data(data, normalize).limited(train=train_images, test=test_images)
    opened, example = _open(model, arch, input, allow_pickle, as_json, None, dataset.image_shape)
    check_fits(dataset, tuple(example[0].shape[1:]), _classes(opened, example))
    settings = Settings(
        prune={
            "scope": scope,
            "align": _align(align),
            "min_channels": min_channels,
            "keep": list(keep or ()),
            "seed": seed,
        },
        latency_batch=batch if latency else None,
        threads=threads,
        device=device,
    )
    with folder_for(output) as folder, console.watching(quiet=as_json) as watch:
        network, measured = compare_network(
            model.stem, opened.model, example, dataset, study, folder, settings, watch
        )
        page = write_comparison(
            folder, f"{model.name}: slim networks", _command(), [network], measured
        )
    results = network.results
    if results is None:
        return
    if as_json:
        _print_json(results.to_json())
        return
    console.out.print(table(results))
    console.out.print(f"\n[bold]{page}[/bold] written, with results.json and the cells beside it")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="folder of results")] = Path(
        "slimnet-demo"
    ),
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="runs of each regime")] = 3,
    as_json: JsonOption = False,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """The whole way once, on scanned digits: train, cut, prove, retrain, export, measure.

    Example: slimnet demo -o demo
    """
    _machine(threads)
    settings = Settings(latency_batch=64, threads=threads, device=device)
    with folder_for(output) as folder, console.watching(quiet=as_json) as watch:
        result = run_demo(folder, seeds=seeds, watch=watch, settings=settings)
    if as_json:
        _print_json(json.loads((output / "results.json").read_text()))
        return
    for network, certificate in zip(result.networks, result.certificates, strict=True):
        if network.results is not None:
            console.out.print(table(network.results, network.name))
        console.out.print(f"proof: {certificate}\n")
    for network, latency in zip(result.networks, result.latency, strict=False):
        console.out.print(f"{network.name}: {latency.sentence()}")
    console.out.print(
        f"\n[bold]{output}[/bold]: report.html, results.json, slim.pt, dense.onnx, slim.onnx"
    )


def main() -> None:
    """Entry point: a refusal is one sentence and exit code 2."""
    try:
        app()
    except SlimnetError as error:
        console.err.print(f"[red]slimnet:[/red] {_escaped(str(error))}")
        sys.exit(2)
    except KeyboardInterrupt:
        console.err.print("slimnet: stopped")
        sys.exit(130)


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def _machine(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def _open(
    path: Path,
    arch: str | None,
    inputs: list[str] | None,
    allow_pickle: bool,
    quiet: bool,
    device: str | None,
    image: tuple[int, ...] | None = None,
) -> tuple[Opened, tuple[Any, ...]]:
    """The network and an example input, on the device; says what was found."""
    opened = open_network(path, parse_arch(arch) if arch else None, allow_pickle=allow_pickle)
    shapes = [_shape(text) for text in inputs or []]
    if not shapes and image is not None:
        shapes = [(1, *image)]
    example, why = example_for(opened, shapes)
    if not quiet:
        sizes = ", ".join("x".join(map(str, x.shape)) for x in example if hasattr(x, "shape"))
        console.note(
            [f"{path.name}: {opened.arch or type(opened.model).__name__}, input {sizes} ({why})"]
        )
        console.note(list(opened.notes))
    place = _device(device)
    opened.model.to(place)
    return opened, tuple(x.to(place) if isinstance(x, torch.Tensor) else x for x in example)


def _device(name: str | None) -> torch.device:
    try:
        return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise InputError(f"there is no device {name!r}: give cpu or cuda") from error


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+([,x]\d+)*", text):
        raise InputError(f"--input {text!r} is no shape: give it, batch included, as 1,3,224,224")
    return tuple(int(size) for size in re.split("[,x]", text))


def _align(text: str) -> Align:
    if text == "auto":
        return "auto"
    if text == "off":
        return None
    if not text.isdigit():
        raise InputError(f"--align must be auto, off or a number, and {text!r} is none of them")
    return int(text)


def _ratios(texts: list[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        glob, equals, share = text.rpartition("=")
        if not equals:
            raise InputError(f"--layer-ratio {text!r} must be LAYER=RATIO, e.g. features.0=0.2")
        found[glob] = _numbers(share, "--layer-ratio")[0]
    return found


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} {text!r} is no number, or list of them: 0.3,0.5") from error


def _known(text: str, registry: Any) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        _ = registry[name]
    return names


def _writable(path: Path) -> None:
    """Refuse before the work, not after it."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}")


def _is_named(arch: Arch | None) -> bool:
    return arch is not None and arch.source != "file"


def _dense(opened: Opened, against: Path | None, allow_pickle: bool) -> torch.nn.Module | None:
    """The dense network to time against: the given file, or the architecture as it is built."""
    if against is not None:
        return open_network(against, opened.arch, allow_pickle=allow_pickle).model
    if opened.artifact is not None and opened.arch is not None and _is_named(opened.arch):
        return opened.arch.build(init=True)
    return None


def _measure(
    target: Path,
    dense: torch.nn.Module | None,
    example: tuple[Any, ...],
    batch: int,
    threads: int | None,
) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="slimnet-") as folder:
        files = {"slim": target}
        if dense is not None:
            export_onnx(dense, example, Path(folder) / "dense.onnx", verify=False)
            files = {"dense": Path(folder) / "dense.onnx", "slim": target}
        return measure_latency(files, example, batch=batch, threads=threads)


def _classes(opened: Opened, example: tuple[Any, ...]) -> int:
    with torch.no_grad():
        result = opened.model(*example)
    if not isinstance(result, torch.Tensor) or result.dim() != 2:
        raise InputError("compare needs a network whose output is one score per class [N, classes]")
    return int(result.shape[1])


def _command() -> str:
    return shlex.join(["slimnet", *sys.argv[1:]])


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1) + "\n")
