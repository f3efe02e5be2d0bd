"""The names of the machine's processors, and what they can."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def cpu_name() -> str:
    """The processor's model name where the system tells it, else its architecture."""
    return _told("model name") or platform.processor() or platform.machine()


def multiplies_bytes() -> bool | None:
    """Whether an x86 CPU has VNNI, which sums products of bytes in 32 bits; None if unknown.

    Without it the sum of two products is cut off at 16 bits.
    """
    flags = _told("flags").split()
    return not _VNNI.isdisjoint(flags) if flags else None


_VNNI = {"avx512_vnni", "avx_vnni"}


def _told(name: str) -> str:
    """What Linux says of the first processor under this name."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    rows = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in rows if key.strip() == name), "")


def gpu_name() -> str:
    """The first CUDA device's name."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CUDA device"
