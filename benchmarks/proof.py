"""What the proof costs: CPU seconds of the certificate beside those of the cut, network by network.

``python benchmarks/proof.py resnet18 vit_b_16`` prunes torchvision networks of random weights to
half their channels, 224², one thread. CPU seconds count: wall time on a shared machine does not.
``--against FOLDER`` runs the slimnet in another folder the same way, network by network in turn,
and prints the ratio; a process of its own for each run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
NETWORKS = (
    *("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "vgg11_bn"),
    *("shufflenet_v2_x1_0", "googlenet", "regnet_y_400mf", "convnext_tiny", "swin_t", "vit_b_16"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--against", type=Path, help="a folder with another version of slimnet")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.measure)))
        return 0
    print("CPU seconds, one thread; peak memory in MB, of the whole process")
    folders = [HERE, *([options.against] if options.against else [])]
    ratios = []
    for name in options.networks:
        rows = [run(folder, name) for folder in folders]
        shown = "  |  ".join(
            "cut {cut_s:6.2f} proof {proof_s:6.2f} {mb:6.0f} MB".format(**r) for r in rows
        )
        if len(rows) == 2:
            ratios.append(rows[0]["proof_s"] / rows[1]["proof_s"])
            shown += f"  proof {ratios[-1]:.2f}×, memory {rows[0]['mb'] / rows[1]['mb']:.2f}×"
        print(f"{name:22s} {shown}", flush=True)
    if ratios:
        print(f"proof: median {statistics.median(ratios):.2f}×, largest {max(ratios):.2f}×")
    return 0


def run(folder: Path, name: str) -> dict[str, Any]:
    """Measure one network with the slimnet of a folder."""
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", name]
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(name: str) -> dict[str, float]:
    """Cut and prove one network; seconds of CPU, and the peak of the resident set."""
    import importlib
    import resource

    import torch
    from torchvision.models import get_model

    import slimnet

    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = importlib.import_module("slimnet.prune")
    certify, spent = module.certify, [0.0]

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return certify(*args, **kwargs)
        finally:
            spent[0] += time.process_time() - start

    module.certify = timed
    named = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model = get_model(name, weights=None, **named).eval()
    start = time.process_time()
    slimnet.prune(model, (torch.randn(1, 3, 224, 224),), ratio=0.5)
    whole = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cut_s": whole - spent[0], "proof_s": spent[0], "mb": peak}


if __name__ == "__main__":
    sys.exit(main())
