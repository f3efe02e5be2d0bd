"""Half of the MACs: how fast, by how widths are rounded, beside Torch-Pruning.

    python benchmarks/widths.py resnet50 mobilenet_v2 efficientnet_b0 --threads 1

For each network (random weights: time depends on shapes) slimnet cuts to a share of the MACs by its
default options and with widths rounded by hand, Torch-Pruning with its ``round_to``, to as near the
same MACs as its ratio allows. All are exported and timed in one process, round by round. What
counts is the speed over the dense network times the share of the MACs that is left: 1 where time
falls as MACs do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
import torchvision
from torch import nn

import slimnet
from slimnet.export import export_onnx, measure_latency

IMAGE = torch.randn(1, 3, 224, 224)


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    print(" ".join(["python benchmarks/widths.py", *sys.argv[1:]]))
    packages = ("torch", "onnxruntime", "torch-pruning")
    print(", ".join(f"{name} {version(name)}" for name in packages), f"{options.threads} threads")
    records = []
    for name in options.networks:
        torch.manual_seed(0)
        dense = torchvision.models.get_model(name, weights=None).eval()
        with tempfile.TemporaryDirectory() as folder:
            records += list(measured(name, dense, Path(folder), options))
    if options.output:
        options.output.write_text(json.dumps(records, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["resnet50", "mobilenet_v2"])
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("-o", "--output", type=Path, help="write the records as JSON")
    return parser.parse_args()


def measured(
    name: str, dense: nn.Module, folder: Path, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    whole = slimnet.cost(dense, (IMAGE,)).macs
    shares, files = {}, {"dense": folder / "dense.onnx"}
    export_onnx(dense, (IMAGE,), files["dense"], verify=False)
    for label, slim in candidates(dense, whole, options.macs):
        files[label] = folder / f"{label.replace(' ', '_')}.onnx"
        export_onnx(slim, (IMAGE,), files[label], verify=False)
        shares[label] = slimnet.cost(slim, (IMAGE,)).macs / whole
    how = {"threads": options.threads, "rounds": options.rounds}
    latency = measure_latency(files, (IMAGE,), **how)
    print(f"{name}: {latency.timing('dense').median_ms:.2f} ms dense; {latency.conditions()}")
    print(f"{'':24}{'MACs left':>10}{'speed':>8}{'10-90 %':>14}{'speed x MACs':>14}")
    for speedup in latency.speedups:
        share, ideal = shares[speedup.name], speedup.median * shares[speedup.name]
        spread = f"{speedup.low:.2f}-{speedup.high:.2f}"
        print(f"{speedup.name:24}{share:>10.1%}{speedup.median:>8.2f}{spread:>14}{ideal:>14.3f}")
        row = {"network": name, "how": speedup.name, "macs": share, "speed": speedup.median}
        yield {**row, "low": speedup.low, "high": speedup.high, "speed_times_macs": ideal}
    sys.stdout.flush()


def candidates(dense: nn.Module, whole: float, macs: float) -> Iterator[tuple[str, nn.Module]]:
    for label, align in (("default", "auto"), ("align 16", 16), ("align 8", 8), ("off", None)):
        slim = slimnet.prune(dense, (IMAGE,), macs=macs, align=align, verify=False)
        yield label, slim.model
    for round_to in (8, 16):
        yield f"Torch-Pruning round {round_to}", nearest(dense, whole, macs, round_to)


def nearest(dense: nn.Module, whole: float, macs: float, round_to: int) -> nn.Module:
    """Of some ratios, what leaves MACs nearest to the share."""
    tried = [peer(dense, ratio / 100, round_to) for ratio in range(22, 44, 2)]
    return min(tried, key=lambda m: abs(slimnet.cost(m, (IMAGE,)).macs / whole - macs))


def peer(dense: nn.Module, ratio: float, round_to: int) -> nn.Module:
    model = deepcopy(dense)
    last = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    importance = tp.importance.MagnitudeImportance(p=1)
    more = {"pruning_ratio": ratio, "round_to": round_to, "ignored_layers": last}
    tp.pruner.MetaPruner(model, IMAGE, importance=importance, **more).step()
    return model.eval()


if __name__ == "__main__":
    main()
