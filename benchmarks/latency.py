"""Latency of a torchvision network, dense against slim, in onnxruntime.

    python benchmarks/latency.py resnet18 mobilenet_v2 --ratio 0.5 --threads 1 --batch 1

For each network: random weights, pruned by slimnet at the given channel ratio with aligned and with
arbitrary widths, exported, compared with PyTorch, and timed against the dense one round by round in
one process. Latency depends on shapes, not on the values of weights, so none are downloaded.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
import torchvision

import slimnet
from slimnet.export import Latency, export_onnx, measure_latency

IMAGE = (torch.zeros(1, 3, 224, 224),)


def main() -> None:
    options = parsed()
    records = []
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            latency = measured(name, Path(folder), options)
        print(f"  {latency.sentence()}\n  {latency.conditions()}", flush=True)
        records.append({"network": name, "ratio": options.ratio, **latency.to_json()})
    if options.output:
        options.output.write_text(json.dumps(records, indent=2) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("-o", "--output", type=Path, help="write the records as JSON")
    return parser.parse_args()


def measured(name: str, folder: Path, options: argparse.Namespace) -> Latency:
    dense = torchvision.models.get_model(name, weights=None).eval()
    candidates = {"dense": exported(f"{name} dense", dense, folder / "dense.onnx")}
    for label, align in (("aligned", "auto"), ("arbitrary", None)):
        slim = slimnet.prune(dense, IMAGE, ratio=options.ratio, align=align, verify=False).model
        candidates[label] = exported(f"{name} {label}", slim, folder / f"{label}.onnx")
    return measure_latency(
        candidates, IMAGE, batch=options.batch, threads=options.threads, rounds=options.rounds
    )


def exported(label: str, model: torch.nn.Module, path: Path) -> Path:
    start = time.perf_counter()
    record = export_onnx(model, IMAGE, path)
    seconds = time.perf_counter() - start
    macs = slimnet.cost(model, IMAGE).macs
    print(
        f"{label}: {macs / 1e6:.0f} M MACs, {record.parameters / 1e6:.2f} M parameters in the file,"
        f" exported and checked in {seconds:.1f} s, parity {record.parity.error:.0e}",
        flush=True,
    )
    return path


if __name__ == "__main__":
    main()
