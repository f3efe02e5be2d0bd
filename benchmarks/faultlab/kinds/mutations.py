"""Wrong types everywhere: one part of a nested value becomes something else.

The part is drawn from the root down, so that the few fields at the top come up as often as the
many numbers at the bottom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from faultlab.fault import SAFE, SAME, End, Fault, command, family
from faultlab.planting import change_file, change_json, change_payload, drawn_place, with_part
from faultlab.shelf import COMPARE, EXPORT, SPARSIFY, VERIFY

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**18, 1e308, float("nan"), "", "\x1b[2J\x1b]0;owned\x07", "../.."),
    *([], {}, [[]], {"a": 1}, [None] * 50, "x" * 100_000),
)


def mutate(tree: Any, random: Random) -> tuple[Any, str]:
    """The same with one part replaced, and where."""
    place = drawn_place(tree, random)
    value = random.choice(VALUES)
    where = "".join(f"[{key!r}]" for key in place)
    return with_part(tree, place, value), f"{where:.200} = {value!r:.40}"


Change = Callable[[Path, Callable[[Any], Any]], None]


@dataclass(frozen=True)
class Nested:
    """A file with a nested value in it, how that is changed, and who reads it."""

    file: str
    change: Change
    meets: tuple[str, ...]
    needs: tuple[str, ...] = ()
    allows: frozenset[End] = SAFE
    count: int = 10


def _member(ending: str) -> Change:
    return lambda path, change: change_json(path, ending, change)


def _part(*keys: str, damage: bool = False) -> Change:
    """One part of what torch.load gives: mutations of all of it would mostly hit tensors' names."""

    def change_part(path: Path, change: Callable[[Any], Any]) -> None:
        def all_of(payload: Any) -> Any:
            part = payload
            for key in keys:
                part = part[key]
            return with_part(payload, keys, change(part))

        change_payload(path, all_of, damage=damage)

    return change_part


_SLIM = ("load slim.pt", "inspect slim.pt", "verify slim.pt --against dense.pt", EXPORT)
_OWN = ("load slimown.pt", "export slimown.pt out.pt2 --pt2")
_PT2 = ("load program.pt2", "inspect program.pt2", "prune program.pt2 --ratio 0.5 -o out.pt2")
_AGAIN = ("load slim.pt2", VERIFY)

FILES: tuple[Nested, ...] = (
    Nested("slim.pt", change_payload, _SLIM, ("dense.pt",), count=40),
    Nested("slim.pt", _part("plan"), _SLIM, ("dense.pt",), count=24),
    Nested("slim.pt", _part("certificate"), _SLIM, ("dense.pt",), count=8),
    Nested("slim.pt", _part("arch"), _SLIM, ("dense.pt",), count=8),
    Nested("slimown.pt", _part("program"), _OWN, count=50),
    Nested("slimown.pt", _part("example"), _OWN, count=10),
    Nested("program.pt2", _member("models/model.json"), _PT2, count=50),
    Nested("program.pt2", _member("_weights_config.json"), _PT2, count=20),
    Nested("slim.pt2", _member("slimnet.json"), _AGAIN, ("own.pt", "net.py"), count=24),
    Nested("dense.pt", change_payload, ("load dense.pt", "inspect dense.pt"), count=12),
    Nested(
        "sparse.pt.training",
        _part("snapshot", damage=True),
        (SPARSIFY,),
        ("dense.pt", "data.npz"),
        SAME,
        count=16,
    ),
    Nested("study", change_file, (COMPARE,), ("dense.pt", "data.npz"), SAME, count=16),
)


@family("crafted")
def wrong_types(random: Random) -> Iterator[Fault]:
    for row in FILES:
        for number in range(row.count):
            seed = Random(random.random())
            met = random.choice(row.meets)
            yield Fault(
                name=f"{row.file}: something else in it, {number}",
                command=command(met),
                needs=(row.file, *row.needs),
                plant=lambda folder, row=row, seed=seed: _plant(folder, row, seed),
                allows=row.allows,
                keeps=("sparse.pt.training*",),
            )


def _plant(folder: Path, row: Nested, random: Random) -> str:
    told = []
    path = folder / row.file
    if path.is_dir():
        path = random.choice(sorted((path / "cells").iterdir()))

    def change(tree: Any) -> Any:
        changed, where = mutate(tree, random)
        told.append(where)
        return changed

    row.change(path, change)
    return told[0]
