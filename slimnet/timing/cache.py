"""Where tables of times are kept, one file for each setting."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from slimnet.output import write_json

VARIABLE = "SLIMNET_CACHE"


def cache_folder() -> Path:
    """``$SLIMNET_CACHE``, or the user's folder for what may be lost."""
    named = os.environ.get(VARIABLE)
    return (Path(named) if named else user_cache_path("slimnet", False)) / "times"


@dataclass(frozen=True)
class Stored:
    """What a file holds: the setting, and milliseconds by what was timed."""

    setting: Mapping[str, Any]
    ms: Mapping[str, float]


def read_table(path: Path) -> Stored | None:
    """None of a file that is not there, or cannot be read: it is written anew."""
    try:
        data = json.loads(path.read_text("utf-8"))
        ms = {str(key): float(value) for key, value in data["ms"].items()}
        return Stored(dict(data["setting"]), ms)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_table(path: Path, setting: Mapping[str, Any], ms: Mapping[str, float]) -> None:
    """Keep what was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"setting": setting, "ms": ms})


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
    return [_told(path) for path in sorted(cache_folder().glob("*.json"))]


def _told(path: Path) -> Kept:
    stored = read_table(path)
    if stored is None:
        return Kept(path, f"{path.name} cannot be read, and is written anew when it is needed", 0)
    setting = ", ".join(f"{name} {value}" for name, value in stored.setting.items())
    return Kept(path, setting, len(stored.ms))
