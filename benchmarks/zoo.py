"""Torchvision's classification networks without attention: slimnet beside Torch-Pruning.

Each network is pruned at a channel ratio of 0.5 by L1 magnitude, per layer, alignment off, without
a hint to slimnet; Torch-Pruning is told the classifier to leave alone, as in its own examples.
Both start from the same random weights and run in the same process, interleaved; a time is the
median over the repeats after a warm-up, from model to slim model. Torch-Pruning cuts in place:
copying the model for it is not counted, slimnet's own copy is. Auxiliary heads are off: in eval
mode neither tool sees them. Every network runs in a process of its own with a time limit, so that
a crash, a hang or a lack of memory costs one row.

    python benchmarks/zoo.py --models 'resnet*' --repeats 3 --threads 1 -o zoo.json
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode

TIME_LIMIT = 900  # seconds per network and process
RATIO = 0.5
ATTENTION = ("maxvit", "swin", "vit")  # families that are not in this table
AUXILIARY = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Source:
    """Where networks come from: their names, how one is built, its input ``[C, H, W]``."""

    names: Callable[[], list[str]]
    build: Callable[[str], nn.Module]
    input_shape: Callable[[str], tuple[int, int, int]]


# ------------------------------------------------------------------------------------ torchvision


def torchvision_names() -> list[str]:
    names = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if not name.startswith(ATTENTION)]


def build_torchvision(name: str) -> nn.Module:
    extra = {"aux_logits": False, "init_weights": False} if name in AUXILIARY else {}
    with WithoutInitialisation():
        model = torchvision.models.get_model(name, weights=None, **extra)
    return calibrated(filled(model.eval()), torchvision_input(name))


@torch.no_grad()
def calibrated(model: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """Batch-norm statistics of two random images: else deep networks blow up, and rounding too."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if norms:
        momentum = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        model.train()(torch.randn(2, *shape))
        for norm, before in zip(norms, momentum, strict=True):
            norm.momentum = before
    return model.eval()


def torchvision_input(name: str) -> tuple[int, int, int]:
    return (3, 299, 299) if name == "inception_v3" else (3, 224, 224)


SOURCES = {"torchvision": Source(torchvision_names, build_torchvision, torchvision_input)}


class WithoutInitialisation(TorchFunctionMode):
    """Leaves fresh tensors as they are: torchvision's own draws take minutes for some networks."""

    def __torch_function__(self, function, types, inputs=(), options=None):
        if getattr(function, "__name__", "") in ("normal_", "uniform_", "erfinv_"):
            return inputs[0] if inputs else options["tensor"]
        return function(*inputs, **(options or {}))


@torch.no_grad()
def filled(model: nn.Module) -> nn.Module:
    """Random weights of the usual scale and random batch-norm statistics, from the global seed."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=(2 * parameter.shape[0] / parameter.numel()) ** 0.5)
        else:
            parameter.uniform_(0.5, 1.5)
    for name, statistic in model.named_buffers():
        if name.endswith("running_var"):
            statistic.uniform_(0.5, 1.5)
        else:
            statistic.zero_() if statistic.dtype == torch.long else statistic.normal_()
    return model


# ------------------------------------------------------------------------ one network, one process


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The row of one network; what a tool could not do is in ``*_error``."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    source, name = SOURCES[options.source], options.worker
    model = source.build(name)
    example = torch.randn(1, *source.input_shape(name))
    warm_up(model, example)
    row: dict[str, Any] = {"model": name, "params": parameters(model)}
    times: dict[str, list[float]] = {"slimnet": [], "torch_pruning": []}
    for _ in range(options.repeats):
        for tool, run in (("slimnet", run_slimnet), ("torch_pruning", run_torch_pruning)):
            if f"{tool}_error" not in row:
                row |= attempted(tool, run, model, example, times[tool])
    if "slimnet_error" not in row and options.proof:
        row |= attempted("certificate", run_certificate, model, example, [])
    medians = {f"{tool}_s": statistics.median(spent) for tool, spent in times.items() if spent}
    return row | medians | {"times_s": times}


def warm_up(model: nn.Module, example: torch.Tensor) -> None:
    """What only the first call in a process pays, for either tool: imports, caches, kernels."""
    tiny = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3))
    for run in (run_slimnet, run_torch_pruning):
        run(tiny.eval(), torch.randn(1, 3, 8, 8))
    with torch.no_grad():
        model(example)


def attempted(
    tool: str, run: Callable[..., dict], model: nn.Module, example: torch.Tensor, times: list[float]
) -> dict[str, Any]:
    try:
        seconds, row = run(model, example)
    except Exception as error:
        return {f"{tool}_error": f"{type(error).__name__}: {str(error)[:300]}"}
    times.append(seconds)
    return row


def run_slimnet(model: nn.Module, example: torch.Tensor) -> tuple[float, dict]:
    import slimnet

    start = time.perf_counter()
    pruned = slimnet.prune(model, (example,), ratio=RATIO, align=None, verify=False)
    seconds = time.perf_counter() - start
    dense, slim = (slimnet.cost.count(each, (example,)) for each in (model, pruned.model))
    return seconds, {
        "slimnet_removed": removed(model, pruned.model),
        "slimnet_macs_removed": 1 - slim.macs / dense.macs,
    }


def run_certificate(model: nn.Module, example: torch.Tensor) -> tuple[float, dict]:
    import slimnet

    start = time.perf_counter()
    pruned = slimnet.prune(model, (example,), ratio=RATIO, align=None, verify=True)
    certificate = pruned.certificate
    return time.perf_counter() - start, {
        "verified_s": time.perf_counter() - start,
        "proof_error": certificate.error,
        "proof_tolerance": certificate.tolerance,
        "exact": certificate.exact,
        "approximate_groups": len(certificate.approximate),
    }


def run_torch_pruning(model: nn.Module, example: torch.Tensor) -> tuple[float, dict]:
    import torch_pruning

    slim = deepcopy(model)
    start = time.perf_counter()
    pruner = torch_pruning.pruner.MagnitudePruner(
        slim,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=RATIO,
        ignored_layers=[layer for layer in slim.modules() if is_classifier(layer)],
    )
    pruner.step()
    seconds = time.perf_counter() - start
    return seconds, {"torch_pruning_removed": removed(model, slim)} | broken(slim, example)


@torch.no_grad()
def broken(slim: nn.Module, example: torch.Tensor) -> dict[str, str]:
    """Why the slim network does not run, if so."""
    try:
        slim.eval()(example)
    except Exception as error:
        return {"torch_pruning_broken": f"{type(error).__name__}: {str(error)[:300]}"}
    return {}


def is_classifier(layer: nn.Module) -> bool:
    classes = getattr(layer, "out_features", getattr(layer, "out_channels", None))
    return isinstance(layer, nn.Linear | nn.Conv2d) and classes == 1000


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def removed(dense: nn.Module, slim: nn.Module) -> float:
    """Fraction of the parameters that are gone."""
    return 1 - parameters(slim) / parameters(dense)


# --------------------------------------------------------------------------------------- the table


def main() -> int:
    options = parsed()
    if options.worker:
        row = measured(options)
        print(json.dumps(row))
        return 0
    names = [n for n in SOURCES[options.source].names() if fnmatch.fnmatch(n, options.models)]
    rows = []
    print(HEADER, flush=True)
    for name in names:
        rows.append(in_own_process(name, options))
        print(line(rows[-1]), flush=True)
    summary = summarised(rows)
    print("\n" + "\n".join(f"{question:<44} {answer}" for question, answer in summary.items()))
    if options.output:
        written(options.output, {"machine": machine(options), "rows": rows, "summary": summary})
    return int(any("slimnet_error" in row or "certificate_error" in row for row in rows))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", choices=sorted(SOURCES), default="torchvision")
    parser.add_argument("--models", default="*", metavar="GLOB", help="which networks")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--proof", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("-o", "--output", type=Path, help="write everything as JSON")
    parser.add_argument("--worker", metavar="NAME", help=argparse.SUPPRESS)
    return parser.parse_args()


def in_own_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The row of ``name``, or one that says how its process ended."""
    command = [sys.executable, "-W", "ignore", __file__, "--worker", name]
    command += ["--source", options.source, "--repeats", str(options.repeats)]
    command += ["--threads", str(options.threads), "--proof" if options.proof else "--no-proof"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return {"model": name, "slimnet_error": f"no result within {TIME_LIMIT} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"model": name, "slimnet_error": f"exit code {done.returncode}: {last[:300]}"}
    return json.loads(done.stdout.splitlines()[-1])


COLUMNS = (
    ("network", 22, lambda r: r["model"]),
    ("slimnet s", 10, lambda r: f"{r['slimnet_s']:.3f}"),
    ("verified s", 11, lambda r: f"{r['verified_s']:.2f}"),
    ("TP s", 9, lambda r: f"{r['torch_pruning_s']:.3f}"),
    ("faster", 8, lambda r: f"{r['torch_pruning_s'] / r['slimnet_s']:.1f}x"),
    ("error", 9, lambda r: f"{r['proof_error']:.0e}"),
    ("kind", 12, lambda r: "exact" if r["exact"] else "approximate"),
    ("params -%", 10, lambda r: f"{100 * r['slimnet_removed']:.2f}"),
    ("TP -%", 8, lambda r: f"{100 * r['torch_pruning_removed']:.2f}"),
    ("MACs -%", 8, lambda r: f"{100 * r['slimnet_macs_removed']:.1f}"),
)
HEADER = "".join(f"{title:>{width}}" for title, width, _ in COLUMNS)


def line(row: dict[str, Any]) -> str:
    cells = "".join(f"{cell(text, row):>{width}}" for _, width, text in COLUMNS)
    return "\n".join([cells, *troubles(row)])


def troubles(row: dict[str, Any]) -> list[str]:
    """What a tool could not do, one indented line each."""
    kinds = ("_error", "_broken")
    return [f"    {k}: {v}" for k, v in row.items() if k.endswith(kinds) and isinstance(v, str)]


def cell(text: Callable[[dict], str], row: dict[str, Any]) -> str:
    try:
        return text(row)
    except KeyError:
        return "-"


def summarised(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The bars of this benchmark, each with its answer."""
    certified = [row for row in rows if is_certified(row)]
    failed = [row["model"] for row in rows if is_failed_by_torch_pruning(row)]
    timed = [row for row in rows if {"slimnet_s", "torch_pruning_s"} <= row.keys()]
    both = [row for row in timed if row["model"] not in failed]
    less = [r["model"] for r in both if r["slimnet_removed"] < r["torch_pruning_removed"] - 1e-9]
    ratios = {row["model"]: row["torch_pruning_s"] / row["slimnet_s"] for row in both}
    answers = {
        "certified": f"{len(certified)} of {len(rows)}",
        "removes at least what Torch-Pruning removes": f"{len(both) - len(less)} of {len(both)}",
        "Torch-Pruning fails on": named(failed),
    }
    if less:
        answers["removes less on"] = named(less)
    if ratios:
        worst = min(ratios, key=ratios.__getitem__)
        answers["times faster, median"] = f"{statistics.median(ratios.values()):.2f}"
        answers["times faster, worst"] = f"{ratios[worst]:.2f} ({worst})"
    if "densenet201" in ratios:
        answers["times faster, DenseNet-201"] = f"{ratios['densenet201']:.1f}"
    return answers


def is_certified(row: dict[str, Any]) -> bool:
    return isinstance(row.get("proof_error"), float) and (
        row["proof_error"] <= row["proof_tolerance"]
    )


def is_failed_by_torch_pruning(row: dict[str, Any]) -> bool:
    return "torch_pruning_broken" in row or "torch_pruning_error" in row


def named(names: list[str]) -> str:
    return ", ".join(names) or "none"


def machine(options: argparse.Namespace) -> dict[str, Any]:
    packages = ("torch", "torchvision", "torch-pruning")
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "repeats": options.repeats,
        "ratio": RATIO,
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def written(path: Path, content: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
