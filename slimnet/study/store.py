"""Files of a study: ``DIR/cells/<id>.json`` for each finished cell and ``DIR/results.json``.

A file appears under its name only when it is whole, and carries a digest of its content. A cell
whose file is damaged is set aside and run again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slimnet.digest import sealed_json, unsealed
from slimnet.errors import InputError
from slimnet.output import make_folder, set_aside, write_json
from slimnet.study.cells import Cell
from slimnet.study.results import Record, Results
from slimnet.watch import remark


@dataclass(frozen=True)
class Store:
    """The finished cells of one folder; raises ``InputError`` where it cannot be written."""

    directory: Path

    def __post_init__(self) -> None:
        make_folder(self._cells)

    def read(self, cell: Cell) -> Record | None:
        """The record of ``cell``; None where it has not been run, or its file is damaged."""
        path = self._path(cell)
        if not path.exists():
            return None
        record = _record(path)
        if record is not None and record.cell == cell:
            return record
        aside = set_aside(path, "damaged")
        remark(f"{path} is damaged: it is kept as {aside.name}, and the cell ({cell}) is run again")
        return None

    def write(self, record: Record) -> None:
        """Keep a finished cell."""
        write_json(self._path(record.cell), sealed_json(record.to_json()))

    def other_versions(self, cells: Sequence[Cell]) -> Counter[str]:
        """How many of these cells other versions of slimnet have finished here, by version."""
        wanted = {replace(cell, version="") for cell in cells}
        return Counter(x.version for x in self._finished() if replace(x, version="") in wanted)

    def _finished(self) -> Iterator[Cell]:
        records = map(_record, sorted(self._cells.glob("*.json")))
        return (record.cell for record in records if record is not None)

    @property
    def _cells(self) -> Path:
        return self.directory / "cells"

    def _path(self, cell: Cell) -> Path:
        return self._cells / f"{cell.id}.json"


def _record(path: Path) -> Record | None:
    """What a file holds; None where it is damaged."""
    try:
        return Record.from_json(unsealed(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def write_results(results: Results, directory: Path | str) -> Path:
    """Write ``results.json`` into ``directory``."""
    path = Path(directory) / "results.json"
    write_json(path, sealed_json(results.to_json()))
    return path


def read_results(path: Path | str) -> Results:
    """Read a ``results.json``; raises ``InputError`` where it is none."""
    try:
        return Results.from_json(unsealed(json.loads(Path(path).read_text(encoding="utf-8"))))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not the results of a study ({error})") from None
