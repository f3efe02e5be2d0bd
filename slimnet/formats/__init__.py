"""What ``slimnet export`` writes: one row per format, one file for each.

A format takes an :class:`ExportRequest`, writes the file whole or not at all, and gives an
:class:`Exported`: what is printed of it. :mod:`.onnx`, :mod:`.pt2` and :mod:`.safetensors` are
slimnet's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimnet.progress import Progress, not_shown
from slimnet.registry import Registry

if TYPE_CHECKING:  # the command line reads the names of formats without torch
    from slimnet.files.access import Opened
    from slimnet.task import Task


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What integers need: data for ranges and for the metric, and whether slower ones are kept."""

    task: Task
    samples: int
    seed: int = 0
    keep_slower: bool = False


@dataclass(frozen=True, eq=False)
class Variant:
    """In which form a network is written, where a format has several."""

    opset: int | None = None  # the format's usual one
    dynamic_size: bool = False  # height and width of images are free
    float16: bool = False
    int8: Calibrated | None = None


@dataclass(frozen=True, eq=False)
class ExportRequest:
    """Which network is to be written where, and how it is timed."""

    opened: Opened
    target: Path
    example: tuple[Any, ...] = ()  # inputs; none for a format that does not run the network
    described: str = ""  # the network, in words
    outputs: tuple[str, ...] = ()  # those to write, for a format that can leave some out; all
    against: Path | None = None  # the dense network to time it against
    batch: int = 1  # of the latency
    latency: bool = True  # whether it is timed, where the format can be
    backend: str = "onnxruntime"  # in which it is
    threads: int | None = None
    allow_pickle: bool = False
    variant: Variant = Variant()
    watch: Progress = not_shown


@dataclass(frozen=True)
class Exported:
    """What was written, as a record for programs and in sentences for people."""

    record: Mapping[str, Any]  # as JSON holds it
    summary: str = "written"  # printed after the name of the file
    sentences: tuple[str, ...] = ()
    conditions: str = ""  # under which something was measured
    table: tuple[tuple[str, ...], ...] = ()  # what was measured, the headings first


@dataclass(frozen=True)
class ExportFormat:
    """A kind of file that a network can be written as."""

    title: str  # in sentences
    endings: tuple[str, ...]  # of the names of such files, the usual one first
    write: Callable[[ExportRequest], Exported]
    beside: tuple[str, ...] = ()  # what is added to the name of files that are written with it
    runs: bool = True  # whether it runs the network, and so needs an example
    timed: bool = True  # whether it is timed, beside the dense network
    selects: bool = False  # whether it can leave outputs of the network out
    varies: bool = False  # whether it has the forms of a Variant


FORMATS: Registry[ExportFormat] = Registry(
    "export format", "slimnet.formats", folder="slimnet.formats"
)
