"""Prune thousands of random networks and check each against the zeroed original.

``python benchmarks/random_networks.py --count 5000 --seed 0`` prints every failing seed with the
program that replays it, then a summary; exit code 1 on any mismatch or crash.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch
from random_networks import Mismatch, asked_of, judge, program_of

OUTCOMES = ("exact", "approximate", "nothing", "refused", "mismatch", "crash")


def main() -> int:
    options = parsed()
    torch.set_num_threads(options.threads)
    start, counts = time.perf_counter(), Counter()
    for seed in range(options.seed, options.seed + options.count):
        counts[outcome(seed, options.longest)] += 1
        if options.progress and sum(counts.values()) % options.progress == 0:
            print(summary(counts), flush=True)
    seconds = time.perf_counter() - start
    print(f"{summary(counts)}  ({seconds:.0f} s, {1e3 * seconds / options.count:.1f} ms each)")
    return int(counts["mismatch"] + counts["crash"] > 0)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000, help="how many networks")
    parser.add_argument("--seed", type=int, default=0, help="the first seed; one per network")
    parser.add_argument("--longest", type=int, default=12, help="most steps in a network")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--progress", type=int, default=500, help="a line every so many; 0: none")
    return parser.parse_args()


def outcome(seed: int, longest: int) -> str:
    """One of ``OUTCOMES``; prints what is needed to replay a failure."""
    program, asked = program_of(seed, longest), asked_of(seed)
    try:
        return judge(program, asked, seed=seed)
    except Mismatch as wrong:
        print(f"MISMATCH seed {seed} {asked}: {wrong}", flush=True)
        return "mismatch"
    except Exception:
        print(f"CRASH seed {seed} {asked}: {program}\n{traceback.format_exc(limit=-4)}", flush=True)
        return "crash"


def summary(counts: Counter) -> str:
    return f"{sum(counts.values())} networks: " + ", ".join(f"{counts[o]} {o}" for o in OUTCOMES)


if __name__ == "__main__":
    sys.exit(main())
