"""Budgets: what was asked for against what was achieved.

Five torchvision networks (random weights, seed 0; 1x3x224x224), three costs, three shares; for
bytes the ask is that share of the dense network's bytes. Every cut is planned (criterion l1, scope
and alignment as given) and not proven: the proof does not change a width.

    python benchmarks/budgets.py [--scope local] [--align auto] [--json budgets.json]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torchvision
from rich.console import Console
from rich.table import Table

import slimnet
from slimnet.planning.request import parse_align

NETWORKS = ("resnet18", "mobilenet_v2", "densenet121", "efficientnet_b0", "vit_b_16")
KINDS = ("macs", "params", "bytes")
SHARES = (0.3, 0.5, 0.7)
WITHIN = 0.01  # of what was asked for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--scope", default="local")
    parser.add_argument("--align", default="auto", help="auto, off or a number")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    given = parser.parse_args()
    align = parse_align(given.align)
    rows = [row for name in given.networks for row in measured(name, given.scope, align)]
    show(rows, f"scope {given.scope}, align {given.align}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


def measured(name: str, scope: str, align: int | str | None) -> list[dict]:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    example = (torch.zeros(1, 3, 224, 224),)
    dense = slimnet.cost(model, example)
    rows = []
    for kind in KINDS:
        for share in SHARES:
            asked = share * dense.bytes if kind == "bytes" else share
            start = time.perf_counter()
            pruned = slimnet.prune(
                model, example, **{kind: asked}, scope=scope, align=align, verify=False
            )
            seconds = time.perf_counter() - start
            achieved = getattr(slimnet.cost(pruned.model, example), kind)
            share_left = achieved / getattr(dense, kind)
            row = {"network": name, "kind": kind, "asked": share, "achieved": share_left}
            rows.append(row | {"seconds": seconds, "notes": pruned.plan.notes})
    return rows


def show(rows: list[dict], how: str) -> None:
    table = Table("network", *(f"{kind} {share:.0%}" for kind in KINDS for share in SHARES))
    for name in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == name]
        table.add_row(name, *(f"{row['achieved']:.1%}" for row in mine))
    console = Console(width=140)
    console.print(table)
    off = [abs(row["achieved"] / row["asked"] - 1) for row in rows]
    over = sum(row["achieved"] > row["asked"] * (1 + 1e-9) for row in rows)
    console.print(
        f"remains, asked for in the head; {how}; within {WITHIN:.0%} of what was asked for: "
        f"{sum(x <= WITHIN for x in off)} of {len(rows)}; farthest {max(off):.2%}; above the "
        f"budget: {over}; slowest {max(row['seconds'] for row in rows):.1f} s"
    )
    for row in rows:
        for note in row["notes"]:
            console.print(f"{row['network']} {row['kind']} {row['asked']:.0%}: {note}")


if __name__ == "__main__":
    main()
