"""What training sparse is good for: accuracy after a cut, without any retraining, on digits.

    python benchmarks/sparsify_digits.py --seeds 3

Each network is trained once, then trained on with each method, then cut; the row without a method
is cut as it was trained. Accuracy is that on all test images, mean and standard deviation over the
seeds of the sparse training. Latency: onnxruntime, interleaved with the dense network.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import slimnet
from slimnet.export import export_onnx, measure_latency
from slimnet.models import MODELS
from slimnet.sparsity.training import Recipe, sparsify
from slimnet.tasks.classification import Dataset
from slimnet.tasks.data import load_data
from slimnet.train import Schedule, evaluate, train

EXAMPLE = (torch.zeros(1, 1, 8, 8),)
SCHEDULE = Schedule(epochs=24, lr=0.05)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    network: str
    method: str
    amount: float = 0.0
    cut: dict[str, Any] = field(default_factory=dict)  # of slimnet.prune


HALF = {"ratio": 0.5, "min_channels": 16}
ROWS = (
    *(
        row
        for network in ("digits_vgg", "digits_resnet")
        for row in (
            Row(network, "", cut={**HALF, "criterion": "l2"}),
            Row(network, "slimming", 0.03, {**HALF, "criterion": "bn-scale", "scope": "global"}),
            Row(network, "group-lasso", 0.03, {**HALF, "criterion": "l2"}),
            Row(network, "soft-filters", 0.5, {**HALF, "criterion": "l2"}),
            Row(network, "unstructured", 0.9),
        )
    ),
    Row("resnet20", "", cut={"drop_blocks": 6}),
    Row("resnet20", "block-scales", 0.3, {"drop_blocks": 6}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, dense = load_data("digits"), {}
    print("| network | method | trained | cut | MACs left | speed |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in ROWS:
        if row.network not in dense:
            dense[row.network] = trained(row.network, data)
        print(measured(row, dense[row.network], data, options.seeds), flush=True)


def trained(name: str, data: Dataset) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name].make(in_channels=1) if name == "resnet20" else MODELS[name].make()
    train(model, data, Schedule(epochs=12, lr=0.1), seed=0)
    return model


def measured(row: Row, dense: nn.Module, data: Dataset, seeds: int) -> str:
    before, after, macs, slim = [], [], 1.0, dense
    for seed in range(seeds if row.method else 1):
        model = dense
        if row.method:
            model = sparsify(
                model, EXAMPLE, data, Recipe(row.method, row.amount, SCHEDULE, seed)
            ).model
        before.append(evaluate(model, data))
        slim = model
        if row.cut:
            pruned = slimnet.prune(model, EXAMPLE, **row.cut)
            slim, macs = pruned.model, pruned.plan.after["macs"] / pruned.plan.before["macs"]
        after.append(evaluate(slim, data))
    title = f"`{row.method}` {row.amount:g}" if row.method else "none"
    cells = (row.network, title, mean(before), mean(after), f"{macs:.0%}", speed(dense, slim))
    return f"| {' | '.join(cells)} |"


def mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def speed(dense: nn.Module, slim: nn.Module) -> str:
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in ("dense", "slim")}
        for path, model in zip(files.values(), (dense, slim), strict=True):
            export_onnx(model.eval(), EXAMPLE, path)
        latency = measure_latency(files, EXAMPLE, batch=64, threads=1)
    return f"{latency.speedup.median:.2f}×"


if __name__ == "__main__":
    main()
