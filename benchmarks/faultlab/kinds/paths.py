"""Special paths: results on their sources, devices and links; names that are hard to write down."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from faultlab.fault import DONE, REFUSED, SAFE, End, Fault, command, family
from faultlab.shelf import OWN, PRUNE, PRUNE_OWN, REPAIR

SPARSE_ONE = "sparsify dense.pt --data npz:data.npz --epochs 1"
NEEDS = ("dense.pt", "slim.pt", "data.npz")

ONTO_ITSELF = (
    f"{PRUNE} -o dense.pt",
    f"{PRUNE} -o ./dense.pt",
    f"{PRUNE} -o here/../dense.pt",
    f"{PRUNE} --criterion taylor --data npz:data.npz -o data.npz",
    f"{PRUNE_OWN} -o net.py",
    f"{PRUNE_OWN} -o own.pt",
    "prune program.pt2 --ratio 0.5 -o program.pt2",
    f"{REPAIR} -o slim.pt",
    f"{REPAIR} -o dense.pt",
    f"{REPAIR} -o data.npz",
    f"{SPARSE_ONE} -o dense.pt",
    f"{SPARSE_ONE} -o data.npz",
    "export slim.pt slim.pt --onnx --no-latency",
    "export slim.pt slim.pt --pt2",
    "export slim.pt --onnx --against dense.pt dense.pt",
    "export slimown.pt slimown.pt --pt2",
    "sensitivity dense.pt --points 1 -o dense.pt",
    "inspect dense.pt --graph dense.pt",
    f"inspect own.pt {OWN} --graph net.py",
)
"""A command whose result would take the place of what it reads."""


@family("paths")
def onto_its_source(random: Random) -> Iterator[Fault]:
    for text in ONTO_ITSELF:
        words = command(text)
        files = ("net.py", "own.pt", "program.pt2", "slimown.pt", *NEEDS)
        yield Fault(
            name=f"the result is a source: {text}",
            command=words,
            needs=tuple(name for name in files if name in text or name in NEEDS),
            plant=_folder("here"),
            allows=REFUSED,
        )
    for kind, make in (("symbolic", "symlink_to"), ("hard", "hardlink_to")):
        for text in (f"{PRUNE} -o link.pt", f"{REPAIR} -o link.pt", f"{SPARSE_ONE} -o link.pt"):
            yield Fault(
                name=f"the result is a {kind} link to a source: {text}",
                command=command(text),
                needs=NEEDS,
                plant=_link(make, "dense.pt"),
                allows=REFUSED if kind == "symbolic" else SAFE,
            )


def _folder(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).mkdir()


def _link(make: str, target: str, name: str = "link.pt") -> Callable[[Path], None]:
    return lambda folder: getattr(folder / name, make)(folder / target)


@dataclass(frozen=True)
class Target:
    """Where a result is asked for."""

    name: str
    what: str
    plant: Callable[[Path], Any] = lambda folder: None
    allows: frozenset[End] = REFUSED


def _socket(folder: Path) -> None:
    made = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    try:
        os.chdir(folder)  # an address is at most 108 bytes long
        made.bind("socket.pt")
    finally:
        os.chdir(here)
        made.close()


def _device(name: str, minor: int) -> Callable[[Path], None]:
    """A device of the folder's own: a fault of the product must not cost the machine its own."""

    def plant(folder: Path) -> None:
        try:
            os.mknod(folder / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        except PermissionError:  # only root makes devices: a pipe is refused like one
            os.mkfifo(folder / name)

    return plant


def _linked_device(folder: Path) -> None:
    _device("null", 3)(folder)
    (folder / "link.pt").symlink_to("null")


TARGETS = (
    Target("full", "a device that is full", _device("full", 7)),
    Target("null", "a device that forgets", _device("null", 3)),
    Target("stdout", "the output stream", _link("symlink_to", "/proc/self/fd/1", "stdout")),
    Target("/proc/self/fd/2", "a stream by its number"),
    Target("/proc/self/mem", "its own memory"),
    Target("/proc/slim.pt", "a folder of the kernel's"),
    Target("fifo", "a pipe", lambda folder: os.mkfifo(folder / "fifo")),
    Target("socket.pt", "a socket", _socket),
    Target("folder", "a folder", _folder("folder")),
    Target("folder/", "a folder with a slash", _folder("folder")),
    Target("missing/slim.pt", "in a folder that is not there"),
    Target("dense.pt/slim.pt", "below a file"),
    Target(".", "the folder itself"),
    Target("..", "the folder above"),
    Target("", "no name"),
    Target("x" * 255, "a name of 255 bytes", allows=SAFE),
    Target("x" * 251 + ".pt", "a name of 254 bytes", allows=SAFE),
    Target("x" * 300, "a name of 300 bytes"),
    Target("a/" * 3000 + "x", "a path of 6 000 bytes"),
    Target("loop.pt", "a link to itself", _link("symlink_to", "loop.pt", "loop.pt")),
    Target("link.pt", "a link to a device", _linked_device),
    Target("slim.onnx", "a name for ONNX", allows=REFUSED),
    Target("slim.npz", "a name for arrays", allows=REFUSED),
    Target("slim.html", "a name for a page", allows=REFUSED),
    Target("slim.safetensors", "a name for tensors alone", allows=SAFE),
    Target("slim", "no suffix", allows=SAFE),
    Target("slim.PT", "a suffix in capitals", allows=SAFE),
    Target("a b\tc.pt", "spaces", allows=DONE),
    Target("a\nb.pt", "a newline", allows=SAFE),
    Target("\x1b[2Ja.pt", "an ESC", allows=SAFE),
    Target("[red]a.pt", "rich's markup", allows=DONE),
    Target("-.pt", "a dash", allows=DONE),
    Target("über\u202e.pt", "letters from right to left", allows=SAFE),
    Target("é.pt", "an accent", allows=DONE),
    Target(os.fsdecode(b"\xff\xfe.pt"), "bytes that are no UTF-8", allows=SAFE),
    Target("~.pt", "a tilde", allows=DONE),
    Target("a;b|c&$(d).pt", "what a shell obeys", allows=DONE),
    Target(".hidden.pt", "a dot", allows=DONE),
)


@family("paths")
def targets_of_prune(random: Random) -> Iterator[Fault]:
    for target in TARGETS:
        yield _aimed(f"{PRUNE} -o", target)


@family("paths")
def targets_of_others(random: Random) -> Iterator[Fault]:
    """A few for each command that writes."""
    ways = (
        ("sensitivity dense.pt --points 1 -o", ".html"),
        ("inspect dense.pt --graph", ".html"),
        (f"{REPAIR} -o", ".pt"),
        (f"{SPARSE_ONE} -o", ".pt"),
        ("export slim.pt --onnx --no-latency", ".onnx"),
        ("export slim.pt --pt2", ".pt2"),
        ("compare dense.pt --data npz:data.npz --epochs 1 --seeds 1 --no-time -o", ""),
    )
    for way, suffix in ways:
        for target in random.sample(TARGETS[:21], 4):
            yield _aimed(way, target, compare="compare" in way)
        name = Target(f"a\n\x1b[2J{suffix}", "a newline and an ESC", allows=SAFE)
        yield _aimed(way, name)


_STUDY = ("folder/*", "missing*", "cells*", "results.json", "report.html")


def _aimed(way: str, target: Target, *, compare: bool = False) -> Fault:
    words = command(way)
    named = (words[0], words[1], target.name, *words[2:])  # export: the second argument
    folders = compare and target.name in ("folder", "folder/", "missing/slim.pt", ".", "..")
    return Fault(
        name=f"into {target.what}: {way.split()[0]}",
        command=named if words[0] == "export" else (*words, target.name),
        needs=NEEDS,
        plant=target.plant,
        allows=SAFE if folders or (compare and target.allows == REFUSED) else target.allows,
        keeps=_STUDY if folders else (),
    )


def _dangling(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "out.pt").symlink_to("elsewhere/slim.pt")


@family("paths")
def links_are_followed(random: Random) -> Iterator[Fault]:
    """The target of a link is written, and the link stays one."""
    yield Fault(
        name="the result is a link to a file that is not there yet",
        command=command(f"{PRUNE} -o out.pt"),
        needs=("dense.pt",),
        plant=_dangling,
        allows=SAFE,
        writes=("elsewhere/slim.pt",),
    )


def _zeros(folder: Path) -> None:
    (folder / "zero.pt").symlink_to("/dev/zero")


SOURCES = (
    ("/dev/zero", "endless zeros"),
    ("/dev/urandom", "endless noise"),
    ("/dev/null", "an empty device"),
    ("/dev/stdin", "the input stream"),
    ("/dev/full", "a full device"),
    ("/proc/self/mem", "its own memory"),
    ("/proc/self/environ", "its environment"),
    ("fifo", "a pipe that nobody writes to"),
    ("socket.pt", "a socket"),
    ("folder", "a folder"),
    ("zero.pt", "a link to endless zeros"),
    ("loop.pt", "a link to itself"),
    ("missing.pt", "nothing"),
    ("missing\n\x1b[2J.pt", "a name with a newline and an ESC that is not there"),
    (os.fsdecode(b"\xff.pt"), "a name that is no UTF-8 and is not there"),
    ("", "no name"),
    (".", "the folder itself"),
    ("x" * 300, "a name of 300 bytes"),
    ("dense.pt/", "a file with a slash"),
    ("dense.pt/x", "below a file"),
)
READERS = (
    ("inspect {}", ()),
    ("prune {} --ratio 0.5 -o out.pt", ()),
    ("load {}", ()),
    ("verify {} --against dense.pt", ()),
    ("verify slim.pt --against {}", ()),
    ("prune dense.pt --ratio 0.5 --criterion taylor --data npz:{} -o out.pt", ()),
    ("prune dense.pt --ratio 0.5 --criterion taylor --data imagefolder:{} -o out.pt", ()),
    ("prune dense.pt --ratio 0.5 --criterion taylor --data cifar10:{} -o out.pt", ()),
    ("inspect dense.pt --arch {}:make_model", ()),
    ("inspect dense.pt --example {}:make_inputs", ()),
    ("prune dense.pt --ratio 0.5 --init {} -o out.pt", ()),
)


def _around(folder: Path) -> None:
    """Everything that a source may be."""
    os.mkfifo(folder / "fifo")
    _socket(folder)
    (folder / "folder").mkdir()
    (folder / "loop.pt").symlink_to("loop.pt")
    _zeros(folder)


@family("paths")
def odd_sources(random: Random) -> Iterator[Fault]:
    for name, what in SOURCES:
        for text, _ in random.sample(READERS, 3):
            words = tuple(word.replace("{}", name) for word in command(text))
            yield Fault(
                name=f"reads {what}",
                command=words,
                needs=("dense.pt", "slim.pt"),
                plant=_around,
                allows=SAFE if name == "dense.pt/" else REFUSED,  # to Python, the file itself
            )


NAMES = (
    *("a b.pt", "a\nb.pt", "\x1b[2J.pt", "-x.pt", "[bold]x[/bold].pt", "ü.pt", "x" * 200 + ".pt"),
    *(os.fsdecode(b"\xff\xfe.pt"), "a:b.pt", "%s{0}.pt", "x.PT", "x.pt.pt", "x", "'\"`.pt"),
)


def _called(name: str) -> Callable[[Path], None]:
    return lambda folder: _renamed(folder, name)


def _renamed(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "dense.pt").rename(folder / name)


@family("paths")
def odd_names_of_sources(random: Random) -> Iterator[Fault]:
    """A good file under an odd name is read as any other."""
    ways = ("inspect", "prune --ratio 0.5 -o out.pt", "export --onnx out.onnx --no-latency")
    for name in NAMES:
        way = command(random.choice(ways))
        first = ("--", f"./{name}") if name.startswith("-") else (name,)
        export = way[0] == "export"
        words = (way[0], name, "out.onnx", "--onnx", "--no-latency") if export else ()
        yield Fault(
            name=f"the network's file is called {name!r:.40}",
            command=words or (way[0], *way[1:], *first),
            needs=("dense.pt",),
            plant=_called(name),
            allows=SAFE if name.startswith("-") else DONE,
        )
