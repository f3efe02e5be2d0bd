"""Where the cells of a study run: one row per engine.

An engine is a function that calls ``run`` on every cell and gives the records in the cells' order.
``run`` keeps each finished cell by itself, so an engine may die at any moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slimnet.registry import Registry
from slimnet.study.cells import Cell
from slimnet.study.results import Record

Engine = Callable[[Sequence[Cell], Callable[[Cell], Record]], list[Record]]

ENGINES: Registry[Engine] = Registry("study engine", "slimnet.engines")


@ENGINES.register("local")
def local(cells: Sequence[Cell], run: Callable[[Cell], Record]) -> list[Record]:
    """One after the other, in this process."""
    return [run(cell) for cell in cells]
