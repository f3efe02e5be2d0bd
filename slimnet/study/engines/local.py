"""One cell after the other, in this process."""

from __future__ import annotations

from collections.abc import Sequence

from slimnet.errors import InputError
from slimnet.study.cells import Cell
from slimnet.study.engine import ENGINES, Run
from slimnet.study.results import CellResult


@ENGINES.register("local")
def local(cells: Sequence[Cell], run: Run) -> list[CellResult | None]:
    """In the cells' order; raises ``InputError`` for several workers."""
    if run.workers not in (None, 1):
        raise InputError(
            f"the engine local runs one cell at a time, and {run.workers} workers were asked for: "
            "processes runs several"
        )
    return [run(cell) for cell in cells]
