"""What a training took beside time: memory at its highest mark, and energy where counters are.

Energy is read from the counters of the processor's packages (RAPL, as Linux shows them) and of the
GPU (NVML, through PyTorch). They count all that runs on the machine; where none can be read, it is
not measurable, and nothing is estimated.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from slimnet.memory import highest_mark, lower_mark

RAPL = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Used:
    """What one training took; None: not measurable here."""

    memory: int | None = None  # bytes of this process at most, on a GPU those of its tensors
    energy: float | None = None  # J of the whole machine's processors, and of the GPU

    def to_json(self) -> dict[str, Any]:
        """Both fields."""
        return asdict(self)


class Meter:
    """Runs from when it is made; a process's mark counts what it held before."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._before = device, _counters(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            lower_mark()

    def used(self) -> Used:
        """Up to now."""
        on_gpu = self._device.type == "cuda"
        memory = torch.cuda.max_memory_allocated(self._device) if on_gpu else highest_mark()
        return Used(memory, _between(self._before, _counters(self._device)))


def _counters(device: torch.device) -> dict[str, tuple[float, float]]:
    """Of each counter its J, and at how many it begins again from 0."""
    read = {}
    for zone in sorted(RAPL.glob("intel-rapl:*")):
        if zone.name.count(":") > 1:
            continue  # part of a package
        with suppress(OSError, ValueError):  # only root may read them on many systems
            microjoules = [
                int((zone / name).read_text()) for name in ("energy_uj", "max_energy_range_uj")
            ]
            read[zone.name] = (microjoules[0] / 1e6, microjoules[1] / 1e6)
    if device.type == "cuda":
        with suppress(Exception):  # no NVML, or a GPU that does not count
            pynvml: Any = import_module("pynvml")

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(device.index or 0)
            read["gpu"] = (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, 0.0)
    return read


def _between(before: Mapping[str, tuple[float, float]], after: Mapping[str, Any]) -> float | None:
    """J by all counters; None where there is none."""
    if not before or before.keys() != after.keys():
        return None
    joules = 0.0
    for name, (began, limit) in before.items():
        rise = after[name][0] - began
        joules += rise if rise >= 0 else rise + limit  # it began again
    return joules
