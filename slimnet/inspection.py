"""What a network is made of: what hangs together, what can be cut, what it costs.

Takes a network and its recorded passes, gives an :class:`Analysis`: everything that planning a cut
reads. Of it, :class:`Inspection` is what a person looks at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slimnet.blocks.blocks import Block, blocks_line, find_blocks
from slimnet.capture.trace import Trace
from slimnet.costs.cost import Cost, CostModel
from slimnet.coupling.couple import Coupling, Pin, couple
from slimnet.coupling.groups import Group, LayerReport, find_groups
from slimnet.coupling.survival import Survival
from slimnet.example import is_read
from slimnet.network import Network


@dataclass(frozen=True)
class Output:
    """One tensor that a network gives: where it lies, and whether somebody reads it."""

    name: str  # "boxes.0"; "" of the only one
    shape: tuple[int, ...]
    read: bool = True

    def __str__(self) -> str:
        return f"{self.name} [{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Inspection:
    """What hangs together in a network, what can be cut, and for each layer that cannot: why."""

    groups: tuple[Group, ...]
    layers: tuple[LayerReport, ...]
    cost: Cost
    notes: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    outputs: tuple[Output, ...] = ()

    def __str__(self) -> str:
        lines = [_layer_line(layer) for layer in self.layers]
        channels = sum(group.width for group in self.groups)
        lines += [_statistics_line(group) for group in self.groups if group.approximate]
        number = len(self.groups)
        lines.append(f"{number} group{'s' * (number != 1)}, {channels} prunable channels")
        rest = (*blocks_line(self.blocks), *outputs_line(self.outputs), *self.notes)
        return "\n".join([*lines, *rest])

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        groups = [
            {
                "number": group.number,
                "channels": group.width,
                "channels_at_a_time": group.channels_per_atom,
                "layers": group.layers,
                "approximate": [str(reason) for reason in group.approximate],
            }
            for group in self.groups
        ]
        layers = [asdict(layer) for layer in self.layers]
        blocks = [
            {"name": b.name, "modules": b.modules, "last": b.last, "stays": b.stays}
            for b in self.blocks
        ]
        return {
            "cost": self.cost.to_json(),
            "layers": layers,
            "groups": groups,
            "blocks": blocks,
            "outputs": [asdict(output) for output in self.outputs],
        }


def outputs_line(outputs: Sequence[Output]) -> Iterator[str]:
    """The outputs by their names, where there are several; those that nobody reads apart."""
    if len(outputs) > 1:
        yield f"outputs: {_few(x for x in outputs if x.read)}"
    if not all(x.read for x in outputs):
        yield f"not read, and may change: {_few(x for x in outputs if not x.read)}"


def _few(outputs: Iterable[Output], number: int = 8) -> str:
    texts = list(map(str, outputs))
    more = f" and {len(texts) - number} more" if len(texts) > number else ""
    return ", ".join(texts[:number]) + more


def _layer_line(layer: LayerReport) -> str:
    head = f"{layer.name} ({layer.kind}, {layer.channels} channels): {layer.prunable} prunable"
    if layer.prunable:
        head += f" in group {', '.join(map(str, layer.groups))}"
    return head + "".join(f"\n    because: {reason}" for reason in layer.reasons[:2])


def _statistics_line(group: Group) -> str:
    return f"group {group.number} is approximate\n    because: {group.approximate[0]}"


@dataclass(frozen=True, eq=False)
class Analysis:
    """What planning a cut reads."""

    traces: Sequence[Trace]
    coupling: Coupling
    groups: list[Group]
    layers: list[LayerReport]
    costs: CostModel
    inspection: Inspection


def analyse(
    network: Network,
    traces: Sequence[Trace],
    pins: Sequence[Pin],
    *,
    strict: bool = False,
    heads: bool = False,
    least: int | None = None,
) -> Analysis:
    """Read recorded passes: couple, group, count.

    Narrow groups are left alone, unless ``least`` channels are all that a group has to keep.
    """
    coupling = couple(traces, strict=strict, pins=pins, heads=heads)
    blocks = find_blocks(network, traces[0])
    costs = CostModel(network, traces[0], coupling)
    groups, layers = find_groups(network, coupling, least)
    dense = costs.cost(Survival.without(coupling.atoms))
    outputs = tuple(_outputs(traces[0]))
    inspection = Inspection(tuple(groups), tuple(layers), dense, blocks=blocks, outputs=outputs)
    return Analysis(traces, coupling, groups, layers, costs, inspection)


def _outputs(trace: Trace) -> Iterator[Output]:
    for name, ref in zip(trace.names, trace.outputs, strict=True):
        yield Output(name, ref.shape, is_read(name, trace.wanted))
