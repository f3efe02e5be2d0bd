"""``DIR/results.json``: a whole study in one file, its verdicts too, with a digest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slimnet.digest import sealed_json, unsealed
from slimnet.errors import InputError
from slimnet.output import write_json
from slimnet.study.results import Results
from slimnet.study.verdicts import conclude


def results_json(results: Results) -> dict[str, Any]:
    """What the file holds: what the study gave, and for those who only read what it says."""
    return {**results.to_json(), "verdicts": [each.to_json() for each in conclude(results)]}


def write_results(results: Results, directory: Path | str) -> Path:
    """Write ``results.json`` into ``directory``."""
    path = Path(directory) / "results.json"
    write_json(path, sealed_json(results_json(results)))
    return path


def read_results(path: Path | str) -> Results:
    """Read a ``results.json``; raises ``InputError`` where it is none."""
    try:
        return Results.from_json(unsealed(json.loads(Path(path).read_text(encoding="utf-8"))))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not the results of a study ({error})") from None
