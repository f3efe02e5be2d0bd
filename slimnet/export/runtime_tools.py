"""onnxruntime's own converters, which are imported where they are used, and kept quiet.

They take a second to import and log on their own account. Some of their modules import others as if
these stood on Python's path, and put their folder there for good; here it is there meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime

from slimnet.quiet import quiet

_FOLDER = str(Path(onnxruntime.__file__).parent / "transformers")


@contextmanager
def runtime_tools() -> Iterator[None]:
    """Import and call ``onnxruntime.quantization`` or ``.transformers`` within this block."""
    with quiet(stdout=True):
        sys.path.append(_FOLDER)
        try:
            yield
        finally:
            sys.path[:] = [place for place in sys.path if place != _FOLDER]
