"""What the proof costs: CPU seconds of the certificate beside those of the cut, network by network.

``python benchmarks/proof.py resnet18 'vit_*'`` prunes torchvision networks of random weights to
half their channels, as the zoo builds them, one thread; ``'*'`` takes all. CPU seconds count: wall
time on a shared machine does not. ``--against FOLDER`` runs the slimnet in another folder the same
way, network by network in turn, and prints the ratio; a process of its own for each run.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # after the folder that is measured

from zoo_networks import SOURCES, arch_of, built

HERE = Path(__file__).resolve().parents[1]
NETWORKS = (
    *("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "vgg11_bn"),
    *("shufflenet_v2_x1_0", "googlenet", "regnet_y_400mf", "convnext_tiny", "swin_t", "vit_b_16"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--against", type=Path, help="a folder with another slimnet")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.measure)))
        return 0
    print("CPU seconds, one thread; peak memory in MB, of the whole process")
    folders = [HERE, *([options.against] if options.against else [])]
    table: dict[str, list[dict[str, Any]]] = {}
    for name in chosen(options.networks):
        table[name] = [run(folder, name) for folder in folders]
        print(f"{name:34s} {line(table[name])}", flush=True)
    print(summary(list(table.values())))
    return 0


def chosen(globs: Sequence[str]) -> list[str]:
    """Names of torchvision's networks."""
    names = SOURCES["torchvision"].families()
    return [name for name in names if any(fnmatch.fnmatch(name, glob) for glob in globs)]


def line(rows: Sequence[dict[str, Any]]) -> str:
    """A network's row: each slimnet's, then the ratio."""
    shown = "  |  ".join(
        "{outcome:9s} cut {cut_s:7.2f} proof {proof_s:7.2f} {mb:6.0f} MB".format(**r) for r in rows
    )
    if len(rows) == 2 and rows[1]["proof_s"]:
        proof, memory = (rows[0][key] / rows[1][key] for key in ("proof_s", "mb"))
        shown += f"  proof {proof:.2f}×, memory {memory:.2f}×"
    return shown


def summary(table: Sequence[Sequence[dict[str, Any]]]) -> str:
    """Outcomes, and how the proof's time compares."""
    shown = [str(dict(Counter(rows[0]["outcome"] for rows in table)))]
    ratios = [
        rows[0]["proof_s"] / rows[1]["proof_s"]
        for rows in table
        if len(rows) == 2 and {row["outcome"] for row in rows} == {"certified"}
    ]
    if ratios:
        tenths = statistics.quantiles(ratios, n=10) if len(ratios) > 1 else ratios * 9
        over = sum(ratio > 1.5 for ratio in ratios)
        shown.append(
            f"proof: median {statistics.median(ratios):.2f}×, 10-90 % {tenths[0]:.2f} to "
            f"{tenths[-1]:.2f}×, largest {max(ratios):.2f}×, over 1.5×: {over} of {len(ratios)}"
        )
    return "\n".join(shown)


def run(folder: Path, name: str) -> dict[str, Any]:
    """Measure one network with the slimnet of a folder."""
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", name]
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"outcome": "crashed", "cut_s": 0.0, "proof_s": 0.0, "mb": 0.0}
    return json.loads(done.stdout.splitlines()[-1])


def measured(name: str) -> dict[str, Any]:
    """Cut and prove one network; seconds of CPU, and the peak of the resident set."""
    import importlib
    import resource

    import torch

    import slimnet
    from slimnet.errors import SlimnetError

    torch.set_num_threads(1)
    module = importlib.import_module(f"slimnet.{_stages()}")
    certify, spent = module.certify, [0.0]

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return certify(*args, **kwargs)
        finally:
            spent[0] += time.process_time() - start

    module.certify = timed
    model, example, _ = built(arch_of("torchvision", name))
    outcome = "certified"
    start = time.process_time()
    try:
        slimnet.prune(model, example, ratio=0.5)
    except SlimnetError as error:
        outcome = "refused"
        print(error, file=sys.stderr)
    whole = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"outcome": outcome, "cut_s": whole - spent[0], "proof_s": spent[0], "mb": peak}


def _stages() -> str:
    """The module of the stages, which had another name before."""
    from importlib.util import find_spec

    return "pruning" if find_spec("slimnet.pruning") else "prune"


if __name__ == "__main__":
    sys.exit(main())
