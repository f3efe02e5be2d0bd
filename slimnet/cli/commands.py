"""Every command with its options: what ``slimnet --help`` and ``slimnet COMMAND --help`` show.

A command is a frozen dataclass; its docstring is its help, its fields are its options, and the file
of its name beside this one does the work. What several commands have stands once: an option as a
constant, options that go together as a dataclass, and those of a cut in
:class:`~slimnet.planning.request.CutRequest`. Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from slimnet.cli.typed import part
from slimnet.errors import InputError
from slimnet.planning.request import CRITERIA, CutRequest, SensitivityRequest, TimeTarget
from slimnet.registry import declared
from slimnet.signature import Option, option, required

_PACKAGE = Path(__file__).parents[1]
_REGIMES = ", ".join(declared(_PACKAGE / "train", "REGIMES", "slimnet.regimes"))
_METHODS = ", ".join(
    declared(_PACKAGE / "sparsity" / "methods", "SPARSIFIERS", "slimnet.sparsifiers")
)
_MASKS = ", ".join(declared(_PACKAGE / "train", "MASKS"))
_PROTOCOLS = ", ".join(declared(_PACKAGE / "train", "PROTOCOLS"))
_ENGINES = ", ".join(declared(_PACKAGE / "study" / "engines", "ENGINES", "slimnet.engines"))
_STORES = ", ".join(declared(_PACKAGE / "study" / "stores", "STORES", "slimnet.stores"))
_FORMATS = ", ".join(declared(_PACKAGE / "formats", "FORMATS", "slimnet.formats"))
_BACKENDS = ", ".join(declared(_PACKAGE / "export" / "backends", "BACKENDS", "slimnet.backends"))
KINDS = "digits, npz:FILE, cifar10:ROOT, imagefolder:ROOT, task:KIND:…, file.py:make_task"

_OUTPUT = ("-o", "--output")
_MODEL = Option("state dict (.pt, .pth) or slim.pt", positional=True)
_SLIM = Option("a slim.pt", positional=True)
_AGAINST = Option("the network that it was cut from")
_DATA = Option(KINDS)
_NORMALIZE = Option("imagenet, cifar10, none or MEANS/STDS")
_SAMPLES = Option("how many training images are read for the cut and its repair", bounds=(1, None))
_INIT = Option("the weights before training, for criteria that read them")
_RESULTS = Option("folder of results; resumed", flags=_OUTPUT)
_SEEDS = Option("runs of each, for the spread", bounds=(1, None))
_BATCH = Option("batch of the latency", bounds=(1, None))
_LATENCY = Option("measure it", flags=("--latency/--no-latency",))
_TIME = Option("time every network", flags=("--time/--no-time",))


def shapes(texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """``1,3,224,224`` or ``1x3x224x224``, each."""
    for text in texts:
        if not re.fullmatch(r"[1-9]\d*([,x][1-9]\d*)*", text):
            raise InputError(
                f"--input {text!r} is no shape: give it, batch included, as 1,3,224,224"
            )
    return tuple(tuple(map(int, re.split("[,x]", text))) for text in texts)


@dataclass(frozen=True, kw_only=True)
class Files:
    """How the network in a file is read, and whether one may be written over."""

    PANEL: ClassVar = "Files"

    overwrite: bool = option(False, "also write over a file that is read here")
    arch: str | None = option(
        None,
        "torchvision:NAME, timm:NAME, slimnet:NAME, file.py:make_model or package.module:Net "
        "(runs that file), with literal arguments where needed: 'file.py:Net(width=64)'; "
        "recognised from the weights where possible",
    )
    weights: str | None = option(
        None, "which weights to read where a checkpoint holds several: ema, model.teacher"
    )
    input: tuple[tuple[int, ...], ...] = option(
        (),
        "input shape, batch included: 1,3,224,224; once per input",
        kind=list[str] | None,
        parse=shapes,
    )
    example: str | None = option(
        None,
        "file.py:make_inputs (runs that file): returns a tensor, a tuple of positional inputs or a "
        "dict of keyword inputs",
    )
    allow_pickle: bool = option(False, "load a pickled module: this runs code from the file")


STATED = ("arch", "weights", "allow_pickle")  # where the file itself says what it takes
TRAINED = ("overwrite", *STATED)  # where images do
SIZED = ("input", *TRAINED)  # and are as large as asked for
WHOLE = ("overwrite", "arch", "weights", "input", "allow_pickle")  # for all steps together


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a command runs."""

    PANEL: ClassVar = "Run"

    json: bool = option(False, "print JSON and nothing else")
    seed: int = option(0, "of everything random", bounds=(0, 2**63 - 1))
    device: str | None = option(None, "cpu, cuda, …; a GPU is used where there is one")
    threads: int | None = option(None, "CPU threads; all by default", bounds=(1, 4096))


@dataclass(frozen=True, kw_only=True)
class Training:
    """The base schedule, and its images."""

    protocol: str | None = option(
        None, f"the paper whose base schedule it is, liu-cifar by default; one of: {_PROTOCOLS}"
    )
    epochs: int | None = option(None, "of the base schedule; the protocol's by default")
    lr: float | None = option(None, "the same: 0.1 in most protocols")
    train_batch: int | None = option(None, "images per step; the protocol's by default")
    weight_decay: float | None = option(None, "the same: 1e-4 in most protocols", bounds=(0, None))
    normalize: str | None = option(None, _NORMALIZE)
    train_images: int | None = option(None, "use only so many", bounds=(1, None))
    test_images: int | None = option(None, "use only so many", bounds=(1, None))


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show what hangs together, what can be cut, and for each layer that cannot: why.

    Example: slimnet inspect resnet18.pt --graph resnet18.html
    """

    model: Path = required(_MODEL)
    cut: CutRequest = part("heads", "outputs")
    graph: Path | None = option(None, "also draw the groups over the network: out.html or out.svg")
    files: Files = part()
    run: Run = part("json", "device", "threads")


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Cut a network down and prove the result; writes slim.pt, or an exported slim.pt2.

    Example: slimnet prune resnet18.pt --ratio 0.5 -o slim.pt
    """

    model: Path = required(_MODEL)
    output: Path | None = option(
        None, "the slim network, slim.pt by default; with --dry-run plan.json", flags=_OUTPUT
    )
    cut: CutRequest = part()
    dry_run: bool = option(False, "write the plan alone, to review and edit")
    plan: Path | None = option(None, "cut as such a file says, in place of a budget")
    data: str | None = option(
        None, f"training images, for criteria that read gradients or activations: {KINDS}"
    )
    normalize: str | None = option(None, _NORMALIZE)
    samples: int = option(1024, _SAMPLES)
    init: Path | None = option(None, _INIT)
    files: Files = part()
    run: Run = part()


@dataclass(frozen=True, kw_only=True)
class Repair:
    """Win back the accuracy of a slim network without labels, from some images.

    Example: slimnet repair slim.pt --against resnet18.pt --data npz:cifar10.npz -o repaired.pt
    """

    slim: Path = required(_SLIM)
    against: Path = required(_AGAINST)
    data: str = required(_DATA)
    output: Path = option(Path("repaired.pt"), "the repaired network", flags=_OUTPUT)
    normalize: str | None = option(None, _NORMALIZE)
    samples: int = option(1024, _SAMPLES)
    files: Files = part(*TRAINED)
    run: Run = part()


@dataclass(frozen=True, kw_only=True)
class Retrain:
    """Train a slim network on, alone or with the dense one as its teacher; keeps plan and proof.

    Stopped and started again with the same options, it goes on where it was.

    Example: slimnet retrain slim.pt --data npz:cifar10.npz --epochs 40 -o tuned.pt
    """

    slim: Path = required(_SLIM)
    data: str = required(_DATA)
    output: Path = option(Path("tuned.pt"), "the trained network; resumed", flags=_OUTPUT)
    against: Path | None = option(None, "the network that it was cut from: to distil, or its class")
    distill: bool = option(False, "also ask for the outputs of the network that it was cut from")
    regime: str = option("finetune", f"which weights it starts from, one of: {_REGIMES}")
    epochs: int = option(40, "of the training", bounds=(1, None))
    minutes: float | None = option(
        None, "train as many epochs as fit, in place of --epochs", replaces="epochs"
    )
    lr: float | None = option(None, "0.01 for SGD (0.1 from fresh weights), 0.001 for AdamW")
    optimizer: str = option("sgd", "sgd or adamw")
    shape: str = option("cosine", "of the learning rate: cosine, step or constant")
    warmup: float = option(0.0, "epochs in which the learning rate rises", bounds=(0, None))
    batch: int = option(128, "samples per step", bounds=(1, None))
    accumulate: int = option(1, "batches per step of the optimiser", bounds=(1, None))
    weight_decay: float = option(5e-4, "of all weights", bounds=(0, None))
    smoothing: float = option(0.0, "of the labels of a classification", bounds=(0, 1))
    ema: float | None = option(None, "end with a moving average of the weights: 0.999, say")
    clip: float | None = option(None, "the largest norm of the gradients")
    teacher_weight: float = option(
        0.9, "of the teacher's part in the loss", bounds=(0, 1), needs="distill"
    )
    temperature: float = option(
        4.0, "at which class scores are compared with the teacher's", needs="distill"
    )
    tensorboard: Path | None = option(
        None, "folder for curves of loss, learning rate and metrics, one point for each epoch"
    )
    distill_features: float = option(
        0.0, "weight of hidden features in the loss: channels that survive beside the teacher's own"
    )
    precision: str | None = option(None, "float32 or bfloat16; what is faster, by default")
    compile: bool = option(False, "try torch.compile, too (minutes), and take it where it pays")
    normalize: str | None = option(None, _NORMALIZE)
    train_images: int | None = option(None, "use only so many", bounds=(1, None))
    test_images: int | None = option(None, "use only so many", bounds=(1, None))
    samples: int = option(1024, "images that a repair reads, where the regime starts with one")
    files: Files = part(*TRAINED)
    run: Run = part()


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Cut each group alone to several widths: accuracy, or the change of the outputs.

    Example: slimnet sensitivity resnet56.pt --data npz:cifar10.npz -o sensitivity.html
    """

    model: Path = required(_MODEL)
    data: str | None = option(
        None,
        f"test images to measure accuracy on: {KINDS}; without it, the change of the outputs on "
        "the example",
    )
    output: Path = option(Path("sensitivity.html"), "the page with the plot", flags=_OUTPUT)
    cuts: SensitivityRequest = part()
    normalize: str | None = option(None, _NORMALIZE)
    samples: int = option(512, "how many images are read at most", bounds=(1, None))
    init: Path | None = option(None, _INIT)
    files: Files = part()
    run: Run = part()


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Prove a slim network again, from the files alone.

    Example: slimnet verify slim.pt --against resnet18.pt
    """

    slim: Path = required(_SLIM)
    against: Path = required(_AGAINST)
    files: Files = part(*STATED)
    run: Run = part()


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write ONNX, compare it with PyTorch, and time it; or write .pt2, or .safetensors.

    Example: slimnet export slim.pt --onnx slim.onnx
    """

    slim: Path = required("a slim.pt, or any network", positional=True)
    file: Path | None = option(
        None, "the file to write; the network's name by default", positional=True
    )
    onnx: bool = option(False, "write ONNX")
    pt2: bool = option(False, "write what torch.export.load opens, without latency")
    safetensors: bool = option(False, "write the tensors alone, with plan and proof as metadata")
    format: str | None = option(None, f"the format by its name, one of: {_FORMATS}")
    against: Path | None = option(None, "the dense network to time it against; known for built-ins")
    cut: CutRequest = part("outputs")
    opset: int | None = option(None, "of the ONNX file; torch's own by default", bounds=(1, None))
    dynamic_size: bool = option(False, "images of any height and width, beside any batch")
    fp16: bool = option(False, "ONNX in float16; inputs and outputs stay float32")
    int8: bool = option(
        False, "ONNX in int8, quantised with {data}; refused where that is slower than float32"
    )
    data: str | None = option(
        None, f"for int8, to find ranges with and to measure on: {KINDS}", needs="int8"
    )
    normalize: str | None = option(None, replace(_NORMALIZE, needs="int8"))
    samples: int = option(
        256, "how many training samples int8 finds ranges with", bounds=(1, None), needs="int8"
    )
    keep_slower: bool = option(False, "write int8 also where it is slower", needs="int8")
    batch: int = option(1, _BATCH)
    latency: bool = option(True, _LATENCY)
    backend: str | None = option(
        None, f"times it, one of: {_BACKENDS}; onnxruntime by default", needs="latency"
    )
    files: Files = part()
    run: Run = part("json", "seed", "threads")


def batches(text: str) -> tuple[int, ...]:
    """``1,8,32``."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise InputError(f"--batch {text!r} is no number of samples, or list of them: 1,8,32")
    return tuple(dict.fromkeys(map(int, text.split(","))))


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Time files beside each other: ONNX, or networks in PyTorch; the others against the first.

    On one thread the CPU time decides, which other programs hardly disturb, else the wall time.

    Example: slimnet latency dense.onnx slim.onnx --batch 1,8
    """

    file: tuple[Path, ...] = required(
        Option(
            "ONNX files; or state dicts, slim.pt, .pt2, for the backends torch and torch-compile",
            positional=True,
            kind=list[Path],
            parse=tuple,
        )
    )
    batch: tuple[int, ...] = option(
        (),
        "samples per run, one table row for each: 1,8,32; that of the inputs by default",
        kind=str | None,
        parse=batches,
    )
    threads: int = option(1, "CPU threads", bounds=(1, 4096))
    backend: str | None = option(
        None, f"the runtime, one of: {_BACKENDS}; onnxruntime, for networks torch, by default"
    )
    rounds: int = option(30, "readings of each file; below 6 nothing is certain", bounds=(6, None))
    files: Files = part("input", "example", "arch", "weights", "allow_pickle")
    run: Run = part("json", "seed", "device")


COMPARED = (
    *("across", "reduce", "align", "min_channels", "keep", "layer_ratio", "widths"),
    *("heads", "outputs", "best_effort"),
)
"""What all cuts of a comparison share; budget, criterion and scope are what it compares."""


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Prune, retrain in several regimes with several seeds, and compare; writes report.html.

    Stopped and started again with the same options, it goes on where it was.

    Example: slimnet compare net.pt --data npz:cifar10.npz --ratio 0.3,0.5 --seeds 3 -o study
    """

    model: Path = required(_MODEL)
    data: str = required(_DATA)
    output: Path = required(_RESULTS)
    ratio: str | None = option(
        None, "shares of the channels to remove: 0.3,0.5,0.7; 0.5 where no budget is given"
    )
    macs: str | None = option(None, "shares of the MACs that may remain: 0.5,0.25")
    params: str | None = option(None, "shares of the parameters that may remain: 0.5,0.25")
    compression: str | None = option(
        None, "all parameters over those that remain: 2,4,8,16,32 (as in ShrinkBench)"
    )
    bytes: str | None = option(None, "sizes as stored: 5MB,500KB")
    latency: str | None = option(
        None, "how long one run may take: 0.7x,0.5x of what it takes now, or 4ms"
    )
    scope: str | None = option(
        None,
        "whether the cuts compare channels of each group alone (local), under one threshold "
        "(global), …, a list; local by default",
    )
    criterion: str = option(
        "l1",
        f"what ranks the channels, any of: {CRITERIA}; or masks single weights: unstructured, "
        f"unstructured-NAME with one of: {_MASKS}",
    )
    samples: int = option(1024, _SAMPLES)
    init: Path | None = option(None, _INIT)
    regime: str = option(
        "repair,finetune,scratch-e,scratch-b", f"how to retrain, any of: {_REGIMES}"
    )
    seeds: int = option(3, _SEEDS)
    history: Path | None = option(
        None,
        "folder where slimnet train kept the dense network's weights, or of own checkpoints, for "
        "regimes that go back to them; with slimnet train's the base schedule is the one that it "
        "had",
    )
    training: Training = part()
    cut: CutRequest = part(*COMPARED)
    batch: int = option(1, _BATCH)
    time: bool = option(True, _TIME)
    engine: str | None = option(None, f"where trainings run, one of: {_ENGINES}")
    store: str = option("folder", f"where results are kept, one of: {_STORES}")
    keep_networks: str = option(
        "best",
        "which trained networks are kept, each with its ONNX: best (of the seeds of each row, by "
        "the metric after the last epoch), all or none",
    )
    curves: bool = option(
        False,
        "test each network after every epoch, too: curves and best epochs in the report, which "
        "compares the last ones alone",
    )
    workers: int | None = option(
        None,
        Option(
            "how many processes train at a time; they share the cores, or take --threads each",
            bounds=(1, 4096),
        ),
    )
    files: Files = part(*SIZED)
    run: Run = part()


def epochs_listed(text: str) -> tuple[int, ...]:
    """``0,1,5-8``."""
    listed: set[int] = set()
    for part_ in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part_.strip())
        if match is None:
            raise InputError(f"--snapshots {text!r} are no epochs: 0,1,10, or 0-4,10")
        listed |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(listed))


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a dense network, and keep its weights of some epochs; writes a plain state dict.

    Stopped and started again with the same options, it goes on where it was.

    Example: slimnet train slimnet:resnet20 --data npz:cifar10.npz --snapshots 0,10 -o dense.pt
    """

    model: str = required(
        "state dict, or what builds a network with fresh weights: slimnet:resnet20, file.py:make",
        positional=True,
    )
    data: str = required(_DATA)
    output: Path = option(Path("dense.pt"), "the state dict; resumed", flags=_OUTPUT)
    fresh: bool = option(False, "start a state dict's network afresh, too")
    snapshots: tuple[int, ...] = option(
        (0,),
        "epochs whose weights are kept, to rewind to: 0,1,10 or 0-4; 0 is before the first step",
        kind=str | None,
        parse=epochs_listed,
    )
    history: Path | None = option(
        None, "the folder in which they are kept; OUTPUT.history by default"
    )
    training: Training = part()
    files: Files = part(*SIZED)
    run: Run = part()


@dataclass(frozen=True, kw_only=True)
class Sparsify:
    """Train a network sparse, so that a cut costs less; writes a plain state dict.

    Stopped and started again with the same options, it goes on where it was.

    Example: slimnet sparsify net.pt --method slimming --data npz:cifar10.npz -o sparse.pt
    """

    model: Path = required(_MODEL)
    data: str = required(_DATA)
    output: Path = option(Path("sparse.pt"), "the state dict; resumed", flags=_OUTPUT)
    method: str = option("slimming", f"one of: {_METHODS}")
    strength: float | None = option(None, "of the penalty; the method's own by default")
    rate: float | None = option(None, "share that soft-filters, unstructured set to zero")
    training: Training = part()
    files: Files = part(*SIZED)
    run: Run = part()


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How what is slim is trained on, and what is read of the data."""

    lr: float | None = option(None, "0.01 for SGD, 0.0003 for AdamW")
    optimizer: str | None = option(
        None, "sgd (images that are classified with batch norms) or adamw (all else)"
    )
    train_batch: int = option(128, "samples per step", bounds=(1, None))
    precision: str | None = option(None, "float32 or bfloat16; what is faster, by default")
    compile: bool = option(False, "try torch.compile, too (minutes), and take it where it pays")
    samples: int = option(1024, _SAMPLES)
    normalize: str | None = option(None, _NORMALIZE)
    train_images: int | None = option(None, "use only so many", bounds=(1, None))
    test_images: int | None = option(None, "use only so many", bounds=(1, None))


def times(text: str) -> float:
    """``2x`` or ``2``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x?", text.strip())
    if match is None:
        raise InputError(f"--speed {text!r} does not say how many times as fast: 2x, or 1.5x")
    return float(match[1])


@dataclass(frozen=True, kw_only=True)
class Auto:
    """The whole way: cut, prove, repair, retrain, export, measure; one folder, one report.

    Each step's file is kept; stopped and started again, it goes on where it was.

    Example: slimnet auto resnet20.pt --data npz:cifar10.npz --macs 0.5 --minutes 20 -o out
    """

    model: Path = required(_MODEL)
    data: str = required(_DATA)
    output: Path = required("folder of what is made; resumed", flags=_OUTPUT)
    speed: float | None = option(
        None, "how many times as fast as the dense network: 2x", kind=str | None, parse=times
    )
    cut: CutRequest = part(
        *("ratio", "macs", "params", "bytes", "latency", "criterion", "scope", "align"),
        *("min_channels", "keep", "layer_ratio", "widths", "outputs", "heads", "drop_blocks"),
        "best_effort",
    )
    minutes: float = option(30.0, "for all of it; as many epochs are trained as fit")
    epochs: int | None = option(
        None, "of the training, in place of --minutes", bounds=(1, None), replaces="minutes"
    )
    distill: bool = option(
        True, "train on what the dense network says, too", flags=("--distill/--no-distill",)
    )
    tuning: Tuning = part()
    batch: int = option(1, _BATCH)
    files: Files = part(*WHOLE)
    run: Run = part()


def targets(text: str) -> tuple[TimeTarget, ...]:
    """``0.8x,0.6x,4ms``, each once."""
    listed = [TimeTarget.of(each) for each in text.split(",")]
    return tuple({str(target): target for target in listed}.values())


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """Cut to several times, and show the metric against measured milliseconds; one folder.

    Each slim network is repaired, and trained on where --epochs or --minutes say so; in the end all
    ONNX files are timed together. Stopped and started again, it goes on where it was; more times
    may be asked for later.

    Example: slimnet frontier resnet20.pt --data npz:cifar10.npz --latency 0.8x,0.6x,0.4x -o out
    """

    model: Path = required(_MODEL)
    data: str = required(_DATA)
    latency: tuple[TimeTarget, ...] = required(
        Option(
            "how long one run may take, a list: 0.8x,0.6x of what it takes now, or 4ms,2ms",
            kind=str,
            parse=targets,
        )
    )
    output: Path = required("folder of what is made; resumed", flags=_OUTPUT)
    cut: CutRequest = part(
        *("criterion", "scope", "align", "min_channels", "keep", "layer_ratio", "widths"),
        *("outputs", "heads", "drop_blocks", "best_effort"),
    )
    epochs: int | None = option(
        None, "train each slim network on, by distillation", bounds=(1, None)
    )
    minutes: float | None = option(
        None, "the same, for so long each; as many epochs as fit", replaces="epochs"
    )
    tuning: Tuning = part()
    batch: int = option(1, _BATCH)
    files: Files = part(*WHOLE)
    run: Run = part()


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The whole way once, on scanned digits: train, cut, prove, retrain, export, measure.

    Example: slimnet demo -o demo
    """

    output: Path = option(Path("slimnet-demo"), _RESULTS)
    seeds: int = option(3, _SEEDS)
    run: Run = part("json", "device", "threads")


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What was measured on this machine and is kept, for budgets of time.

    Example: slimnet cache --clear
    """

    clear: bool = option(False, "remove it: what is needed is measured again")
    run: Run = part("json")


COMMANDS = {
    kind.__name__.lower(): kind
    for kind in (
        *(Inspect, Prune, Repair, Retrain, Sensitivity, Verify),
        *(Auto, Frontier, Export, Latency, Compare, Train, Sparsify, Demo, Cache),
    )
}
