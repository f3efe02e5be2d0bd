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
        within = f"in {self.module or 'the model'}"
        if not self.file:  # torch's own modules called each other: no line is the user's
            return within
        return f"{Path(self.file).name}:{self.line}, {within} ({self.function})"


class Replayed:
    """Runs a call that was recorded elsewhere: ``site`` counts in place of its own line."""

    site: Site


class Sites:
    """Finds the user's line and the module behind the call that is being recorded."""

    def __init__(self, modules: Mapping[int, str], outermost: CodeType) -> None:
        self._modules = modules
        self._outermost = outermost  # the code that started the recording: the search ends there
        self._codes: dict[CodeType, bool] = {}  # whether each is the user's
        self._sites: dict[tuple[CodeType, int, str], Site] = {}

    def here(self) -> Site:
        """Walk up from the recorder to the user's line and to a module's method."""
        frame: FrameType | None = sys._getframe(2)
        module: str | None = None
        line: tuple[CodeType, int] | None = None
        while frame is not None and frame.f_code is not self._outermost:
            code = frame.f_code
            if module is None and code.co_varnames[:1] == ("self",) and code.co_argcount:
                owner = frame.f_locals.get("self")
                if isinstance(owner, Replayed):
                    return owner.site
                module = self._modules.get(id(owner))
            if line is None and self._is_users(code):
                line = code, frame.f_lineno
            if line is not None and module is not None:
                break
            frame = frame.f_back
        return Site("", 0, "", module or "") if line is None else self._site(*line, module or "")

    def _site(self, code: CodeType, line: int, module: str) -> Site:
        key = (code, line, module)
        if key not in self._sites:
            self._sites[key] = Site(code.co_filename, line, code.co_name, module)
        return self._sites[key]

    def _is_users(self, code: CodeType) -> bool:
        answer = self._codes.get(code)
        if answer is None:
            answer = self._codes[code] = not code.co_filename.startswith(_INTERNAL)
        return answer


_INTERNAL = (
    str(Path(torch.__file__).parent) + os.sep,
    *(str(Path(__file__).with_name(f"{name}.py")) for name in ("trace", "sizes", "journal")),
    "<frozen",
    "<__array_function__",
)
