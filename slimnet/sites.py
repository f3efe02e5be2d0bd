"""Where an operator was called: the user's source line, and the module."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

import torch


@dataclass(frozen=True)
class Site:
    """Where an operator was called: the user's source line and the module."""

    file: str
    line: int
    function: str
    module: str

    def __str__(self) -> str:
        place = f"{Path(self.file).name}:{self.line}"
        return f"{place}, in {self.module or 'the model'} ({self.function})"


class Sites:
    """Finds the user's line and the module behind the call that is being recorded."""

    def __init__(self, modules: Mapping[int, str]) -> None:
        self._modules = modules
        self._codes: dict[CodeType, bool] = {}
        self._known: dict[tuple[CodeType, int, str], Site] = {}

    def here(self) -> Site:
        """Walk up from the recorder to the first frame that is neither torch's nor ours."""
        frame: FrameType | None = sys._getframe(2)
        module: str | None = None
        last = frame
        while frame is not None:
            code = frame.f_code
            if module is None and code.co_varnames[:1] == ("self",) and code.co_argcount:
                module = self._modules.get(id(frame.f_locals.get("self")))
            if self._is_users(code):
                break
            last, frame = frame, frame.f_back
        found = frame or last
        if found is None:
            return Site("", 0, "", module or "")
        key = (found.f_code, found.f_lineno, module or "")
        if key not in self._known:
            code = found.f_code
            self._known[key] = Site(code.co_filename, found.f_lineno, code.co_name, module or "")
        return self._known[key]

    def _is_users(self, code: CodeType) -> bool:
        known = self._codes.get(code)
        if known is None:
            known = self._codes[code] = not code.co_filename.startswith(_INTERNAL)
        return known


_INTERNAL = (
    str(Path(torch.__file__).parent) + os.sep,
    str(Path(__file__).with_name("trace.py")),
    str(Path(__file__)),
    "<frozen",
    "<__array_function__",
)
