"""Tell an architecture by the names and shapes of its state dict.

A fingerprint is made once per architecture (scripts/index_architectures.py) and kept in
architectures.json. Axes whose length an option sets (the classes of the head, the channels of
the stem) are wild: they match any length, and give the option's value back. A bottom-k sketch
(Broder 1997) estimates how close two architectures come without storing all their names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Axis = tuple[str, int, int]  # (tensor, axis, its length per unit of the option)

SKETCH = 64  # hashes kept: the estimate's standard error is at most 1 / (2 * sqrt(64)) = 6 %
WIDTH = 6  # hexadecimal digits per hash


@dataclass(frozen=True)
class Freedom:
    """An option that sets the length of some axes, such as four coordinates per class."""

    default: int
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class Fingerprint:
    """What is known of one architecture's state dict."""

    arch: str
    options: Mapping[str, Any]
    names: str
    shapes: str
    freedoms: Mapping[str, Freedom] = field(default_factory=dict)
    sketch: tuple[str, ...] = ()

    def read(self, shapes: Shapes) -> dict[str, int]:
        """Return the options, of those that set an axis, which differ from their defaults.

        An option whose axes are missing or disagree is left out.
        """
        values = {option: _value(shapes, freedom.axes) for option, freedom in self.freedoms.items()}
        return {
            option: size
            for option, size in values.items()
            if size not in (None, self.freedoms[option].default)
        }

    def fits(self, shapes: Shapes) -> bool:
        """Whether shapes whose names are this architecture's have its lengths, too."""
        agree = all(_value(shapes, freedom.axes) for freedom in self.freedoms.values())
        return agree and self.shapes == _digest_shapes(shapes, self.freedoms)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, dicts, strings and numbers."""
        freedoms = {name: [f.default, f.axes] for name, f in self.freedoms.items()}
        return {
            "arch": self.arch,
            "options": dict(self.options),
            "names": self.names,
            "shapes": self.shapes,
            "freedoms": freedoms,
            "sketch": "".join(self.sketch),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Fingerprint:
        """Read what ``to_json`` gave."""
        text = row["sketch"]
        return cls(
            arch=row["arch"],
            options=row["options"],
            names=row["names"],
            shapes=row["shapes"],
            freedoms={
                name: Freedom(default, tuple((tensor, axis, per) for tensor, axis, per in axes))
                for name, (default, axes) in row["freedoms"].items()
            },
            sketch=tuple(text[i : i + WIDTH] for i in range(0, len(text), WIDTH)),
        )


def matching(rows: Iterable[Fingerprint], shapes: Shapes) -> list[Fingerprint]:
    """Return the fingerprints that a state dict with these names and shapes matches."""
    names = digest_names(shapes)
    return [row for row in rows if row.names == names and row.fits(shapes)]


def fingerprint(
    arch: str, options: Mapping[str, Any], shapes: Shapes, freedoms: Mapping[str, Freedom]
) -> Fingerprint:
    """Take the fingerprint of an architecture whose state dict has these shapes."""
    return Fingerprint(
        arch=arch,
        options=options,
        names=digest_names(shapes),
        shapes=_digest_shapes(shapes, freedoms),
        freedoms=freedoms,
        sketch=sketch(shapes),
    )


def freedom(values: tuple[int, int], shapes: Shapes, changed: Shapes) -> Freedom:
    """Find the axes that an option sets from two state dicts, built with these values of it.

    Raises KeyError or ValueError where the option changes more than lengths.
    """
    default, other = values
    axes = (
        (name, axis, (length - size) // (other - default))
        for name, shape in sorted(shapes.items())
        for axis, (size, length) in enumerate(zip(shape, changed[name], strict=True))
        if size != length
    )
    return Freedom(default, tuple(axes))


def digest_names(shapes: Shapes) -> str:
    """Digest the tensors' names; batch norms' counters do not count, old files lack them."""
    return _digest(_counted(shapes))


def sketch(shapes: Shapes) -> tuple[str, ...]:
    """Keep the smallest hashes of all names and of all names with their shapes."""
    names = _counted(shapes)
    items = {*names, *(f"{name} {shapes[name]}" for name in names)}
    return tuple(sorted(_digest([item])[:WIDTH] for item in items)[:SKETCH])


def similarity(a: Iterable[str], b: Iterable[str]) -> float:
    """Estimate the share of names and shapes that two sketches have in common, 0 to 1."""
    a, b = set(a), set(b)
    smallest = set(sorted(a | b)[:SKETCH])
    return len(smallest & a & b) / max(1, len(smallest))


def _counted(shapes: Shapes) -> list[str]:
    return sorted(name for name in shapes if not name.endswith("num_batches_tracked"))


def _digest(items: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(items).encode(), digest_size=8).hexdigest()


def _digest_shapes(shapes: Shapes, freedoms: Mapping[str, Freedom]) -> str:
    wild = {(name, axis) for freedom in freedoms.values() for name, axis, _ in freedom.axes}
    return _digest(
        " ".join([name, *("*" if (name, i) in wild else str(n) for i, n in enumerate(shape))])
        for name, shape in ((name, shapes[name]) for name in _counted(shapes))
    )


def _value(shapes: Shapes, axes: Iterable[Axis]) -> int | None:
    """The option's value that all these axes have; None where one is missing or they disagree."""
    found = {_divided(shapes.get(name, ()), axis, per) for name, axis, per in axes}
    return found.pop() if len(found) == 1 else None


def _divided(shape: Shape, axis: int, per: int) -> int | None:
    if axis >= len(shape) or shape[axis] == 0 or shape[axis] % per:
        return None
    return shape[axis] // per
