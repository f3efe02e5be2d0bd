"""Damaged files: the end is missing, or a bit has turned over.

Where a format has checksums, or slimnet wrote the file, only a refusal or the very same numbers
will do. Python sources, safetensors and torch's old format have none: there it is enough that
nothing breaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from faultlab.fault import DAMAGED, SAFE, SAME, End, Fault, command, family
from faultlab.planting import ZIP_PARTS, flip_anywhere, flip_in_zip, truncate
from faultlab.shelf import COMPARE, EXPORT, OWN, PRUNE, SPARSIFY, VERIFY


@dataclass(frozen=True)
class Met:
    """A file, and a command that meets it."""

    file: str
    command: str
    needs: tuple[str, ...] = ()
    allows: frozenset[End] = DAMAGED
    keeps: tuple[str, ...] = ()

    def fault(self, name: str, plant: partial[str]) -> Fault:
        """The file damaged, the others whole."""
        return Fault(
            name=f"{self.file}: {name}",
            command=command(self.command),
            needs=(self.file.split("/")[0], *self.needs),
            plant=lambda folder: plant(self._path(folder)),
            allows=self.allows,
            keeps=self.keeps,
        )

    def _path(self, folder: Path) -> Path:
        """A star stands for the first that fits."""
        return min(folder.glob(self.file))


OTHERS = (
    Met("dense.pt", "load dense.pt"),
    Met("dense.pt", f"{PRUNE} -o slim.pt"),
    Met("program.pt2", "load program.pt2"),
    Met("program.pt2", "prune program.pt2 --ratio 0.5 -o slim.pt2"),
    Met("old.pt2", "load old.pt2"),
    Met("data.npz", "load data.npz"),
    Met("data.npz", f"{PRUNE} --criterion taylor --data npz:data.npz -o s.pt", ("dense.pt",)),
)
"""Files of others whose archives hold checksums."""
OURS = (
    Met("slim.pt", "load slim.pt"),
    Met("slim.pt", "verify slim.pt --against dense.pt", ("dense.pt",)),
    Met("slim.pt", EXPORT),
    Met("slimown.pt", "load slimown.pt"),
    Met("slimown.pt", "load slimown.pt net.py:make_model", ("net.py",)),
    Met("repaired.pt", "load repaired.pt"),
    Met("slim.pt2", "load slim.pt2"),
    Met("slim.pt2", VERIFY, ("own.pt", "net.py")),
)
"""Files that slimnet writes and reads again."""
STATES = (
    Met("sparse.pt.training", SPARSIFY, ("dense.pt", "data.npz"), SAME, ("sparse.pt.training*",)),
    Met("study/cells/*.json", COMPARE, ("dense.pt", "data.npz"), SAME),
    Met("study/results.json", COMPARE, ("dense.pt", "data.npz"), SAME),
    Met("study/report.html", COMPARE, ("dense.pt", "data.npz"), SAME),
)
"""Where a run that was stopped goes on: it must get to its end, and to the same end."""
UNCHECKED = (
    Met("legacy.pt", "load legacy.pt", allows=SAFE),
    Met("dense.safetensors", "load dense.safetensors", allows=SAFE),
    Met("net.py", f"inspect own.pt {OWN}", ("own.pt",), SAFE),
    Met("slim.onnx", "inspect slim.onnx", allows=SAFE),
)
"""Formats without a checksum."""

SHARES = (0.0, 0.001, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.999, 1.0)
"""From nothing at all to all but the last byte."""


def _truncated(rows: tuple[Met, ...], random: Random, each: int) -> Iterator[Fault]:
    for row in rows:
        for share in sorted(random.sample(SHARES, each)):
            yield row.fault(f"cut off at {share:.1%}", partial(truncate, share=share))


@family("truncation")
def cut_others(random: Random) -> Iterator[Fault]:
    yield from _truncated(OTHERS, random, 6)


@family("truncation")
def cut_ours(random: Random) -> Iterator[Fault]:
    yield from _truncated(OURS, random, 6)


@family("truncation")
def cut_states(random: Random) -> Iterator[Fault]:
    yield from _truncated(STATES, random, 4)


@family("truncation")
def cut_unchecked(random: Random) -> Iterator[Fault]:
    yield from _truncated(UNCHECKED, random, 6)


def _flipped(rows: tuple[Met, ...], random: Random, each: int) -> Iterator[Fault]:
    """In zip archives every part gets its share; most of a file is tensors otherwise."""
    for row in rows:
        for number in range(each):
            part = ZIP_PARTS[number % len(ZIP_PARTS)] if number % 3 else "content"
            seed = Random(random.random())
            yield row.fault(f"bit {number}, {part}", partial(flip_in_zip, random=seed, part=part))


@family("flips")
def flips_in_others(random: Random) -> Iterator[Fault]:
    yield from _flipped(OTHERS, random, 8)


@family("flips")
def flips_in_ours(random: Random) -> Iterator[Fault]:
    yield from _flipped(OURS, random, 10)


@family("flips")
def flips_in_states(random: Random) -> Iterator[Fault]:
    training, *texts = STATES
    yield from _flipped((training,), random, 8)
    yield from _flipped_anywhere(tuple(texts), random, 6)


@family("flips")
def flips_in_unchecked(random: Random) -> Iterator[Fault]:
    yield from _flipped_anywhere(UNCHECKED, random, 8)


def _flipped_anywhere(rows: tuple[Met, ...], random: Random, each: int) -> Iterator[Fault]:
    """Half of them where a format begins: names, shapes and offsets stand there."""
    for row in rows:
        for number in range(each):
            stop = 0.01 if number % 2 else 1.0
            seed = Random(random.random())
            yield row.fault(f"bit {number}", partial(flip_anywhere, random=seed, stop=stop))
