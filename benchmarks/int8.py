"""Int8 beside float32 in onnxruntime: size, milliseconds and, with data, the metric.

    python benchmarks/int8.py resnet50 mobilenet_v2
    python benchmarks/int8.py --file resnet56.th --data npz:cifar10.npz --normalize imagenet

torchvision's networks have random weights, batch norms with the statistics of noise, and ranges
from noise: size and time depend on shapes, not on values, and no metric is measured. A file of
weights is measured on all test images. Both files of a network are timed round by round in one
process.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision

from slimnet.cli.calibration import task_called
from slimnet.export import Int8Export, export_int8, export_onnx
from slimnet.export.int8 import kernels_sentence
from slimnet.files.access import open_network
from slimnet.task import LoaderTask, Task

IMAGES = (torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)),)
SMALL = (torch.zeros(1, 3, 32, 32),)


def main() -> None:
    options = parsed()
    rows = []
    for name in options.networks:
        torch.manual_seed(0)
        model = settled(torchvision.models.get_model(name, weights=None))
        rows.append(measured(name, model, IMAGES, noise(), options))
    if options.file:
        model = open_network(options.file, None, allow_pickle=True).model
        task = task_called(options.data, options.normalize, SMALL)
        rows.append(measured(options.file.stem, model, SMALL, task, options))
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help="of torchvision")
    parser.add_argument("--file", type=Path, help="weights of a CIFAR network; unpickles them")
    parser.add_argument("--data", help="of that network, as slimnet takes it")
    parser.add_argument("--normalize")
    parser.add_argument("--samples", type=int, default=256, help="of the data, for the ranges")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, help="write the records as JSON")
    return parser.parse_args()


def settled(model: torch.nn.Module) -> torch.nn.Module:
    """Batch norms with the statistics of noise: with their first ones, numbers grow with depth."""
    model.train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.randn(4, 3, 64, 64))
    return model.eval()


def noise() -> LoaderTask:
    """Images without labels; the metric says nothing."""
    batches = [torch.randn(8, 3, 224, 224) for _ in range(4)]
    return LoaderTask(batches, batches[:1], loss_of=lambda outputs, _: outputs.mean())


def measured(
    name: str, model: torch.nn.Module, example: Any, task: Task, options: argparse.Namespace
) -> Mapping[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        export_onnx(model, example, Path(folder) / "float32.onnx")
        seconds = time.perf_counter() - start
        record = export_int8(
            model,
            example,
            Path(folder) / "int8.onnx",
            task,
            samples=options.samples,
            batch=options.batch,
            threads=options.threads,
            keep_slower=True,
        )
    show(name, record, seconds)
    return {"network": name, "export_s": seconds, **record.to_json()}


def show(name: str, record: Int8Export, seconds: float) -> None:
    speed = record.latency.speedup
    print(f"{name}: exported and checked in {seconds:.1f} s; {kernels_sentence(record.runs)}")
    for row in record.files:
        value = row.metrics[record.metric.name]
        metric = f", {record.metric.name} {value:.2f}" if record.metric.name != "loss" else ""
        print(f"  {row.name}: {row.size_bytes / 1e6:.3g} MB, {row.median_ms:.3g} ms{metric}")
    print(f"  {speed.median:.2f} times as fast ({speed.low:.2f} - {speed.high:.2f})")
    print(f"  {record.latency.conditions()}", flush=True)


if __name__ == "__main__":
    main()
