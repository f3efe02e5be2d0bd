"""Every network of torchvision, or one of each family of timm: does slimnet cut and prove it?

Each network is pruned at a channel ratio of 0.5 by L1 magnitude, per layer, alignment off, without
a hint to slimnet, proven, saved, and loaded again in a fresh process whose outputs must be equal to
the bit. Beside it stands Torch-Pruning, told all that its own examples tell it. Every tool has a
process of its own with a time limit, so that a crash, a hang or a lack of memory costs one row.

    python benchmarks/zoo.py --models 'resnet*' --repeats 3 -o zoo.json
    python benchmarks/zoo.py --source timm -o timm.json --resume
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from zoo_networks import SOURCES
from zoo_table import HEADER, line, summarised

HERE = Path(__file__).parent
SPARE = 600  # seconds for what is not the tool's: building, the network's own passes, saving
RELOAD_LIMIT = 300
TORCH_PRUNING_LIMIT = 120  # seconds, all of its process; on a few networks it does not end


def main() -> int:
    options = parsed()
    families = SOURCES[options.source].families()
    names = [name for name in families if any(fnmatch.fnmatch(name, g) for g in options.models)]
    kept = kept_rows(options)
    rows = []
    print(HEADER, flush=True)
    for name in names:
        known = {"model": name, "family": families[name]}
        rows.append(kept.get(name) or known | examined(name, options))
        print(line(rows[-1]), flush=True)
        save(rows, options)
    summary = summarised(rows)
    print("\n" + "\n".join(f"{question:<46} {answer}" for question, answer in summary.items()))
    return int(any(row["outcome"] in ("crashed", "hung") for row in rows))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", choices=sorted(SOURCES), default="torchvision")
    parser.add_argument("--models", nargs="+", default=["*"], metavar="GLOB", help="which networks")
    parser.add_argument("--repeats", type=int, default=1, help="of the timing; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--proof", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--torch-pruning",
        action=argparse.BooleanOptionalAction,
        help="beside it; by default for torchvision only",
    )
    parser.add_argument("-o", "--output", type=Path, help="write everything as JSON, row by row")
    parser.add_argument("--resume", action="store_true", help="keep the rows of the -o file")
    options = parser.parse_args()
    if options.torch_pruning is None:
        options.torch_pruning = options.source == "torchvision"
    return options


def kept_rows(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The rows of an earlier run, by network."""
    if not (options.resume and options.output and options.output.exists()):
        return {}
    return {row["model"]: row for row in json.loads(options.output.read_text())["rows"]}


def examined(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What each tool made of one network."""
    limit = SOURCES[options.source].limit + SPARE
    common = [options.source, name, "--repeats", options.repeats, "--threads", options.threads]
    with tempfile.TemporaryDirectory(prefix="slimnet-zoo-") as folder:
        proof = "--proof" if options.proof else "--no-proof"
        text, failure = run("zoo_slimnet.py", *common, proof, "--folder", folder, limit=limit)
        found = {"outcome": outcome(failure), "reason": failure} if failure else json.loads(text)
        if (Path(folder) / "expected.pt").exists():
            text, failure = run("zoo_reload.py", folder, options.threads, limit=RELOAD_LIMIT)
            found["reload"] = text or f"failed: {failure}"
    if options.torch_pruning:
        text, failure = run("zoo_torch_pruning.py", *common, limit=TORCH_PRUNING_LIMIT)
        found |= {"torch_pruning_error": failure} if failure else json.loads(text)
    return found


def run(script: str, *arguments: Any, limit: int) -> tuple[str, str]:
    """The last line that a script prints, and how it failed, if so."""
    command = [sys.executable, "-W", "ignore", HERE / script, *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return "", f"no result within {limit} s"
    printed = (done.stdout.strip().splitlines() or [""])[-1]
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    failed = done.returncode and not (script == "zoo_reload.py" and printed)
    return printed, f"exit code {done.returncode}: {last[:300]}" if failed else ""


def outcome(failure: str) -> str:
    return "hung" if failure.startswith("no result") else "crashed"


def save(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Write what is known so far, whole or not at all."""
    if options.output is None:
        return
    content = {"machine": machine(options), "rows": rows, "summary": summarised(rows)}
    part = options.output.with_name(f"{options.output.name}.part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(options.output)


def machine(options: argparse.Namespace) -> dict[str, Any]:
    packages = ("torch", "torchvision", "timm", "torch-pruning")
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "repeats": options.repeats,
        "versions": {name: version(name) for name in packages},
    }


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
