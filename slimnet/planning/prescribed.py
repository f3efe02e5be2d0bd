"""Widths that a user names: how many channels a layer keeps, or which.

Takes names as they were typed (``conv1``, ``layer2.*``, or a part of a layer, ``conv1:0-15``) and
the groups of a network; gives for each group that is meant how many of its atoms stay, and which
leave where that was said, too. No alignment and no guard moves such a width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np

from slimnet.coupling.groups import Group, LayerReport, ParameterAxis
from slimnet.coupling.labels import Labels
from slimnet.errors import InputError
from slimnet.planning.request import Keep
from slimnet.ranges import parse_indices, written


@dataclass(frozen=True)
class Prescribed:
    """What names prescribe, by the numbers of groups."""

    atoms: Mapping[int, int] = field(default_factory=dict)  # how many stay
    gone: Mapping[int, Labels] = field(default_factory=dict)  # which leave, where that was said


def prescribed(
    widths: Mapping[str, Keep], groups: Sequence[Group], layers: Sequence[LayerReport]
) -> Prescribed:
    """The last word on a group counts.

    Raises :class:`InputError` for a name that no layer has, for a layer that cannot lose channels,
    for channels that it does not have, and for those that cannot leave without others.
    """
    atoms: dict[int, int] = {}
    gone: dict[int, Labels] = {}
    for name, keep in widths.items():
        parts = list(_parts(name, groups))
        if not parts:
            raise InputError(_why_none(name, layers))
        if isinstance(keep, int):
            _refuse_several(name, parts)
        else:
            _refuse_strange(name, keep, parts, layers)
        for part in parts:
            number = part.group.number
            gone.pop(number, None)
            if isinstance(keep, int):
                atoms[number] = part.count(keep)
            else:
                gone[number] = part.without(keep)
                atoms[number] = part.group.size - len(gone[number])
    return Prescribed(atoms, gone)


@dataclass(frozen=True, eq=False)
class Part:
    """The channels that a layer has in one group."""

    layer: str
    group: Group
    axis: ParameterAxis

    @property
    def channels(self) -> tuple[int, ...]:
        """Their numbers in the layer."""
        return tuple(self.axis.positions.tolist())

    def checked(self, stated: Sequence[int] | None) -> Part:
        """The same; raises unless these channels, if any are stated, are all of the part."""
        if stated is None or self.channels == tuple(stated):
            return self
        raise InputError(
            f"channels {written(stated)} of {self.layer} are no group by themselves: name all of "
            f"{self.layer}:{written(self.channels)}"
        )

    def count(self, width: int) -> int:
        """How many atoms have so many channels; raises where no number of them has."""
        group = self.group
        atoms, rest = divmod(width, group.channels_per_atom)
        fits = group.is_even and not rest and not (group.size - atoms) % group.step
        if fits and 1 <= atoms <= group.size:
            return atoms
        step = group.channels_per_atom * group.step
        if not group.is_even:
            why = f"{group.at_a_time} of them leave at a time: name those that stay"
        else:
            why = f"it has {group.width}" + (f", and {step} leave at a time" if step > 1 else "")
        raise InputError(f"{self.layer} cannot keep {width} channels: {why}")

    def without(self, keep: Sequence[int]) -> Labels:
        """The atoms that leave where of this part only these channels stay."""
        stays = np.isin(self.axis.positions, keep)
        kept = np.bincount(self.axis.members, stays, minlength=self.group.size)
        split = (kept > 0) & (kept < np.bincount(self.axis.members, minlength=self.group.size))
        if split.any():
            together = self.axis.positions[self.axis.members == np.flatnonzero(split)[0]]
            raise InputError(
                f"channels {written(together.tolist())} of {self.layer} leave together: keep all "
                "of them, or none"
            )
        gone: Labels = np.flatnonzero(kept == 0)
        if len(gone) == self.group.size:
            raise InputError(f"{self.layer} would keep none of its channels: name one at least")
        if len(gone) % self.group.step:
            raise InputError(
                f"{self.layer} would lose {len(gone)} channels, and its code takes "
                f"{self.group.step} at a time"
            )
        return gone


def part_of(group: Group, layer: str) -> Part | None:
    """Where the channels of a layer lie that are in this group."""
    axes = [x for x in group.axes if x.role == "out" and _is_of(x.name, layer)]
    if not axes:
        axes = [x for x in group.axes if x.role in ("scale", "vector") and _is_of(x.name, layer)]
    widest = max(axes, key=lambda axis: len(axis.positions), default=None)
    return None if widest is None else Part(layer, group, widest)


def _is_of(parameter: str, layer: str) -> bool:
    return parameter == layer or parameter.rpartition(".")[0] == layer


def _parts(name: str, groups: Sequence[Group]) -> Iterator[Part]:
    """Every part of every layer of this name; of a part that is stated, that one."""
    glob, _, stated = name.partition(":")
    channels = parse_indices(stated) if stated else None
    for group in groups:
        for layer in group.layers:
            part = part_of(group, layer) if fnmatchcase(layer, glob) else None
            if part is not None and (channels is None or np.isin(part.channels, channels).any()):
                yield part.checked(channels)


def _refuse_several(name: str, parts: Sequence[Part]) -> None:
    """One number for channels of several groups says nothing of either."""
    for layer in dict.fromkeys(part.layer for part in parts):
        own = [part for part in parts if part.layer == layer]
        if len(own) > 1:
            places = ", ".join(written(part.channels) for part in own)
            raise InputError(
                f"the channels of {layer} belong to {len(own)} groups ({places}): say which you "
                f"mean, as in {layer}:{places.partition(', ')[0]}"
            )


def _refuse_strange(
    name: str, keep: Sequence[int], parts: Sequence[Part], layers: Sequence[LayerReport]
) -> None:
    """Channels that a layer, or the part that is stated, does not have."""
    widths = {layer.name: layer.channels for layer in layers}
    for part in parts:
        known = part.channels if ":" in name else range(widths.get(part.layer, max(keep) + 1))
        if strange := sorted(set(keep) - set(known)):
            where = name if ":" in name else part.layer
            raise InputError(f"{where} has no channels {written(strange)}: it has {written(known)}")


def _why_none(name: str, layers: Sequence[LayerReport]) -> str:
    glob = name.partition(":")[0]
    for layer in layers:
        if fnmatchcase(layer.name, glob):
            why = layer.reasons[0] if layer.reasons else "it has no such channels"
            return f"{name} can lose no channels: {why}"
    some = ", ".join(layer.name for layer in layers[:4])
    return f"no layer is called {glob!r}; layers are called {some}, …"
