"""Kill -9 at moments all over a command's time; started again, it must end as if nothing had been.

Each command runs once whole, then once for each moment: killed there, and started again until it
ends. Its networks must be the same to the bit, and so must the metrics of a comparison's cells.
Nothing may be left beside the files of the whole run. Trains on scikit-learn's digits.

    python benchmarks/kills.py retrain auto compare --moments 10
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from slimnet.models import MODELS
from slimnet.tasks.data import load_data
from slimnet.train import Schedule, train
from slimnet.version import used

COMMANDS = {
    "retrain": "retrain {shelf}/slim.pt --data digits --against {shelf}/dense.pt --distill "
    "--epochs 12 --precision float32 --threads 1 -o {out}/tuned.pt",
    "auto": "auto {shelf}/dense.pt --data digits --macs 0.5 --epochs 8 --precision float32 "
    "--samples 128 --threads 1 -o {out}",
    "compare": "compare {shelf}/dense.pt --data digits --ratio 0.5 --regime repair,finetune "
    "--seeds 1 --epochs 24 --samples 128 --no-time --keep-networks all --threads 1 -o {out}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commands", nargs="*", default=list(COMMANDS))
    parser.add_argument("--moments", type=int, default=10)
    asked = parser.parse_args()
    print(used())
    with tempfile.TemporaryDirectory() as folder:
        shelf = prepared(Path(folder))
        wrong = sum(tried(name, shelf, asked.moments) for name in asked.commands)
    sys.exit(1 if wrong else 0)


def prepared(shelf: Path) -> Path:
    """A trained network, and one cut from it."""
    torch.manual_seed(0)
    model = MODELS["digits_resnet"].make()
    train(model, load_data("digits"), Schedule(epochs=4, batch=64, shape="cosine"), seed=0)
    torch.save(model.state_dict(), shelf / "dense.pt")
    started("prune {shelf}/dense.pt --ratio 0.5 -o {shelf}/slim.pt", shelf, shelf).wait()
    return shelf


def tried(name: str, shelf: Path, moments: int) -> int:
    """How many moments ended otherwise; prints each."""
    began = time.perf_counter()
    whole = ended(name, shelf, shelf / f"{name}-whole", [])
    seconds = time.perf_counter() - began
    print(f"{name}: {seconds:.0f} s whole, {len(whole)} networks and numbers")
    wrong = 0
    for number in range(1, moments + 1):
        moment = seconds * number / (moments + 1)
        found = ended(name, shelf, shelf / f"{name}-{number}", [moment])
        other = sorted({key for key in whole.keys() | found.keys() if not same(whole, found, key)})
        print(f"  killed after {moment:5.1f} s: {'the same' if not other else f'OTHER: {other}'}")
        wrong += bool(other)
    return wrong


def ended(name: str, shelf: Path, out: Path, kills: list[float]) -> dict[str, Any]:
    """What is there once the command has ended, though it was killed at these moments."""
    out.mkdir(exist_ok=True) if name == "retrain" else None
    for moment in kills:
        process = started(COMMANDS[name], shelf, out)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = started(COMMANDS[name], shelf, out)
    if process.wait():
        raise SystemExit(f"{name} ended with {process.returncode}")
    return {**networks(out), **numbers(out), "files": files(out)}


def started(command: str, shelf: Path, out: Path) -> subprocess.Popen[bytes]:
    words = shlex.split(command.format(shelf=shelf, out=out))
    return subprocess.Popen(
        [sys.executable, "-m", "slimnet", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def networks(out: Path) -> dict[str, Any]:
    """The tensors of every slim network."""
    paths = [path for path in out.rglob("*.pt") if "networks" not in path.parts]
    return {str(path.relative_to(out)): torch.load(path)["tensors"] for path in paths}


def numbers(out: Path) -> dict[str, Any]:
    """The metrics of every cell of a comparison."""
    path = out / "results.json"
    if not path.exists():
        return {}
    (study,) = json.loads(path.read_text()).values()
    return {f"metrics of {n}": record["metrics"] for n, record in enumerate(study["records"])}


def files(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def same(one: dict[str, Any], other: dict[str, Any], key: str) -> bool:
    left, right = one.get(key), other.get(key)
    if isinstance(left, dict) and isinstance(right, dict) and key.endswith(".pt"):
        return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)
    return bool(left == right)


if __name__ == "__main__":
    main()
