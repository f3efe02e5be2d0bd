"""Where tables of times are kept, one file for each setting."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

VARIABLE = "SLIMNET_CACHE"


def cache_folder() -> Path:
    """``$SLIMNET_CACHE``, or the user's folder for what may be lost."""
    named = os.environ.get(VARIABLE)
    return (Path(named) if named else user_cache_path("slimnet", False)) / "times"


def tables() -> list[Path]:
    """The files that are there."""
    return sorted(cache_folder().glob("*.json"))
