"""How long the command line takes to answer where there is nothing to compute.

CPU seconds (user and system) of whole processes, the median and the least of ``--runs``, for help,
versions, typing errors, ``import slimnet`` and the first use of a public name, beside ``import
torch`` alone. ``--against`` names another checkout, measured in turns with this one.

    python benchmarks/startup.py --against ../slimnet-before
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    "slimnet --help": ("-m", "slimnet", "--help"),
    "slimnet prune --help": ("-m", "slimnet", "prune", "--help"),
    "slimnet --version": ("-m", "slimnet", "--version"),
    "slimnet prune --rato 0.5": ("-m", "slimnet", "prune", "--rato", "0.5"),
    "slimnet nothing": ("-m", "slimnet", "nothing"),
    "import slimnet": ("-c", "import slimnet"),
    "slimnet.prune": ("-c", "import slimnet; slimnet.prune"),
    "import torch": ("-c", "import torch"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another checkout")
    options = parser.parse_args()
    checkouts = [ROOT, *([options.against.resolve()] if options.against else [])]
    print(f"{'CPU seconds: median (least)':28}", *(f"{path.name:>14}" for path in checkouts))
    for name, arguments in COMMANDS.items():
        rounds = [[seconds(arguments, path) for path in checkouts] for _ in range(options.runs)]
        columns = zip(*rounds, strict=True)
        cells = (f"{statistics.median(c):.2f} ({min(c):.2f})" for c in columns)
        print(f"{name:28}", *(f"{cell:>14}" for cell in cells), flush=True)


def seconds(arguments: Sequence[str], checkout: Path) -> float:
    """Of one process that imports slimnet from there."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(checkout)},
        cwd=checkout,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
