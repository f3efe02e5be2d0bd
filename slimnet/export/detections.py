"""Do two detectors find the same? What they find is a set: its order among equals is rounding's.

A table is what a detector gives of one image: columns with a row for each thing found, one of them
its ``scores`` (torchvision's form). Two computations of the same scores, rounded differently, may
swap rows that score alike, and may end at another of those that score like the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"
Table: TypeAlias = Mapping[str, Array]
"""Column → values [rows, …]."""

SCORES = "scores"


def tables(names: Sequence[str], arrays: Sequence[Array]) -> dict[str, dict[str, Array]]:
    """The tables among outputs, by what comes before the names of their columns: ``0.``."""
    named = dict(zip(names, arrays, strict=True))
    found = {}
    for name, scores in named.items():
        start, _, last = name.rpartition(".")
        if last == SCORES and scores.ndim == 1:
            siblings = {n: x for n, x in named.items() if n.rpartition(".")[0] == start}
            if all(x.ndim and len(x) == len(scores) for x in siblings.values()):
                found[start] = {n.rpartition(".")[2]: x for n, x in siblings.items()}
    return found


def difference(expected: Table, found: Table, tolerance: float) -> tuple[float, int]:
    """The largest relative error over rows matched one to one, and how many were.

    Where not all can be, those that score like the last, by the tolerance, are left out.
    Infinite where a row has no match.
    """
    rows = len(expected[SCORES])
    if not rows and not len(found[SCORES]):
        return 0.0, 0
    error = _matched(expected, found)
    if error <= tolerance:
        return error, rows
    last = max(float(table[SCORES].min(initial=np.inf)) for table in (expected, found))
    if not np.isfinite(last):  # one of them found nothing
        return float("inf"), 0
    above = last + tolerance * max(abs(float(expected[SCORES].max())), 1e-30)
    rest = [_rows(table, table[SCORES] > above) for table in (expected, found)]
    return _matched(*rest), len(rest[0][SCORES])


def _rows(table: Table, chosen: Array) -> dict[str, Array]:
    return {name: column[chosen] for name, column in table.items()}


def _matched(expected: Table, found: Table) -> float:
    """Each row of the one with the nearest of the other that is left; the largest distance."""
    if len(expected[SCORES]) != len(found[SCORES]) or expected.keys() != found.keys():
        return float("inf")
    if not len(expected[SCORES]):
        return 0.0
    distances = np.max([_distances(expected[name], found[name]) for name in expected], axis=0)
    worst = 0.0
    for row in distances:
        nearest = int(row.argmin())
        worst = max(worst, float(row[nearest]))
        distances[:, nearest] = np.inf
    return worst


def _distances(one: Array, other: Array) -> Array:
    """[rows, rows] of one column: the largest difference, in parts of its largest number."""
    if one.shape[1:] != other.shape[1:]:
        return np.full((len(one), len(other)), np.inf)
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (one, other))
    scale = max(float(np.abs(a).max(initial=0.0)), 1e-30)
    each = np.array([np.abs(b - row).max(1, initial=0.0) for row in a]) / scale
    return np.where(np.isfinite(each), each, np.inf)
