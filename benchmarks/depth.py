"""Time from model to slim model as the network gets deeper: slimnet beside Torch-Pruning.

CIFAR ResNets (He et al., 2016, option-A shortcuts) of growing depth at ratio 0.5, each depth in a
process of its own, the tools interleaved; a time is the median over the repeats. Linear cost shows
as a constant number of microseconds per operator of the recorded forward.

    python benchmarks/depth.py --depths 20,110,1202 --repeats 3 -o depth.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from zoo import (
    attempted,
    filled,
    machine,
    parameters,
    run_slimnet,
    run_torch_pruning,
    troubles,
    written,
)

from slimnet.models.resnet import ResNet

DEPTHS = (20, 56, 110, 218, 602, 1202)
TOOLS = (("slimnet", run_slimnet), ("torch_pruning", run_torch_pruning))
TIME_LIMIT = 600  # seconds per depth
HEADER = f"{'depth':>6}{'operators':>11}{'slimnet s':>11}{'us/op':>8}{'TP s':>9}{'faster':>8}"


class Operators(TorchDispatchMode):
    """Counts the operators that one forward really runs."""

    count = 0

    def __torch_dispatch__(self, operator, types, inputs=(), options=None):
        self.count += 1
        return operator(*inputs, **(options or {}))


def main() -> int:
    options = parsed()
    if options.worker:
        print(json.dumps(measured(options.worker, options.repeats, options.threads)))
        return 0
    print(HEADER, flush=True)
    rows = []
    for depth in options.depths:
        rows.append(in_own_process(depth, options))
        print(line(rows[-1]), flush=True)
    if options.output:
        written(options.output, {"machine": machine(options), "rows": rows})
    return int(any("slimnet_error" in row for row in rows))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=depths, default=DEPTHS, help="6n+2 each, with commas")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, help="write everything as JSON")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def depths(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def in_own_process(depth: int, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", __file__, "--worker", str(depth)]
    command += ["--repeats", str(options.repeats), "--threads", str(options.threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return {"depth": depth, "slimnet_error": f"no result within {TIME_LIMIT} s"}
    if done.returncode:
        return {"depth": depth, "slimnet_error": done.stderr.strip().splitlines()[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def measured(depth: int, repeats: int, threads: int) -> dict[str, Any]:
    """The row of one depth; what a tool could not do is in ``*_error``."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, example = filled(resnet(depth)), torch.randn(1, 3, 32, 32)
    row: dict[str, Any] = {"depth": depth, "operators": operators(model, example)}
    row["params"] = parameters(model)
    times: dict[str, list[float]] = {tool: [] for tool, _ in TOOLS}
    for _ in range(repeats):
        for tool, run in TOOLS:
            if f"{tool}_error" not in row:
                row |= attempted(tool, run, model, example, times[tool])
    medians = {f"{tool}_s": statistics.median(spent) for tool, spent in times.items() if spent}
    return row | medians | {"times_s": times}


def resnet(depth: int) -> nn.Module:
    with torch.device("meta"):
        model = ResNet((16, 32, 64), (depth - 2) // 6, num_classes=1000)
    return model.to_empty(device="cpu").eval()


@torch.no_grad()
def operators(model: nn.Module, example: torch.Tensor) -> int:
    with Operators() as recorded:
        model(example)
    return recorded.count


def line(row: dict[str, Any]) -> str:
    ours, theirs = row.get("slimnet_s"), row.get("torch_pruning_s")
    cells = [
        f"{row['depth']:>6}",
        f"{row.get('operators', '-'):>11}",
        f"{ours:>11.3f}{1e6 * ours / row['operators']:>8.0f}" if ours else f"{'-':>11}{'-':>8}",
        f"{theirs:>9.3f}" if theirs else f"{'-':>9}",
        f"{theirs / ours:>7.1f}x" if ours and theirs else f"{'-':>8}",
    ]
    return "\n".join(["".join(cells), *troubles(row)])


if __name__ == "__main__":
    sys.exit(main())
