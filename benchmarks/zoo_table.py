"""What the zoo prints: a line per network, and an answer per bar."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
Rows = list[Row]

MUCH = 0.4  # of the parameters
QUICK = 60  # seconds from model to slim model, the network's own pass aside

COLUMNS: tuple[tuple[str, int, Callable[[Row], str]], ...] = (
    ("network", 38, lambda r: r["model"]),
    ("family", 22, lambda r: r["family"]),
    ("outcome", 11, lambda r: r["outcome"]),
    ("error", 8, lambda r: f"{r['proof_error']:.0e}"),
    ("kind", 8, lambda r: "exact" if r["exact"] else "approx."),
    ("params -%", 11, lambda r: f"{100 * r['slimnet_removed']:.1f}"),
    ("MACs -%", 9, lambda r: f"{100 * r['slimnet_macs_removed']:.1f}"),
    ("pass s", 8, lambda r: f"{r['forward_s']:.2f}"),
    ("cut s", 8, lambda r: f"{aside(r):.2f}"),
    ("proven s", 10, lambda r: f"{r['verified_s']:.1f}"),
    ("memory", 8, lambda r: f"{r['memory']:.2f}"),
    ("reload", 8, lambda r: r["reload"].split(":")[0]),
    ("TP -%", 8, lambda r: f"{100 * r['torch_pruning_removed']:.1f}"),
    ("TP s", 8, lambda r: f"{r['torch_pruning_s']:.2f}"),
    ("faster", 8, lambda r: f"{r['torch_pruning_s'] / r['slimnet_s']:.1f}x"),
)
HEADER = "".join(f"{title:>{width}}" for title, width, _ in COLUMNS)


def line(row: Row) -> str:
    """One network; what went wrong, indented below."""
    cells = "".join(f"{cell(text, row):>{width}}" for _, width, text in COLUMNS)
    return "\n".join([cells, *(f"    {trouble}" for trouble in troubles(row))])


def cell(text: Callable[[Row], str], row: Row) -> str:
    try:
        return text(row)
    except KeyError:
        return "-"


def troubles(row: Row) -> list[str]:
    """What a tool could not do."""
    kinds = ("reason", "torch_pruning_error", "torch_pruning_broken")
    found = [f"{kind}: {row[kind]}" for kind in kinds if kind in row]
    if row.get("reload", "equal") != "equal":
        found.append(f"reload: {row['reload']}")
    return found


def too_much(row: Row) -> float:
    """Megabytes above twice the network's own pass plus two copies of its weights."""
    return row["peak_bytes"] * (1 - 1 / row["memory"]) / 1e6


def aside(row: Row) -> float:
    """Seconds from model to slim model, the network's own pass aside."""
    return max(0.0, row["slimnet_s"] - row["forward_s"])


def summarised(rows: Rows) -> dict[str, str]:
    """The bars, each with its answer."""
    return {**about_slimnet(rows), **about_torch_pruning(rows)}


def about_slimnet(rows: Rows) -> dict[str, str]:
    outcomes = Counter(row["outcome"] for row in rows)
    certified = [row for row in rows if row["outcome"] == "certified"]
    much = [row for row in certified if row["slimnet_removed"] >= MUCH]
    reloaded = [row for row in certified if row.get("reload") == "equal"]
    greedy = [row for row in certified if row["memory"] > 1]
    answers = {
        "certified": share(len(certified), len(rows)),
        "certified or refused by name": share(len(certified) + outcomes["refused"], len(rows)),
        f"certified with >= {MUCH:.0%} of the parameters gone": share(len(much), len(rows)),
        "refused": named(row["model"] for row in rows if row["outcome"] == "refused"),
        "crashed": named(row["model"] for row in rows if row["outcome"] == "crashed"),
        "hung": named(row["model"] for row in rows if row["outcome"] == "hung"),
        "equal to the bit in a fresh process": share(len(reloaded), len(certified)),
        "above the memory bar": named(f"{r['model']} (by {too_much(r):.0f} MB)" for r in greedy),
    }
    if certified:
        largest = max(certified, key=lambda row: row["memory"])
        answers["memory, of the bar, at most"] = f"{largest['memory']:.2f} ({largest['model']})"
        exact = sum(row["exact"] for row in certified)
        answers["exact"] = share(exact, len(certified))
        answers["largest error"] = f"{max(row['proof_error'] for row in certified):.0e}"
    return {**answers, **about_time([row for row in certified if "slimnet_s" in row])}


def about_time(rows: Rows) -> dict[str, str]:
    if not rows:
        return {}
    late = [row["model"] for row in rows if aside(row) > QUICK]
    slowest = max(rows, key=aside)
    proven = max(rows, key=lambda row: row["verified_s"])
    proven_late = [r["model"] for r in rows if r["verified_s"] - r["forward_s"] > QUICK]
    return {
        f"more than {QUICK} s": named(late),
        f"more than {QUICK} s with the proof": named(proven_late),
        "slowest cut, s": f"{aside(slowest):.1f} ({slowest['model']})",
        "slowest with its proof, s": f"{proven['verified_s']:.1f} ({proven['model']})",
    }


def about_torch_pruning(rows: Rows) -> dict[str, str]:
    asked = [row for row in rows if any(key.startswith("torch_pruning") for key in row)]
    if not asked:
        return {}
    failed = [row["model"] for row in asked if fails_there(row)]
    both = [row for row in asked if not fails_there(row) and "slimnet_s" in row]
    less = [r["model"] for r in both if r["slimnet_removed"] < r["torch_pruning_removed"] - 1e-9]
    answers = {
        "Torch-Pruning gives a network that runs": share(len(asked) - len(failed), len(asked)),
        "Torch-Pruning fails on": named(failed),
        "slimnet removes less on": named(less),
    }
    if both:
        ratios = {row["model"]: row["torch_pruning_s"] / row["slimnet_s"] for row in both}
        worst = min(ratios, key=ratios.__getitem__)
        answers["times faster, median"] = f"{statistics.median(ratios.values()):.2f}"
        answers["times faster, worst"] = f"{ratios[worst]:.2f} ({worst})"
    return answers


def fails_there(row: Row) -> bool:
    return "torch_pruning_broken" in row or "torch_pruning_error" in row


def share(count: int, total: int) -> str:
    return f"{count} of {total}" + (f" ({count / total:.1%})" if total else "")


def named(names: Any) -> str:
    return ", ".join(names) or "none"
