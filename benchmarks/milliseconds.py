"""Budgets of time: are they met, and how soon is that known.

    python benchmarks/milliseconds.py resnet18 mobilenet_v2 --latency 0.7x,0.5x,0.35x --threads 1

For each network (random weights: time depends on shapes) and each target: what the model of time
predicted and what was measured for every cut that was tried, the seconds that the search took (with
``--fresh`` without what earlier runs have kept), and the time of the slim network over that of the
dense one measured once more, in a process of its own. With ``--elsewhere`` the files are measured
at other batch sizes and numbers of threads, too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision

import slimnet
from slimnet.errors import PruneError
from slimnet.export import export_onnx
from slimnet.timing.cache import VARIABLE

IMAGE = torch.randn(1, 3, 224, 224)
AGAIN = """
import json, sys, torch, slimnet
files, batch, threads = {"dense": sys.argv[1], "slim": sys.argv[2]}, *map(int, sys.argv[3:])
torch.set_num_threads(threads)
how = {"batch": batch, "threads": threads}
speedup = slimnet.measure_latency(files, (torch.randn(1, 3, 224, 224),), **how).speedup
print(json.dumps([speedup.median, speedup.low, speedup.high]))
"""


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    print(" ".join(["python benchmarks/milliseconds.py", *sys.argv[1:]]))
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime")))
    print(f"{'network':20}{'target':>8}{'seconds':>9}{'MACs':>8}{'again':>9}{'off':>8}  cuts tried")
    records = []
    with tempfile.TemporaryDirectory() as folder:
        if options.fresh:
            os.environ[VARIABLE] = folder
        for name in options.networks:
            records += [
                measured(name, x, Path(folder), options) for x in options.latency.split(",")
            ]
    if options.output:
        options.output.parent.mkdir(exist_ok=True)
        options.output.write_text(json.dumps(records, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--latency", default="0.7x,0.5x,0.35x", help="shares of the dense time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--elsewhere", action="store_true", help="measure other settings, too")
    parser.add_argument("-o", "--output", type=Path, help="write the records as JSON")
    return parser.parse_args()


def measured(name: str, target: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    dense = torchvision.models.get_model(name, weights=None).eval()
    began = time.perf_counter()
    row: dict[str, Any] = {"network": name, "target": target}
    try:
        slim = slimnet.prune(dense, (IMAGE,), latency=target, batch=options.batch)
    except PruneError as error:
        print(f"{name:20}{target:>8}  {error}", flush=True)
        return row | {"refused": str(error)}
    row["seconds"] = time.perf_counter() - began
    files = folder / "dense.onnx", folder / "slim.onnx"
    for model, file in zip((dense, slim.model), files, strict=True):
        export_onnx(model, (IMAGE,), file, verify=False)
    before, after = slim.plan.before or {}, slim.plan.after or {}
    row["macs"] = after["macs"] / before["macs"]
    row["tried"] = slim.plan.notes[-1]
    share = 1 / again(files, options.batch, options.threads)[0]
    row |= {"again": share, "off": share / float(target.rstrip("x")) - 1}
    print(
        f"{name:20}{target:>8}{row['seconds']:>9.0f}{row['macs']:>8.1%}{share:>8.3f}x"
        f"{row['off']:>8.1%}  {row['tried'].partition('tried: ')[2]}",
        flush=True,
    )
    if options.elsewhere:
        row["elsewhere"] = {
            f"batch {batch}, {threads} threads": 1 / again(files, batch, threads)[0]
            for batch in (1, 64)
            for threads in (1, 2)
        }
        print("", *(f"{k}: {v:.3f}x" for k, v in row["elsewhere"].items()), sep="   ", flush=True)
    return row


def again(files: tuple[Path, Path], batch: int, threads: int) -> list[float]:
    """How many times as fast, from a process of its own."""
    words = [sys.executable, "-c", AGAIN, *map(str, files), str(batch), str(threads)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: list[float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
