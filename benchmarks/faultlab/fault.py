"""What a fault is, and the registry of their families.

A family is a function of a random generator that yields faults; the seed alone decides which. What
a fault plants is done later, in a folder of its own.
"""

from __future__ import annotations

import importlib
import pkgutil
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

End = Literal["refused", "done", "same", "stopped"]

DAMAGED: frozenset[End] = frozenset({"refused", "same"})
"""Refused in one sentence, or the very numbers of the undamaged file."""
SAFE: frozenset[End] = frozenset({"refused", "done"})
"""Refused, or done with whole results: whoever made the file may have meant another network."""
REFUSED: frozenset[End] = frozenset({"refused"})
SAME: frozenset[End] = frozenset({"same"})
DONE: frozenset[End] = frozenset({"done"})
STOPPED: frozenset[End] = frozenset({"stopped", "same"})
"""Stopped by the signal, or through before it came."""

CANARY = "CANARY"
"""The file that every payload would make in the folder that it runs in."""
DECOY = "decoy.pt"
"""A file that no command names: only a payload opens it."""


@dataclass(frozen=True)
class Stop:
    """A signal in the middle of a command."""

    signal: signal.Signals
    after: float  # 0..1 of what the undisturbed command takes
    measure: Literal["time", "operations"]  # processor time, or operations on files

    def __str__(self) -> str:
        what = "of its time" if self.measure == "time" else "of its operations on files"
        return f"{self.signal.name} after {self.after:.0%} {what}"


@dataclass(frozen=True)
class World:
    """What a command runs in."""

    largest_file: int | None = None  # bytes: writing more fails, as on a full disk
    open_files: int | None = None  # how many at once
    stop: Stop | None = None
    stdout: Literal["pipe", "closed", "broken", "full"] = "pipe"
    stderr: Literal["pipe", "closed"] = "pipe"
    environment: Mapping[str, str | None] = field(default_factory=dict)
    umask: int = 0o022
    gone: bool = False  # the folder that the command runs in is removed before it starts
    fresh: bool = False  # a Python of its own, seconds slower: for what is decided as one starts


PLAIN = World()
FRESH = World(fresh=True)

Plant = Callable[[Path], str | None]
"""Changes a folder; may say more exactly what it did."""


def nothing(folder: Path) -> None:
    """The fault is in the command, or in its world."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, and how the command that meets it may end."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...]  # files of the shelf
    plant: Plant = nothing
    allows: frozenset[End] = DAMAGED
    world: World = PLAIN
    writes: tuple[str, ...] = ()  # results, beside what the command names
    keeps: tuple[str, ...] = ()  # globs of what may stay behind, or be set aside
    again: bool = False  # run once more, undisturbed: it must come to the undisturbed result

    def __str__(self) -> str:
        return f"{self.name}: slimnet {shlex.join(self.command)}"

    @property
    def results(self) -> tuple[str, ...]:
        """What the command writes where all goes well."""
        pairs = zip(self.command, self.command[1:], strict=False)
        named = [value for option, value in pairs if option in ("-o", "--output", "--graph")]
        exported = self.command[2:3] if self.command[:1] == ("export",) else ()
        return (*named, *exported, *self.writes)


def command(text: str) -> tuple[str, ...]:
    """A command line as a shell splits it."""
    return tuple(shlex.split(text))


Family = Callable[[Random], Iterator[Fault]]


@dataclass(frozen=True)
class Planned:
    """A fault by its place: equal in every process that plans from the same seed."""

    kind: str
    family: str
    number: int
    fault: Fault

    @property
    def id(self) -> str:
        """The same from run to run."""
        return f"{self.kind}/{self.family}/{self.number}"


_FAMILIES: dict[str, tuple[str, Family]] = {}


def family(kind: str) -> Callable[[Family], Family]:
    """Register a family of a kind under the function's name."""

    def add(made: Family) -> Family:
        if made.__name__ in _FAMILIES:
            raise ValueError(f"two families are called {made.__name__}")
        _FAMILIES[made.__name__] = kind, made
        return made

    return add


def plan(seed: int) -> list[Planned]:
    """Every fault of a seed; adding a family changes none of another's."""
    return [
        Planned(kind, name, number, fault)
        for name, (kind, made) in families().items()
        for number, fault in enumerate(made(Random(f"{seed} {name}")))
    ]


def families() -> Mapping[str, tuple[str, Family]]:
    """All of them, by name: their kind and the function."""
    from faultlab import kinds

    for module in pkgutil.iter_modules(kinds.__path__):
        importlib.import_module(f"faultlab.kinds.{module.name}")
    return dict(sorted(_FAMILIES.items(), key=lambda row: (row[1][0], row[0])))
