"""Plant hundreds of faults into slimnet's files, numbers, disks and moments, and judge each.

Kill -9, full disks, signals, truncation, flipped bits, crafted files, odd numbers, special paths.
The bar is zero: no file lost or half written, no traceback, no hang over 20 s, nothing over 2 GB,
no crash, no code run from a file, no other numbers without a word.

    python benchmarks/faults.py --seed 0 --json faults.json          # --resume goes on
    python benchmarks/faults.py --only crafted --limit 5
    python benchmarks/faults.py --only flips/slimnet_files/3 --verbose
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])  # of what starts afresh

from faultlab.fault import Planned, plan
from faultlab.judge import KINDS
from faultlab.table import conditions, table, trouble, violated


def main() -> int:
    options = parsed()
    chosen = limited([p for p in plan(options.seed) if wanted(p, options.only)], options.limit)
    rows = kept_rows(options)
    pending = [planned for planned in chosen if planned.id not in rows]
    began = time.monotonic()
    for number, row in enumerate(judged(pending, options.seed, options.jobs), 1):
        rows[row["id"]] = row
        show(row, number, len(pending), options)
        if number % 20 == 0 or number == len(pending):
            save(rows, options)
    found = [rows[planned.id] for planned in chosen]
    print(f"\n{table(found)}\n")
    for kind, meaning in KINDS.items():
        print(f"{violated(found)[kind]:>5}  {kind}: {meaning}")
    told = ", ".join(f"{name} {value}" for name, value in conditions(options.seed).items())
    print(f"\n{told}; {time.monotonic() - began:.0f} s")
    return int(any(row["violations"] for row in found))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", default=["*"], metavar="GLOB", help="kind, kind/family, or one's id"
    )
    parser.add_argument("--limit", type=int, help="at most so many of each family")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--json", type=Path, metavar="FILE", help="every fault and its outcome")
    parser.add_argument("--resume", action="store_true", help="keep the rows of the --json file")
    parser.add_argument("--verbose", action="store_true", help="a line for every fault")
    return parser.parse_args()


def wanted(planned: Planned, globs: Sequence[str]) -> bool:
    return any(fnmatch(planned.id, end) for glob in globs for end in (glob, f"{glob}/*"))


def limited(planned: Sequence[Planned], limit: int | None) -> list[Planned]:
    """At most so many of each family, spread over it."""
    if limit is None:
        return list(planned)
    groups: dict[str, list[Planned]] = {}
    for row in planned:
        groups.setdefault(row.family, []).append(row)
    return [row for group in groups.values() for row in group[:: -(-len(group) // limit)]]


def kept_rows(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The rows of an earlier run of this seed, by id."""
    if not (options.resume and options.json and options.json.exists()):
        return {}
    kept = json.loads(options.json.read_text())
    same = kept["conditions"] == conditions(options.seed)
    return {row["id"]: row for row in kept["rows"]} if same else {}


def save(rows: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    if options.json:
        facts = {"conditions": conditions(options.seed), "rows": list(rows.values())}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


def show(row: dict[str, Any], number: int, total: int, options: argparse.Namespace) -> None:
    if row["violations"]:
        print(trouble(row), flush=True)
    elif options.verbose:
        print(f"{row['id']}: {row['name']}: {row['end']}: {row['told']}", flush=True)
    if number % 50 == 0 or number == total:
        print(f"-- {number} of {total}", flush=True)


def judged(planned: Sequence[Planned], seed: int, jobs: int) -> Iterator[dict[str, Any]]:
    """A row for each, as they end; every worker forks, so it must be a process without threads."""
    with tempfile.TemporaryDirectory(prefix="slimnet-faults-") as folder:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, spawn, initializer=ready, initargs=(folder, seed)) as pool:
            needs = sorted({name for row in planned for name in row.fault.needs})
            pool.submit(prepared, needs).result()
            for future in as_completed([pool.submit(judged_one, row.id) for row in planned]):
                yield future.result()


# ------------------------------------------------------------------------------------ in a worker

_bench: dict[str, Any] = {}


def ready(folder: str, seed: int) -> None:
    """Import everything once; what slimnet prints is never on a terminal here."""
    import torch
    from faultlab.shelf import Shelf

    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    from slimnet import cli
    from slimnet.registry import import_all

    import_all(cli.__name__, list(cli.__path__))  # for all forks
    torch.set_num_threads(1)
    _bench.update(shelf=Shelf(Path(folder)), rows={row.id: row for row in plan(seed)})


def prepared(needs: Sequence[str]) -> None:
    for name in needs:
        _bench["shelf"].file(name)


def judged_one(name: str) -> dict[str, Any]:
    from faultlab.judge import judge

    row = _bench["rows"][name]
    _bench["shelf"].preload()
    fault = row.fault
    facts = {"id": name, "kind": row.kind, "family": row.family, "name": fault.name}
    try:
        verdict = judge(fault, _bench["shelf"]).to_json()
    except Exception as error:  # the benchmark's own: the others must still be judged
        found = [{"kind": "broken", "what": f"the benchmark itself: {error!r}"}]
        verdict = {"end": "broken", "violations": found, "told": "", "detail": "", "seconds": 0}
    return {**facts, "command": list(fault.command), **verdict}


if __name__ == "__main__":
    sys.exit(main())
