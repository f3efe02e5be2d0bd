"""onnxruntime's own converters, which are imported where they are used, and kept quiet.

They take a second to import, log on their own account and put their folder on Python's path.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimnet.quiet import quiet


@contextmanager
def runtime_tools() -> Iterator[None]:
    """Import and call ``onnxruntime.quantization`` or ``.transformers`` within this block."""
    before = list(sys.path)
    with quiet(stdout=True):
        try:
            yield
        finally:
            added = [place for place in sys.path if place not in before]
            for place in filter(_is_its_own, added):
                sys.path.remove(place)


def _is_its_own(place: str) -> bool:
    return "onnxruntime" in Path(place).parts
