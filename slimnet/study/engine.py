"""Where the cells of a study run: one row per engine.

An engine is a function that calls ``run`` on every cell and gives what it returns in the cells'
order. ``run`` keeps each finished cell by itself, so an engine may die at any moment. It may be
called from several threads, which take turns; ``run.job`` pickles, for other processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from slimnet.registry import Registry
from slimnet.study.cells import Cell
from slimnet.study.results import CellResult
from slimnet.study.work import Progress

Job: TypeAlias = Callable[[Cell, Progress], "CellResult | None"]
"""Runs a cell in whatever process it is called; None where another worker has it."""


@dataclass(frozen=True)
class Run:
    """What an engine calls on every cell."""

    job: Job
    tell: Callable[[Cell, float], None] = lambda cell, part: None  # 1 once it is kept
    workers: int | None = None  # processes, machines; None: as many as the engine sees fit
    threads: int | None = None  # of each worker; None: its share of the cores

    def __call__(self, cell: Cell) -> CellResult | None:
        """Run a cell in this process."""
        result = self.job(cell, lambda part: self.tell(cell, part))
        if result is not None:
            self.tell(cell, 1.0)
        return result


Engine: TypeAlias = Callable[[Sequence[Cell], Run], "list[CellResult | None]"]

ENGINES: Registry[Engine] = Registry(
    "study engine", "slimnet.engines", folder="slimnet.study.engines"
)
