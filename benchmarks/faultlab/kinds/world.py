"""The world around a command: full disks, signals, streams that are closed, environments.

A command that is stopped or has no room leaves what was there, and run again it comes to what it
would have come to undisturbed.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from faultlab.fault import (
    DONE,
    FRESH,
    REFUSED,
    SAFE,
    STOPPED,
    End,
    Fault,
    Stop,
    World,
    command,
    family,
    nothing,
)
from faultlab.shelf import COMPARE, EXPORT, PRUNE, PRUNE_OWN, REPAIR, SPARSIFY


@dataclass(frozen=True)
class Work:
    """A command that writes, and what may stay where it does not get to its end."""

    text: str
    needs: tuple[str, ...]
    keeps: tuple[str, ...] = ()

    def fault(self, name: str, world: World, allows: frozenset[End], **more: bool) -> Fault:
        """The command in a world."""
        return Fault(
            name=f"{self.text.split()[0]}, {name}",
            command=command(self.text),
            needs=self.needs,
            allows=allows,
            world=world,
            keeps=self.keeps,
            **more,
        )


WORK = (
    Work(f"{PRUNE} -o out.pt", ("dense.pt",)),
    Work(f"{PRUNE_OWN} -o out.pt", ("own.pt", "net.py")),
    Work(f"{PRUNE_OWN} -o out.pt2", ("own.pt", "net.py")),
    Work(EXPORT, ("slim.pt",)),
    Work("export slim.pt out.pt2 --pt2", ("slim.pt",)),
    Work(f"{REPAIR} -o out.pt", ("slim.pt", "dense.pt", "data.npz")),
    Work(SPARSIFY, ("dense.pt", "data.npz"), ("sparse.pt.training*",)),
    Work(COMPARE, ("dense.pt", "data.npz"), ("study*",)),
    Work("sensitivity dense.pt --points 1 -o out.html", ("dense.pt",)),
)
SIZES = (0, 1, 1000, 4096, 30_000, 100_000, 300_000)
"""Bytes that fit on the disk; results are 12 KB to 5 MB."""


@family("disk")
def full_disks(random: Random) -> Iterator[Fault]:
    """No file can be longer: writing fails as on a full disk, in the middle."""
    for work in WORK:
        for size in sorted(random.sample(SIZES, 4)):
            world = World(largest_file=size)
            yield work.fault(f"room for {size} bytes", world, SAFE, again=True)


def _there(folder: Path) -> None:
    """A result of an earlier day: it must survive."""
    (folder / "out.pt").write_bytes((folder / "slim.pt").read_bytes())


@family("disk")
def full_disks_under_results(random: Random) -> Iterator[Fault]:
    """The result of an earlier run is there, and stays where there is no room for a new one."""
    for work in (WORK[0], WORK[1], WORK[5]):
        for size in (0, 20_000):
            made = work.fault(f"over a result, room for {size}", World(largest_file=size), SAFE)
            yield replace(made, needs=(*dict.fromkeys((*made.needs, "slim.pt")),), plant=_there)


@family("disk")
def few_files(random: Random) -> Iterator[Fault]:
    for work in (WORK[0], WORK[3], WORK[6]):
        yield work.fault("64 open files", World(open_files=64), SAFE)


KILLED = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOMENTS = 4
"""Random moments of each measure, for each signal and command."""


def _stopped(number: signal.Signals, random: Random) -> Iterator[Fault]:
    for work in WORK:
        for measure in ("time", "operations"):
            for _ in range(MOMENTS if number == signal.SIGKILL else MOMENTS // 2):
                stop = Stop(number, random.uniform(0.1, 1.0), measure)  # type: ignore[arg-type]
                yield work.fault(str(stop), World(stop=stop), STOPPED, again=True)


@family("kill")
def killed(random: Random) -> Iterator[Fault]:
    """Nobody can clean up: the next run has to."""
    yield from _stopped(signal.SIGKILL, random)


@family("signals")
def terminated(random: Random) -> Iterator[Fault]:
    yield from _stopped(signal.SIGTERM, random)


@family("signals")
def interrupted(random: Random) -> Iterator[Fault]:
    yield from _stopped(signal.SIGINT, random)


PRINTING = """import torch
from torch import nn

print("loading")


def make_model():
    print("building")
    return nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 10))
"""


@dataclass(frozen=True)
class Surroundings:
    """A world that a fresh Python starts in."""

    name: str
    world: World
    text: str = f"{PRUNE} -o out.pt"
    allows: frozenset[End] = DONE
    needs: tuple[str, ...] = ("dense.pt",)
    plant: Callable[[Path], None] = nothing


def _environment(**values: str | None) -> World:
    return replace(FRESH, environment=values)


SURROUNDINGS = (
    Surroundings("stdout is closed", replace(FRESH, stdout="closed"), allows=SAFE),
    Surroundings("stdout is closed", replace(FRESH, stdout="closed"), "inspect dense.pt", SAFE),
    Surroundings("nobody reads stdout", replace(FRESH, stdout="broken"), allows=SAFE),
    Surroundings("nobody reads stdout", replace(FRESH, stdout="broken"), "inspect dense.pt", SAFE),
    Surroundings("nobody reads stdout", replace(FRESH, stdout="broken"), "--help", SAFE),
    Surroundings("nobody reads --json", replace(FRESH, stdout="broken"), "inspect dense.pt --json"),
    Surroundings("stdout is full", replace(FRESH, stdout="full"), "inspect dense.pt", SAFE),
    Surroundings("stdout is full", replace(FRESH, stdout="full"), "inspect dense.pt --json", SAFE),
    Surroundings("stderr is closed", replace(FRESH, stderr="closed")),
    Surroundings(
        "stderr is closed", replace(FRESH, stderr="closed"), "inspect missing.pt", REFUSED
    ),
    Surroundings("no HOME", _environment(HOME=None)),
    Surroundings("HOME is not there", _environment(HOME="/nonexistent")),
    Surroundings("HOME is a device", _environment(HOME="/dev/null")),
    Surroundings(
        "no PATH", _environment(PATH=None), f"{PRUNE_OWN} -o out.pt", needs=("own.pt", "net.py")
    ),
    Surroundings("no TERM", _environment(TERM=None)),
    Surroundings("a dumb terminal", _environment(TERM="dumb", FORCE_COLOR="1")),
    Surroundings(
        "LANG=C", _environment(LANG="C", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    ),
    Surroundings("streams in ASCII", _environment(PYTHONIOENCODING="ascii"), "inspect dense.pt"),
    Surroundings("streams in ASCII", _environment(PYTHONIOENCODING="ascii"), "--help"),
    Surroundings("streams in Latin-1", _environment(PYTHONIOENCODING="latin-1")),
    Surroundings("one column", _environment(COLUMNS="1"), "inspect dense.pt"),
    Surroundings("no column", _environment(COLUMNS="0"), "inspect dense.pt"),
    Surroundings("columns by name", _environment(COLUMNS="many"), "inspect dense.pt"),
    Surroundings(
        "TMPDIR is not there",
        _environment(TMPDIR="/nonexistent"),
        COMPARE,
        SAFE,
        ("dense.pt", "data.npz"),
    ),
    Surroundings("umask 077", replace(FRESH, umask=0o077)),
    Surroundings("umask 777", replace(FRESH, umask=0o777), allows=SAFE),
    Surroundings("the folder is gone", World(gone=True), allows=REFUSED),
    Surroundings("the folder is gone", World(gone=True), "demo", REFUSED),
    Surroundings("the folder is gone", World(gone=True), "--version"),
    Surroundings(
        "a user's file prints",
        FRESH,
        "inspect state.pt --arch printing.py:make_model --input 1,1,8,8 --json",
        needs=(),
        plant=lambda folder: _printing(folder),
    ),
    Surroundings(
        "a user's file prints",
        FRESH,
        "prune state.pt --arch printing.py:make_model --input 1,1,8,8 --ratio 0.5 -o out.pt --json",
        needs=(),
        plant=lambda folder: _printing(folder),
    ),
)


def _printing(folder: Path) -> None:
    import torch
    from torch import nn

    (folder / "printing.py").write_text(PRINTING)
    made = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 10))
    torch.save(made.state_dict(), folder / "state.pt")


@family("environment")
def surroundings(random: Random) -> Iterator[Fault]:
    for row in SURROUNDINGS:
        yield Fault(
            name=f"{row.name}: {row.text.split()[0]}",
            command=command(row.text),
            needs=row.needs,
            plant=row.plant,
            allows=row.allows,
            world=row.world,
            keeps=("study*",),
        )


UMASKS = (0o077, 0o027, 0o000)


@family("environment")
def umasks(random: Random) -> Iterator[Fault]:
    """What is written may be read by whom the user lets read."""
    for work in WORK:
        mask = random.choice(UMASKS)
        yield work.fault(f"umask {mask:03o}", World(umask=mask), DONE)
