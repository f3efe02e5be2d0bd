"""The command line's options, and the values that their texts stand for.

Every function here raises :class:`InputError` with the option's name and how it is written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from slimnet.criteria import ACROSS, REDUCE, Choice, check_needs, load_criteria, usual
from slimnet.cutting.shorten import Wanted
from slimnet.errors import InputError
from slimnet.planning.budget import Align, Budget, Limits, parse_bytes

ModelFile = Annotated[
    Path, typer.Argument(help="state dict (.pt, .pth) or slim.pt", show_default=False)
]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        help="torchvision:NAME, timm:NAME, slimnet:NAME, file.py:make_model or package.module:Net "
        "(runs that file), with literal arguments where needed: 'file.py:Net(width=64)'; "
        "recognised from the weights where possible",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="which weights to read where a checkpoint holds several: ema, model.teacher",
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="input shape, batch included: 1,3,224,224; once per input"),
]
Example = Annotated[
    str | None,
    typer.Option(
        "--example",
        help="file.py:make_inputs (runs that file): returns a tensor, a tuple of positional inputs "
        "or a dict of keyword inputs",
    ),
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="load a pickled module: this runs code from the file")
]
Graph = Annotated[
    Path | None,
    typer.Option("--graph", help="also draw the groups over the network: out.html or out.svg"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON and nothing else")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="of everything random")]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, …; a GPU is used where there is one")
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="where trainings run: local, one after the other; processes, several at a time",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        max=4096,
        help="how many processes train at a time, which share the cores unless --threads says how "
        "many each takes",
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=4096, help="CPU threads; all by default")
]
AlignTo = Annotated[
    str,
    typer.Option("--align", help="round widths to a multiple: auto (16, less if narrow), N, off"),
]
Scope = Annotated[
    str | None,
    typer.Option(
        "--scope",
        help="local: the same share everywhere; global: one threshold; isomorphic: one per class "
        "of like layers; harm: what scores least for what it saves. By default local; harm "
        "with --repair, where the criterion measures an error or the loss",
    ),
]
MinChannels = Annotated[
    int | None,
    typer.Option(
        "--min-channels", help="the least that a group keeps; below 8, narrow groups leave too"
    ),
]
Keep = Annotated[
    list[str] | None, typer.Option("--keep", help="layers to leave alone: layer4.* ; repeatable")
]
LayerRatio = Annotated[
    list[str] | None,
    typer.Option("--layer-ratio", help="a ratio of their own: 'features.0=0.2' ; repeatable"),
]
Heads = Annotated[
    bool, typer.Option("--heads", help="attention loses whole heads, not a part of each")
]
DropBlocks = Annotated[
    list[str] | None,
    typer.Option(
        "--drop-blocks",
        help="residual blocks that become their shortcut: layer3.* (repeatable), or how many, "
        "those of the smallest scale first",
    ),
]
Ratio = Annotated[
    float | None, typer.Option("--ratio", help="share of the channels to remove, [0, 1)")
]
Macs = Annotated[
    float | None, typer.Option("--macs", help="share of the MACs that may remain, (0, 1]")
]
Params = Annotated[
    float | None, typer.Option("--params", help="share of the parameters that may remain, (0, 1]")
]
Bytes = Annotated[
    str | None,
    typer.Option(
        "--bytes", help="parameters and buffers as stored may take so much: 5MB, 4.5MiB, 800KB, N"
    ),
]
Points = Annotated[
    int, typer.Option("--points", min=1, max=1000, help="widths that each group is cut to")
]
Measured = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="test images to measure accuracy on: digits, npz:FILE, cifar10:ROOT, "
        "imagefolder:ROOT, file.py:make_data; without it, the change of the outputs on the example",
    ),
]
MeasuredImages = Annotated[
    int, typer.Option("--samples", min=1, help="how many images are read at most")
]
Page = Annotated[Path, typer.Option("-o", "--output", help="the page with the plot")]
Steps = Annotated[
    int, typer.Option("--steps", min=1, help="plan in so many rounds, scored anew after each")
]
SlimFile = Annotated[Path, typer.Option("-o", "--output", help="the slim network")]
Criterion = Annotated[
    str | None,
    typer.Option(
        "--criterion",
        help=f"one of: {', '.join(load_criteria())}. By default l1, with --repair obs",
    ),
]
OneCriterion = Annotated[
    str, typer.Option("--criterion", help=f"one of: {', '.join(load_criteria())}")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="also write over a file that is read here")
]
BestEffort = Annotated[
    bool,
    typer.Option(
        "--best-effort",
        help="take the nearest where the budget cannot be met; without it, nothing is written then",
    ),
]
Repair = Annotated[
    bool,
    typer.Option(
        "--repair",
        help="win accuracy back without training or labels: least squares on --samples images "
        "of --data",
    ),
]
Across = Annotated[
    str | None,
    typer.Option(
        "--across",
        help=f"what a group's scores are divided by under one threshold: {', '.join(ACROSS)}; "
        "the criterion's own by default",
    ),
]
Reduce = Annotated[
    str | None,
    typer.Option(
        "--reduce",
        help=f"of the scores of a group's coupled layers: {', '.join(REDUCE)}; the criterion's own "
        "by default",
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="training images, for criteria that read gradients or activations: digits, npz:FILE, "
        "cifar10:ROOT, imagefolder:ROOT, file.py:make_data",
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        "--samples", min=1, help="how many training images are read for the cut and its repair"
    ),
]
Init = Annotated[
    Path | None,
    typer.Option("--init", help="the weights before training, for criteria that read them"),
]
Verify = Annotated[
    bool, typer.Option("--verify/--no-verify", help="prove the result (four passes in float64)")
]
SlimInput = Annotated[Path, typer.Argument(help="a slim.pt", show_default=False)]
Original = Annotated[Path, typer.Option("--against", help="the network that it was cut from")]
Repaired = Annotated[Path, typer.Option("-o", "--output", help="the repaired network")]
AnyNetwork = Annotated[Path, typer.Argument(help="a slim.pt, or any network", show_default=False)]
ExportedFile = Annotated[
    Path | None, typer.Argument(help="the file to write; the network's name by default")
]
Onnx = Annotated[bool, typer.Option("--onnx", help="write ONNX")]
Pt2 = Annotated[
    bool, typer.Option("--pt2", help="write what torch.export.load opens, without latency")
]
Safetensors = Annotated[
    bool,
    typer.Option("--safetensors", help="write the tensors alone, with plan and proof as metadata"),
]
TimedAgainst = Annotated[
    Path | None,
    typer.Option("--against", help="the dense network to time it against; known for built-ins"),
]
Data = Annotated[
    str,
    typer.Option(
        "--data", help="digits, npz:FILE, cifar10:ROOT, imagefolder:ROOT, file.py:make_data"
    ),
]
Results = Annotated[Path, typer.Option("-o", "--output", help="folder of results; resumed")]
Ratios = Annotated[str, typer.Option("--ratio", help="shares of channels: 0.3,0.5,0.7")]
Criteria = Annotated[
    str, typer.Option("--criterion", help=f"any of: {', '.join(load_criteria())}, unstructured")
]
Regimes = Annotated[str, typer.Option("--regime", help="how to retrain; an unknown name lists all")]
Method = Annotated[
    str,
    typer.Option(
        "--method", help="slimming, block-scales, soft-filters, group-lasso or unstructured"
    ),
]
Strength = Annotated[
    float | None, typer.Option("--strength", help="of the penalty; the method's own by default")
]
Rate = Annotated[
    float | None, typer.Option("--rate", help="share that soft-filters, unstructured set to zero")
]
SparseFile = Annotated[Path, typer.Option("-o", "--output", help="the state dict; resumed")]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="runs of each, for the spread")]
Epochs = Annotated[int, typer.Option("--epochs", help="of the base schedule")]
LearningRate = Annotated[float, typer.Option("--lr", help="of the base schedule")]
TrainBatch = Annotated[int, typer.Option("--train-batch", help="images per step")]
WeightDecay = Annotated[float, typer.Option("--weight-decay", min=0, help="of the base schedule")]
Normalize = Annotated[
    str | None, typer.Option("--normalize", help="imagenet, cifar10, none or MEANS/STDS")
]
TrainImages = Annotated[int | None, typer.Option("--train-images", min=1, help="use only so many")]
TestImages = Annotated[int | None, typer.Option("--test-images", min=1, help="use only so many")]
Latency = Annotated[bool, typer.Option("--latency/--no-latency", help="measure it")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="batch of the latency")]


def shape(text: str) -> tuple[int, ...]:
    """``1,3,224,224`` or ``1x3x224x224``."""
    if not re.fullmatch(r"[1-9]\d*([,x][1-9]\d*)*", text):
        raise InputError(f"--input {text!r} is no shape: give it, batch included, as 1,3,224,224")
    return tuple(int(size) for size in re.split("[,x]", text))


def align(text: str) -> Align:
    """``auto``, ``off`` or a number."""
    if text == "auto":
        return "auto"
    if text == "off":
        return None
    if not re.fullmatch("[1-9][0-9]*", text):
        raise InputError(f"--align must be auto, off or a number from 1, and {text!r} is neither")
    return int(text)


def layer_ratios(texts: list[str]) -> dict[str, float]:
    """``GLOB=RATIO`` each."""
    found = {}
    for text in texts:
        glob, _, share = text.rpartition("=")
        if not glob or not _is_number(share):
            raise InputError(f"--layer-ratio {text!r} must be LAYER=RATIO, e.g. features.0=0.2")
        found[glob] = float(share)
    return found


def limits(
    scope: str | None,
    align_to: str,
    min_channels: int | None,
    keep: list[str] | None,
    layer_ratio: list[str] | None,
) -> dict[str, Any]:
    """What shapes a cut beside its budget, as :func:`slimnet.prune` takes it."""
    return {
        "scope": scope,
        "align": align(align_to),
        "min_channels": min_channels,
        "keep": list(keep or ()),
        "layer_ratio": layer_ratios(layer_ratio or []),
    }


def size(text: str | None) -> float | None:
    """``5MB``."""
    try:
        return None if text is None else parse_bytes(text)
    except InputError as error:
        raise InputError(f"--bytes {error}") from error


def blocks(texts: list[str] | None) -> Wanted:
    """Names and patterns of blocks, or one number of them."""
    given = list(texts or ())
    if len(given) == 1 and re.fullmatch("[0-9]+", given[0]):
        return int(given[0])
    return given


def numbers(text: str, option: str) -> tuple[float, ...]:
    """``0.3,0.5``."""
    parts = text.split(",")
    if not all(map(_is_number, parts)):
        raise InputError(f"{option} {text!r} is no number, or list of them: 0.3,0.5")
    return tuple(map(float, parts))


def check_cut(
    *,
    ratio: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    bytes: float | None = None,
    criterion: str | None = None,
    across: str | None = None,
    reduce: str | None = None,
    keep: Sequence[str] = (),
    drop_blocks: Wanted = (),
    scope: Any = None,
    **limits: Any,
) -> None:
    """Refuse, before any file is read, what no network could be cut by."""
    if drop_blocks and ratio is macs is params is bytes is None:
        ratio = 0.0
    Budget(ratio, macs, params, bytes)
    Limits(scope or "local", keep=tuple(keep), **limits)
    Choice(criterion or "l1", across, reduce)


def check_data(criterion: str | None, repair: bool, *, data: bool, init: bool) -> None:
    """Refuse, before any file is read, a choice that needs what was not given."""
    if repair and not data:
        raise InputError("--repair needs images to solve on: --data digits|npz:FILE|…")
    check_needs(criterion or usual(repair=repair), data=data, init=init)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def names(text: str, registry: Any, *also: str) -> tuple[str, ...]:
    """``l1,bn-scale``: each must be in the registry, or be one of ``also``."""
    found = tuple(name.strip() for name in text.split(","))
    for name in found:
        _ = name in also or registry[name]
    return found


def device(name: str | None) -> torch.device:
    """A device that works here; without a name the GPU where there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.zeros(1, device=found).cpu()  # a device may be known and not be here
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise InputError(f"there is no device {name!r} here: the known ones are {here}") from error
    return found
