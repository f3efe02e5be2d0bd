"""Accuracy after a cut without any training, by the command line, on the published CIFAR ResNets.

    python benchmarks/repair.py resnet56.th --data npz:cifar10.npz --macs 0.667,0.47,0.333 --seeds 3

For each share of the MACs and each seed (which draws other calibration images) it runs what a user
would type (printed first) in a process of its own, and tests the file that it wrote on all test
images. Labels are used for the test alone. It prints mean and standard deviation over the seeds,
and seconds from start to file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import slimnet
from slimnet.files.access import open_network
from slimnet.tasks.classification import Dataset
from slimnet.tasks.data import load_data
from slimnet.train import evaluate

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    dataset = load_data(options.data, options.normalize)
    dense = evaluate(open_network(options.network).model, dataset)
    print(f"{options.network.name}: {dense:.2f} % on {len(dataset.y_test)} test images")
    print(" ".join(command(options, "SHARE", "SEED", Path("slim.pt"))[4:]))
    print(f"torch {torch.__version__}, {options.threads} threads, {options.seeds} seeds")
    print(f"{'MACs':>6} {'MACs÷':>6} {'accuracy %':>16}")
    records = []
    for share in options.macs.split(","):
        rows = [measured(options, share, seed, dataset) for seed in range(options.seeds)]
        records.append({"share": float(share), "rows": rows})
        print(line(rows), flush=True)
    if options.output:
        options.output.write_text(json.dumps({"dense": dense, "rows": records}, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--normalize", default="imagenet")
    parser.add_argument("--input", default="1,3,32,32")
    parser.add_argument("--macs", default="0.667,0.47,0.333", help="shares that may remain")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("more", nargs="*", help="after --: further options of slimnet prune")
    return parser.parse_args()


def command(options: argparse.Namespace, share: str, seed: Any, file: Path) -> list[str]:
    given = [
        *("prune", options.network, "--input", options.input, "--macs", share, "--repair"),
        *("--data", options.data, "--normalize", options.normalize),
        *("--samples", options.samples, "--seed", seed, "--threads", options.threads),
        *options.more,
        *("-o", file),
    ]
    return [sys.executable, "-W", "ignore", "-m", "slimnet", *map(str, given)]


def measured(
    options: argparse.Namespace, share: str, seed: int, dataset: Dataset
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "slim.pt"
        start = time.perf_counter()
        done = subprocess.run(
            [*command(options, share, seed, file), "--json"],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        seconds = time.perf_counter() - start
        plan, repair = (json.loads(done.stdout)[key] for key in ("plan", "repair"))
        accuracy = evaluate(slimnet.load(file), dataset)
    return {
        "accuracy": accuracy,
        "remains": plan["after"]["macs"] / plan["before"]["macs"],
        "seconds": seconds,
        "error_before": repair["before"],
        "error": repair["after"],
    }


def line(rows: list[dict[str, float]]) -> str:
    remains = statistics.mean(row["remains"] for row in rows)
    found = [row["accuracy"] for row in rows]
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    seconds = statistics.median(row["seconds"] for row in rows)
    error = statistics.mean(row["error"] for row in rows)
    before = statistics.mean(row["error_before"] for row in rows)
    return (
        f"{remains:6.1%} {1 / remains:5.2f}x {statistics.mean(found):8.2f} ± {spread:4.2f} "
        f"outputs' error {before:.1%} → {error:.1%} {seconds:7.0f} s"
    )


if __name__ == "__main__":
    main()
