"""The store of a folder: ``DIR/cells/<id>.json`` for each finished cell.

A file appears under its name only when it is whole, and carries a digest of its content. A cell
whose file is damaged is set aside and run again. A claim is a lock on ``DIR/cells/<id>.claim``,
which the kernel lets go of however its holder ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slimnet.digest import sealed_json, unsealed
from slimnet.output import claimed, make_folder, set_aside, write_json
from slimnet.progress import remark
from slimnet.study.cells import Cell
from slimnet.study.results import CellResult
from slimnet.study.store import STORES


@dataclass(frozen=True)
class FolderStore:
    """The finished cells of one folder; raises ``InputError`` where it cannot be written."""

    directory: Path

    def __post_init__(self) -> None:
        make_folder(self._cells)

    def read(self, cell: Cell) -> CellResult | None:
        """The result of ``cell``; None where it has not been run, or its file is damaged."""
        path = self._path(cell)
        if not path.exists():
            return None
        result = _result(path)
        if result is not None and result.cell == cell:
            return result
        aside = set_aside(path, "damaged")
        remark(f"{path} is damaged: it is kept as {aside.name}, and the cell ({cell}) is run again")
        return None

    def write(self, result: CellResult) -> None:
        """Keep a finished cell."""
        write_json(self._path(result.cell), sealed_json(result.to_json()))

    def finished(self) -> Iterator[Cell]:
        """Every cell in the folder whose file is whole."""
        results = map(_result, sorted(self._cells.glob("*.json")))
        return (result.cell for result in results if result is not None)

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Whether this worker holds the lock of this name, until the block ends."""
        with claimed(self._cells / f"{name}.claim") as mine:
            yield mine

    @property
    def _cells(self) -> Path:
        return self.directory / "cells"

    def _path(self, cell: Cell) -> Path:
        return self._cells / f"{cell.id}.json"


STORES.add("folder", FolderStore)


def _result(path: Path) -> CellResult | None:
    """What a file holds; None where it is damaged."""
    try:
        return CellResult.from_json(unsealed(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
