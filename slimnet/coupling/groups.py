"""Groups: atoms that occupy the same axes of the same parameters.

Takes a :class:`~slimnet.coupling.couple.Coupling`, gives what can be cut: for each group its atoms
(the smallest things that can be removed) and, for every parameter axis it occupies, which positions
belong to which atom. Also why each layer that cannot be cut cannot. Linear in the number of slots.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from slimnet.coupling.constraints import Reason, Statistic
from slimnet.coupling.couple import Coupling
from slimnet.coupling.labels import Flags, Labels
from slimnet.coupling.removal import COLUMNS
from slimnet.network import Held, Network

NARROW = 8
"""Groups of fewer channels are left alone, unless a lower minimum (``min_channels``) is asked for:
three colours or four box coordinates could be cut exactly, but are hardly ever to be."""

NARROW_SQUEEZE = 4
"""The same for the squeeze of squeeze-and-excitation, which is narrow in early blocks: channels
that a convolution makes of one single position are neither colours nor boxes."""


@dataclass(frozen=True, eq=False)
class ParameterAxis:
    """The part of one parameter's axis that a group occupies."""

    name: str  # of the parameter or buffer
    dim: int
    role: str  # out | in | scale | vector | buffer
    positions: Labels  # [k] indices along the axis
    members: Labels  # [k] which atom of the group each position belongs to
    groups: int = 1  # across which positions count, where each loses other ones (see removal)


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that leave together, atom by atom."""

    number: int
    atoms: Labels  # [atoms] as numbered by the coupling
    axes: tuple[ParameterAxis, ...]
    channels: Labels  # [atoms]: of the widest layer that makes them
    layers: tuple[str, ...]  # whose output channels these are
    approximate: tuple[Reason, ...]  # empty: removal equals zeroing exactly
    step: int = 1  # atoms that leave together, whichever they are: code divides their number

    @property
    def size(self) -> int:
        """The number of atoms."""
        return len(self.atoms)

    @property
    def width(self) -> int:
        """Channels of the widest layer that makes them."""
        return int(self.channels.sum())

    @property
    def channels_per_atom(self) -> int:
        """Channels of the widest layer that leave with each atom; where they differ, about."""
        return max(self.width // self.size, 1)

    @property
    def is_even(self) -> bool:
        """Whether as many channels leave with each atom."""
        return bool((self.channels == self.channels[0]).all())

    @property
    def at_a_time(self) -> str:
        """How many channels leave with an atom: "1", "9", "6 to 9"."""
        most = max(int(self.channels.max()), 1)
        return str(most) if self.is_even else f"{self.channels.min()} to {most}"

    def channels_of(self, atoms: float) -> int:
        """Channels that so many atoms have, where they differ on average."""
        return round(self.width * atoms / self.size)


@dataclass(frozen=True)
class LayerReport:
    """What can be done with the output channels of one layer, and if nothing, why."""

    name: str
    kind: str
    channels: int
    prunable: int
    reasons: tuple[str, ...]
    groups: tuple[int, ...]


def find_groups(
    network: Network, coupling: Coupling, least: int | None = None
) -> tuple[list[Group], list[LayerReport]]:
    """Everything that can be removed, and every layer with its reasons.

    Groups of fewer channels than :data:`NARROW` are left alone, unless ``least``, what a group has
    to keep, asks for fewer.
    """
    owners = _owners(network)
    axes = [
        (name, d, coupling.atoms.of[labels])
        for name, weight in coupling.weights.items()
        for d, labels in enumerate(weight.axes)
        if labels is not None
    ]
    of_atom = _cluster(coupling, axes, owners)
    occupied, members = _occupied(coupling, axes, of_atom, owners)
    approximate = _approximate(coupling, of_atom)
    steps = _steps(coupling, of_atom)
    groups = [
        replace(_group(number, np.asarray(atoms), occupied[number], approximate[number]), step=step)
        for number, atoms in sorted(members.items())
        for step in (steps.get(number, 1),)
    ]
    squeezed = _squeezed(coupling, of_atom)
    narrow = {True: NARROW_SQUEEZE, False: NARROW}
    if least is not None:
        narrow = {squeeze: min(width, least) for squeeze, width in narrow.items()}
    wide = [g for g in groups if g.width >= narrow[g.number in squeezed]]
    kept = [group for group in wide if group.size > 1]
    whole = {group.number for group in wide if group.size == 1}
    is_kept = np.zeros(len(groups) + 1, bool)
    is_kept[[g.number for g in kept]] = True
    reporter = _LayerReporter(coupling, of_atom, is_kept, whole)
    return kept, _layers(network, axes, owners, reporter)


def _steps(coupling: Coupling, of_atom: Labels) -> dict[int, int]:
    """Per group: how many of its atoms must leave at once, for code that divides their number."""
    steps: dict[int, int] = {}
    for multiple in coupling.multiples:
        for number in np.unique(of_atom[multiple.atoms]).tolist():
            steps[number] = lcm(steps.get(number, 1), multiple.step)
    return steps


def _squeezed(coupling: Coupling, of_atom: Labels) -> set[int]:
    """Groups whose channels have one single position."""
    numbers: set[int] = set()
    for labels in coupling.squeezed:
        numbers.update(np.unique(of_atom[coupling.atoms.of[labels]]).tolist())
    return numbers


@dataclass(frozen=True)
class _Owner:
    module: str
    kind: str
    roles: tuple[str, ...]  # per axis
    gates: int = 1  # rows of the parameter that make one channel


def _owners(network: Network) -> dict[str, _Owner]:
    """For every parameter and buffer: its module and what each of its axes is."""
    buffers = {
        f"{path}.{name}".lstrip(".")
        for path, module in network.modules.items()
        for name in vars(module)["_buffers"]
    }
    owners: dict[str, _Owner] = {}
    for name, owner in network.owners.items():
        module, leaf, tensor = owner.module, owner.leaf, network.tensors[name]
        roles = ("buffer",) * tensor.dim() if name in buffers else _roles(module, leaf, tensor)
        owners[name] = _Owner(owner.path, owner.kind, roles, _gates(module, leaf, tensor))
    return owners


def _gates(module: nn.Module, leaf: str, tensor: Tensor) -> int:
    """A recurrent layer has a row in each gate for every unit; its projection has one."""
    gated = leaf.startswith(("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    units = _units(module) if gated else None
    return max(int(tensor.shape[0]) // units, 1) if units else 1


def _units(module: nn.Module) -> int | None:
    """The hidden size of a recurrent layer, also of one whose class is not known."""
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return module.hidden_size
    if not isinstance(module, Held):
        return None
    columns = {
        name[:9]: tensor.shape[1]
        for name, tensor in vars(module)["_parameters"].items()
        if name.startswith(("weight_hr", "weight_hh"))
    }
    return columns.get("weight_hr", columns.get("weight_hh"))


def _roles(module: nn.Module, leaf: str, tensor: Tensor) -> tuple[str, ...]:
    dims = tensor.dim()
    stated = module.roles.get(leaf) if isinstance(module, Held) else None
    if dims >= 2 and tensor.shape[0] > 1:
        columns = (_ConvTransposeNd, nn.Embedding, nn.EmbeddingBag)
        turned = isinstance(module, columns) or stated == "transposed"
        return (*(("in", "out") if turned else ("out", "in")), *("kernel",) * (dims - 2))
    if stated == "scale" or (isinstance(module, _NormBase) and leaf == "weight"):
        return ("scale",)
    if dims >= 2 and (stated == "weight" or isinstance(module, (_ConvNd, nn.Linear))):
        return ("out", "in", *("kernel",) * (dims - 2))
    return ("vector",) * dims


def _cluster(
    coupling: Coupling, axes: Sequence[tuple[str, int, Labels]], owners: Mapping[str, _Owner]
) -> Labels:
    """[atoms]: the group of every atom, -1 for pinned ones and those of no parameter.

    Atoms that occupy the same set of axes get the same sum of random numbers, one for each axis.
    """
    free = coupling.atoms.free
    codes = np.random.default_rng(0).integers(1, 2**63, size=len(axes), dtype=np.uint64)
    total = np.zeros(len(free), np.uint64)
    in_parameter = np.zeros(len(free), bool)
    for (name, d, atoms), code in zip(axes, codes, strict=True):
        total[atoms] += code  # once for each atom, however often it is there
        if owners[name].roles[d] != "buffer":
            in_parameter[atoms] = True
    total[~(free & in_parameter)] = 0
    _, first, group = np.unique(total, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(np.where(total[first] == 0, -1, first)))
    numbered: Labels = order[group].astype(np.int64)
    return numbered - 1 if (total == 0).any() else numbered


def _occupied(
    coupling: Coupling,
    axes: Sequence[tuple[str, int, Labels]],
    of_atom: Labels,
    owners: Mapping[str, _Owner],
) -> tuple[dict[int, list[tuple[ParameterAxis, _Owner]]], dict[int, Labels]]:
    """Per group: the parts of axes that it occupies, and its atoms."""
    ordered = np.argsort(of_atom, kind="stable")
    numbers, starts = np.unique(of_atom[ordered], return_index=True)
    parts = np.split(ordered, starts[1:])
    members = {int(n): part for n, part in zip(numbers, parts, strict=True) if n >= 0}
    rank = np.zeros(len(of_atom), np.int64)
    for atoms in members.values():
        rank[atoms] = np.arange(len(atoms))
    occupied: dict[int, list[tuple[ParameterAxis, _Owner]]] = defaultdict(list)
    for name, d, atoms in axes:
        groups = of_atom[atoms]
        owner = owners[name]
        for number, positions in _places(groups):
            if number >= 0:
                across = coupling.apart.get(name, 1) if d == COLUMNS else 1
                axis = ParameterAxis(
                    name, d, owner.roles[d], positions, rank[atoms[positions]], across
                )
                occupied[number].append((axis, owner))
    return occupied, members


def _places(groups: Labels) -> Iterator[tuple[int, Labels]]:
    """Where along an axis each group is; nearly always one group fills it."""
    if len(groups) and (groups == groups[0]).all():
        yield int(groups[0]), np.arange(len(groups))
        return
    for number in np.unique(groups):
        yield int(number), np.flatnonzero(groups == number)


def _approximate(coupling: Coupling, of_atom: Labels) -> dict[int, tuple[Reason, ...]]:
    """Per group: the statistics that its removal changes."""
    reasons: dict[int, dict[Reason, None]] = defaultdict(dict)
    for statistic in coupling.statistics:
        for number in np.unique(of_atom[coupling.atoms.of[statistic.axis]]):
            reasons[int(number)][statistic.reason] = None
    return defaultdict(tuple, {number: tuple(each) for number, each in reasons.items()})


def _group(
    number: int,
    atoms: Labels,
    owned: list[tuple[ParameterAxis, _Owner]],
    approximate: tuple[Reason, ...],
) -> Group:
    makers = [(axis, owner) for axis, owner in owned if axis.role == "out"] or [
        (axis, owner) for axis, owner in owned if axis.role in ("scale", "vector")
    ]
    widest, owner = max(makers or owned, key=lambda made: len(made[0].positions) // made[1].gates)
    channels = np.bincount(widest.members, minlength=len(atoms)) // owner.gates
    layers = tuple(dict.fromkeys(owner.module or axis.name for axis, owner in makers))
    return Group(number, atoms, tuple(axis for axis, _ in owned), channels, layers, approximate)


@dataclass(frozen=True, eq=False)
class _LayerReporter:
    """Reports what can be done with a layer, and why not more."""

    coupling: Coupling
    of_atom: Labels  # [atoms]: the group of each
    is_kept: Flags  # [groups + 1]: prunable; the last is "none"
    whole: set[int]  # groups that are one single atom

    def report(self, name: str, owner: _Owner, atoms: Labels) -> LayerReport:
        """How many channels of a layer may go, and what keeps the others."""
        groups = self.of_atom[atoms]
        prunable = self.is_kept[groups]
        numbers = tuple(int(n) for n in np.unique(groups[prunable]))
        stays = atoms[~prunable]
        reasons = [str(reason) for reason in self.coupling.reasons_of(stays)]
        for number in np.unique(groups[~prunable]):
            if number >= 0:
                reasons.append(self._small(int(number)))
        channels, free = len(atoms) // owner.gates, int(prunable.sum()) // owner.gates
        return LayerReport(name, owner.kind, channels, free, tuple(dict.fromkeys(reasons)), numbers)

    def _small(self, group: int) -> str:
        if group in self.whole:
            return _divided(
                self._dividing(group, self.coupling.balanced),
                self._dividing(group, self.coupling.counted),
            )
        return f"fewer than {NARROW} channels hang together there: {_LEFT_ALONE}"

    def _dividing(self, group: int, calls: Sequence[Statistic]) -> list[Reason]:
        return list(dict.fromkeys(s.reason for s in calls if self._has(group, s.axis)))

    def _has(self, group: int, axis: Labels) -> bool:
        return bool((self.of_atom[self.coupling.atoms.of[axis]] == group).any())


def _divided(places: Sequence[Reason], numbers: Sequence[Reason]) -> str:
    """Why channels are one set: calls that take the same places, or number, from each block."""
    if len(places) + len(numbers) < 2:
        return "all its channels hang together: they could only leave at once"
    if places and numbers:
        (first, *_), (second, *_) = places, numbers
        what = (
            "the same places of the one and the same number of the other have to leave every block"
        )
    else:
        first, second, *_ = places or numbers
        what = f"the same {'places have' if places else 'number has'} to leave every block of both"
    return f"{first}, and {second}: {what}, which only all of them do"


_LEFT_ALONE = "left alone, unless a lower minimum is asked for (--min-channels 1)"


def _layers(
    network: Network,
    axes: Sequence[tuple[str, int, Labels]],
    owners: Mapping[str, _Owner],
    reporter: _LayerReporter,
) -> list[LayerReport]:
    """A report of every layer that makes channels."""
    seen = {(name, d): atoms for name, d, atoms in axes}
    reports = []
    for name, tensor in network.tensors.items():
        owner = owners[name]
        if "out" not in owner.roles:
            continue
        d = owner.roles.index("out")
        atoms = seen.get((network.first[name], d))
        label = owner.module or name
        if atoms is None:
            why = ("it was never used while the example ran through the network",)
            channels = tensor.shape[d] // owner.gates
            reports.append(LayerReport(label, owner.kind, channels, 0, why, ()))
        else:
            reports.append(reporter.report(label, owner, atoms))
    return list(dict.fromkeys(reports))  # the weights of a recurrent layer say the same
