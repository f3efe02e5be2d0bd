"""Files of a study: ``DIR/cells/<id>.json`` for each finished cell and ``DIR/results.json``.

A file appears under its name only when it is whole.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimnet.errors import InputError
from slimnet.study.cells import Cell
from slimnet.study.results import Record, Results


@dataclass(frozen=True)
class Store:
    """The finished cells of one folder; raises ``InputError`` where it cannot be written."""

    directory: Path

    def __post_init__(self) -> None:
        try:
            (self.directory / "cells").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.directory, error) from None

    def read(self, cell: Cell) -> Record | None:
        """The record of ``cell``; None where it has not been run, or its file is damaged."""
        try:
            fields = json.loads(self._path(cell).read_text(encoding="utf-8"))
            record = Record.from_json(fields)
        except (OSError, ValueError, TypeError, KeyError):
            return None  # run again: what was lost is one training
        return record if record.cell == cell else None

    def write(self, record: Record) -> None:
        """Keep a finished cell."""
        write_json(self._path(record.cell), record.to_json())

    def _path(self, cell: Cell) -> Path:
        return self.directory / "cells" / f"{cell.id}.json"


def write_results(results: Results, directory: Path | str) -> Path:
    """Write ``results.json`` into ``directory``."""
    path = Path(directory) / "results.json"
    write_json(path, results.to_json())
    return path


def read_results(path: Path | str) -> Results:
    """Read a ``results.json``; raises ``InputError`` where it is none."""
    try:
        return Results.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not the results of a study ({error})") from None


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` in one go: readers see the old file or the new one, never a part."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` under a temporary name beside ``path`` and move it there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            temporary.chmod(0o644)  # mkstemp's files are private
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written ({error.strerror}); choose another folder")
