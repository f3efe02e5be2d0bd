"""The names of the machine's processors."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def cpu_name() -> str:
    """The processor's model name where the system tells it, else its architecture."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def gpu_name() -> str:
    """The first CUDA device's name."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CUDA device"
