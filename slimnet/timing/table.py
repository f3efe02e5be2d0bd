"""How long convolutions take at any widths on this machine: measured once, kept in a file.

Runtimes compute channels in blocks, and a block that is not full costs as much as a full one
(:attr:`TimeTable.block` is found by measuring). So for each form a few numbers of blocks are
measured, read and made, and what lies between is interpolated.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slimnet.digest import digest
from slimnet.export.devices import cpu_name
from slimnet.export.profile import profile
from slimnet.timing.cache import read_table, write_table
from slimnet.timing.chains import MIDDLE, chain, image
from slimnet.timing.work import Form

Measure = Callable[[Form, int, int], float]
"""(form, channels read, channels made) → ms."""
BLOCKS = (16, 8)
"""What may be the block of a runtime, the larger first."""
_POINTS = (0.25, 0.5, 0.75, 1.0)
_PROBE = Form((3, 3), (1, 1), (1, 1), (1, 1), False, (28, 28), (28, 28))


@dataclass(frozen=True)
class Setting:
    """On what, and how, something is timed: times of one setting say nothing of another."""

    machine: str
    runtime: str  # with its version
    threads: int
    batch: int

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"batch {self.batch}, {threads}, {self.runtime}, {self.machine}"


def setting_of(batch: int) -> Setting:
    """onnxruntime on this machine's processor, with as many threads as torch has."""
    runtime = f"onnxruntime {version('onnxruntime')}"
    return Setting(cpu_name(), runtime, torch.get_num_threads(), batch)


class TimeTable:
    """Milliseconds of convolutions, by form and widths; what is missing is measured."""

    def __init__(
        self, setting: Setting, folder: Path | None, measure: Measure | None = None
    ) -> None:
        self.setting = setting
        self.measured = 0  # readings that were made, and not found in the file
        self._path = folder and folder / f"{digest(asdict(setting))[:16]}.json"
        self._measure = measure or self._timed
        stored = None if self._path is None else read_table(self._path)
        self._known = {} if stored is None else dict(stored.ms)
        self._grids: dict[tuple[Form, int, int], _Grid] = {}

    def ms(self, form: Form, whole: tuple[int, int], reads: int, makes: int) -> float:
        """Of a convolution that read and made ``whole`` channels, at other numbers of them."""
        key = (form, *whole)
        if key not in self._grids:
            self._grids[key] = self._grid(form, whole)
        return self._grids[key].at(reads, makes)

    @property
    def block(self) -> int:
        """So many channels cost what one costs."""
        for block in BLOCKS:
            wide, half = (
                self._known_ms(_PROBE, 64, n) for n in (4 * block, 4 * block - block // 2)
            )
            if half > _FULL * wide:
                return block
        return 1

    def save(self) -> None:
        """Write what was measured, if anything was."""
        if self._path is not None and self.measured:
            write_table(self._path, asdict(self.setting), self._known)

    def _grid(self, form: Form, whole: tuple[int, int]) -> _Grid:
        block = self.block
        reads, makes = (_points(width, block) for width in whole)
        if form.depthwise:
            times = np.array([[self._known_ms(form, n, n)] for n in reads])
            return _Grid(block, reads, [1], times)
        rows = [[self._known_ms(form, n, m) for m in makes] for n in reads]
        return _Grid(block, reads, makes, np.array(rows))

    def _known_ms(self, form: Form, reads: int, makes: int) -> float:
        key = json.dumps([*asdict(form).values(), reads, makes])
        if key not in self._known:
            self._known[key] = self._measure(form, reads, makes)
            self.measured += 1
        return self._known[key]

    def _timed(self, form: Form, reads: int, makes: int) -> float:
        file = chain(form, reads, makes, self.setting.batch)
        inputs = (torch.randn(image(form, reads, self.setting.batch)),)
        nodes = profile(file, inputs, threads=self.setting.threads)
        return sum(node.ms for node in nodes if node.name.startswith(MIDDLE))


_FULL = 0.9
"""Of a full block's time, one that is half empty takes at least so much."""


@dataclass(frozen=True, eq=False)
class _Grid:
    """Times at some widths; between them they follow the number of blocks."""

    block: int
    reads: list[int]
    makes: list[int]
    ms: np.ndarray[Any, Any]  # [reads, makes]

    def at(self, reads: int, makes: int) -> float:
        """Milliseconds."""
        column = [float(np.interp(_full(makes, self.block), self.makes, row)) for row in self.ms]
        return float(np.interp(_full(reads, self.block), self.reads, column))


def _full(width: int, block: int) -> int:
    return -(-width // block) * block


def _points(width: int, block: int) -> list[int]:
    """Widths that are measured: full blocks up to the whole, which stays as it is."""
    blocks = -(-width // block)
    some = {1, *(max(round(blocks * part), 1) for part in _POINTS)}
    return sorted({min(n * block, width) for n in some})
