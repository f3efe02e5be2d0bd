"""What the benchmark prints: a line per violation, a row per family, and the conditions."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from faultlab.judge import KINDS

Row = Mapping[str, Any]
"""A judged fault: kind, family, number, name, command and its verdict's fields."""

ENDS = ("refused", "same", "done", "stopped")


def table(rows: Sequence[Row]) -> str:
    """A row per family: how many were planted, how they ended, and violations by kind."""
    head = f"{'kind':<12}{'family':<26}{'planted':>8}" + "".join(f"{e:>9}" for e in ENDS)
    lines = [head + "".join(f"{kind:>10}" for kind in KINDS)]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["family"]), []).append(row)
    lines += [_line(*key, group) for key, group in sorted(groups.items())]
    return "\n".join([*lines, _line("all", "", rows)])


def _line(kind: str, family: str, rows: Sequence[Row]) -> str:
    ends, wrong = Counter(row["end"] for row in rows), violated(rows)
    cells = "".join(f"{ends[end] or '–':>9}" for end in ENDS)
    faults = "".join(f"{wrong[kind] or '–':>10}" for kind in KINDS)
    return f"{kind:<12}{family:<26}{len(rows):>8}{cells}{faults}"


def violated(rows: Iterable[Row]) -> Counter[str]:
    """Faults with a violation, by kind; one fault may have several kinds."""
    return Counter(kind for row in rows for kind in {v["kind"] for v in row["violations"]})


def trouble(row: Row) -> str:
    """What went wrong, and how to see it again."""
    planted = f" ({row['detail']})" if row["detail"] else ""
    lines = [f"{v['kind'].upper()} {v['what']}" for v in row["violations"]]
    return f"{row['id']}: {row['name']}{planted}\n" + "\n".join(f"    {line}" for line in lines)


def conditions(seed: int) -> dict[str, Any]:
    """Everything that the outcomes may depend on."""
    packages = ("torch", "torchvision", "timm", "numpy", "onnx", "onnxruntime", "safetensors")
    return {
        "seed": seed,
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
