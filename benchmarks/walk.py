"""How far a value travels through slimnet's rooms: does its walk go down?

``python benchmarks/walk.py`` prunes a small residual network and prints the walk of the model, its
example, the plan and the statistics. ``--against FOLDER`` takes another version of slimnet beside
it (a clone, say), ``--show model`` prints every stop.

A **stop** is a function of slimnet to which another one hands the value (for the model: the module,
or the ``Network`` of it) as an argument, the first time that this one calls that one; what a
``Network`` says of itself is reading, and no stop. The **walk** is the stops in order of time,
those in one file after the other taken together. A **climb** is a move to a file on a higher floor,
by the layers in pyproject.toml: those of the package first, then those of the room. A value that is
handed down once, and read there, does not climb; one that everybody walks anew climbs with every
caller. **Entries** are the visits to the room ``capture``: moves into it by a call from outside.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

import slimnet

ROOT = Path(slimnet.__file__).parent
VALUES = ("model", "example", "plan", "statistics")


@dataclass(frozen=True)
class Stop:
    """A function that was handed the value, and the file of who handed it."""

    module: str
    function: str
    caller: str


@dataclass(frozen=True)
class Walk:
    """Where a value went: the files of its stops, one after the other."""

    stops: tuple[Stop, ...]

    @property
    def moves(self) -> list[tuple[Stop, Stop]]:
        """Each time that it came to another file."""
        pairs = zip(self.stops, self.stops[1:], strict=False)
        return [(before, stop) for before, stop in pairs if before.module != stop.module]

    @property
    def climbs(self) -> list[tuple[Stop, Stop]]:
        """Moves to a higher floor."""
        return [(a, b) for a, b in self.moves if floor_of(a.module) < floor_of(b.module)]

    @property
    def entries(self) -> list[tuple[Stop, Stop]]:
        """Moves into the room ``capture``, by a call from another one."""
        return [
            (a, b)
            for a, b in self.moves
            if room_of(b.module) == "capture"
            if "capture" not in (room_of(a.module), room_of(b.caller))
        ]

    def __str__(self) -> str:
        return (
            f"{len(self.moves) + 1} files, {len(self.climbs)} climbs, {len(self.entries)} entries "
            f"into capture ({len(self.stops)} stops)"
        )


def room_of(module: str) -> str:
    """``slimnet.capture.trace``: ``capture``."""
    return module.split(".")[1] if "." in module else ""


def floor_of(module: str) -> tuple[int, int]:
    """Of the room in the package, and of the file in its room; a higher one may import a lower."""
    parts = [*module.split("."), "", ""][:3]
    inside = _FLOORS.get(parts[0], {}).get(parts[1], -1)
    room = _FLOORS.get(f"{parts[0]}.{parts[1]}", {})
    return inside, room.get(parts[2], len(room))  # the room's own __init__ stands above its files


def _floors() -> dict[str, dict[str, int]]:
    """Package → name → floor, the lowest 0, of every contract."""
    text = (ROOT.parent / "pyproject.toml").read_text()
    contracts = re.findall(r"layers = \[(.*?)\n\]\ncontainers = \[\"(.*?)\"\]", text, re.DOTALL)
    return {
        package: {
            name: number
            for number, floor in enumerate(reversed(re.findall(r'"(.*?)"', floors)))
            for name in re.findall(r"\w+", floor)
        }
        for floors, package in contracts
    }


_FLOORS = _floors()


@dataclass
class Meter:
    """A profiler that writes down who hands a value to whom."""

    is_value: Callable[[Any], bool]
    stops: list[Stop] = field(default_factory=list)
    _met: set[tuple[CodeType | None, CodeType]] = field(default_factory=set)

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Look at a call."""
        code = frame.f_code
        if event != "call" or not _is_ours(code) or self.is_value(frame.f_locals.get("self")):
            return
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        caller = _caller(frame)
        pair = (None if caller is None else caller.f_code, code)
        if pair not in self._met and any(self.is_value(frame.f_locals.get(n)) for n in names):
            self._met.add(pair)
            whose = "" if caller is None else caller.f_globals["__name__"]
            self.stops.append(Stop(frame.f_globals["__name__"], code.co_name, whose))


def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(str(ROOT)) and not code.co_name.startswith("<")


def _caller(frame: FrameType) -> FrameType | None:
    """The function of slimnet that called, past torch and contextlib."""
    back = frame.f_back
    while back is not None and not back.f_code.co_filename.startswith(str(ROOT)):
        back = back.f_back
    return back


class Small(nn.Module):
    """Two residual blocks and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 32
        self.stem = nn.Conv2d(3, self.width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
                *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32)),
            )
            for _ in range(2)
        )
        self.head = nn.Linear(self.width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One score per class."""
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)).reshape(-1, self.width))


def walk_of(value: str, criterion: str = "taylor") -> Walk:
    """The walk of one of :data:`VALUES` through ``prune`` by a criterion."""
    torch.manual_seed(0)
    model, example = Small().eval(), (torch.randn(2, 3, 8, 8),)
    images = slimnet.Samples(torch.randn(16, 3, 8, 8), torch.arange(16) % 10)
    meter = Meter(_is_value(value, model, example))
    before = sys.getprofile()
    sys.setprofile(meter)
    try:
        slimnet.prune(model, example, macs=0.5, criterion=criterion, data=images)
    finally:
        sys.setprofile(before)
    return Walk(tuple(meter.stops))


def _is_value(value: str, model: nn.Module, example: tuple[Any, ...]) -> Callable[[Any], bool]:
    def is_named(name: str) -> Callable[[Any], bool]:
        return lambda x: type(x).__name__ == name and type(x).__module__.startswith("slimnet")

    return {
        "model": lambda x: (
            x is model or (type(x).__name__ == "Network" and getattr(x, "model", None) is model)
        ),
        "example": lambda x: x is example,
        "plan": is_named("Plan"),
        "statistics": is_named("Statistics"),
    }[value]


def _show(walk: Walk) -> Iterator[str]:
    before = ""
    for stop in walk.stops:
        if stop.module != before:
            inside, room = floor_of(stop.module)
            climb = "↑" if before and floor_of(before) < floor_of(stop.module) else " "
            yield f"  {climb} {stop.module.removeprefix('slimnet.'):32} floor {inside}.{room}"
        yield f"        {stop.function}"
        before = stop.module


def _elsewhere(folder: Path, arguments: Sequence[str]) -> None:
    """The same of another version, in a process of its own."""
    paths = {**os.environ, "PYTHONPATH": str(folder)}
    subprocess.run([sys.executable, __file__, *arguments], env=paths, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="a folder with another version of slimnet")
    parser.add_argument("--show", choices=VALUES, help="print every stop of one walk")
    options = parser.parse_args()
    more = ["--show", options.show] if options.show else []
    if options.against is not None:
        _elsewhere(options.against, more)
    print(f"slimnet in {ROOT.parent.name}:")
    for value in VALUES:
        walk = walk_of(value)
        print(f"  {value:10} {walk}")
        if value == options.show:
            print("\n".join(_show(walk)))


if __name__ == "__main__":
    main()
