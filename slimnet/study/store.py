"""Where the finished cells of a study are kept, and who runs which: one row per kind of store.

A store reads and writes one result per cell, lists what it holds, and hands out claims: several
workers, in any processes, share the cells of one study, and none is run twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

from slimnet.registry import Registry
from slimnet.study.cells import Cell
from slimnet.study.results import CellResult


class Store(Protocol):
    """The finished cells of one place; raises ``InputError`` where it cannot be written."""

    def read(self, cell: Cell) -> CellResult | None:
        """The result of ``cell``; None where it has not been run, or cannot be read any more."""

    def write(self, result: CellResult) -> None:
        """Keep a finished cell, whole or not at all."""

    def finished(self) -> Iterator[Cell]:
        """Every cell that is kept, of this study and of others."""

    def claim(self, name: str) -> AbstractContextManager[bool]:
        """Whether this worker may do what is called so (a cell's id), until the block ends.

        False while another worker holds the claim; a dead one holds none.
        """


OpenStore: TypeAlias = Callable[[Path], Store]
"""Opens the store of a study's folder."""

STORES: Registry[OpenStore] = Registry(
    "study store", "slimnet.stores", folder="slimnet.study.stores"
)


@contextmanager
def turn(store: Store, name: str) -> Iterator[None]:
    """Wait until no other worker holds the claim, then hold it until the block ends."""
    while True:
        with store.claim(name) as mine:
            if mine:
                yield
                return
        time.sleep(PAUSE)


PAUSE = 0.2  # seconds between two looks at what another worker does
