"""Where tables of times are kept, one file for each setting."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

VARIABLE = "SLIMNET_CACHE"


def cache_folder() -> Path:
    """``$SLIMNET_CACHE``, or the user's folder for what may be lost."""
    named = os.environ.get(VARIABLE)
    return (Path(named) if named else user_cache_path("slimnet", False)) / "times"


@dataclass(frozen=True)
class Kept:
    """One file: for which setting, and how many times it holds."""

    path: Path
    setting: str
    readings: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"file": str(self.path), "setting": self.setting, "readings": self.readings}


def kept() -> list[Kept]:
    """The files that are there."""
    return [_read(path) for path in sorted(cache_folder().glob("*.json"))]


def _read(path: Path) -> Kept:
    try:
        data = json.loads(path.read_text("utf-8"))
        setting = ", ".join(f"{name} {value}" for name, value in data["setting"].items())
        return Kept(path, setting, len(data["ms"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Kept(path, f"{path.name} cannot be read, and is written anew when it is needed", 0)
