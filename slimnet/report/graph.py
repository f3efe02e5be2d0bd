"""A network as a picture shows it: its layers and joins, what flows where, what hangs together.

Takes the model, a recorded pass and its :class:`~slimnet.inspection.Inspection`, gives a
:class:`Graph` of plain values. Every layer of the inspection is part of exactly one node; layers
that the pass never ran come last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slimnet.capture.trace import Trace
from slimnet.costs.cost import Cost
from slimnet.coupling.groups import Group, LayerReport
from slimnet.inspection import Inspection
from slimnet.network import Network
from slimnet.report.flow import Flow, Owners, Role, Step, read_flow


@dataclass(frozen=True)
class Node:
    """A layer with everything known about its output channels; a join; an input or the output.

    The groups of a join are those that flow into it.
    """

    role: Role
    name: str  # of the layer; of the module in which a join happens
    kind: str
    channels: int = 0
    prunable: int = 0
    groups: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()  # why channels stay
    approximate: tuple[str, ...] = ()  # why a cut would not be exact
    carries: tuple[str, ...] = ()  # norms and raw parameters that act on what it gives
    ran: bool = True

    @property
    def pinned(self) -> bool:
        """Whether no channel of a layer can leave."""
        return self.role == "layer" and self.prunable == 0


@dataclass(frozen=True)
class Bundle:
    """One group of the inspection, in terms of nodes."""

    number: int
    channels: int
    channels_at_a_time: int
    makers: tuple[int, ...]  # nodes whose output channels these are: they leave together
    readers: tuple[int, ...]  # nodes whose inputs shrink with them
    carried: tuple[str, ...]  # norms and raw parameters that shrink as well
    approximate: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """Nodes in the order in which they ran; edges go forward."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]
    bundles: Mapping[int, Bundle]
    cost: Cost

    def partners(self, node: int) -> tuple[int, ...]:
        """The other nodes that lose channels together with this one."""
        makers = {n for number in self.nodes[node].groups for n in self.bundles[number].makers}
        is_layer = self.nodes[node].role == "layer"
        return tuple(sorted(makers - {node})) if is_layer else ()

    def sources(self, node: int) -> tuple[int, ...]:
        """The nodes that it reads."""
        return tuple(a for a, b in self.edges if b == node)


def make_graph(network: Network, trace: Trace, inspection: Inspection) -> Graph:
    """Draw together what a pass recorded and what the inspection found."""
    owners = _owners(network)
    layers: dict[str, list[LayerReport]] = defaultdict(list)
    for layer in inspection.layers:
        layers[layer.name].append(layer)
    flow = read_flow(trace, owners, layers)
    approximate = {g.number: _texts(g.approximate) for g in inspection.groups}
    nodes = _nodes(flow, layers, approximate)
    names = {node.name: n for n, node in enumerate(nodes) if node.role == "layer"}
    bundles = {
        group.number: _bundle(group, nodes, names, owners, approximate[group.number])
        for group in inspection.groups
    }
    return Graph(tuple(nodes), flow.edges, bundles, inspection.cost)


def _owners(network: Network) -> Owners:
    """For the first name of every tensor: the modules that own it, raw ones at the root its name.

    A parametrised weight belongs to the module that it stands in.
    """
    owners: dict[str, dict[str, None]] = defaultdict(dict)
    for name, owner in network.owners.items():
        owners[network.first[name]][owner.path or name] = None
    return {name: tuple(paths) for name, paths in owners.items()}


def _texts(reasons: Sequence[object]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(str, reasons)))


def _nodes(
    flow: Flow,
    layers: Mapping[str, Sequence[LayerReport]],
    approximate: Mapping[int, tuple[str, ...]],
) -> list[Node]:
    """The flow's steps with what is known of them, then the layers that never ran."""
    sources: dict[int, list[int]] = defaultdict(list)
    for a, b in flow.edges:
        sources[b].append(a)
    nodes: list[Node] = []
    for number, step in enumerate(flow.steps):
        if step.role == "layer":
            nodes.append(_layer(layers[step.name], approximate, step.carries))
        else:
            nodes.append(_meeting(step, [nodes[n] for n in sources[number]]))
    met = {step.name for step in flow.steps if step.role == "layer"}
    nodes += [_layer(x, approximate, ran=False) for name, x in layers.items() if name not in met]
    return nodes


def _layer(
    layers: Sequence[LayerReport],
    approximate: Mapping[int, tuple[str, ...]],
    carries: tuple[str, ...] = (),
    *,
    ran: bool = True,
) -> Node:
    """The layers of one module, such as the two weights of a recurrent one, as one node."""
    groups = tuple(sorted({number for layer in layers for number in layer.groups}))
    return Node(
        role="layer",
        name=layers[0].name,
        kind=layers[0].kind,
        channels=sum(layer.channels for layer in layers),
        prunable=sum(layer.prunable for layer in layers),
        groups=groups,
        reasons=_texts([reason for layer in layers for reason in layer.reasons]),
        approximate=_texts([reason for number in groups for reason in approximate[number]]),
        carries=carries,
        ran=ran,
    )


def _meeting(step: Step, sources: Sequence[Node]) -> Node:
    groups = tuple(sorted({number for node in sources for number in node.groups}))
    return Node(step.role, step.name, step.kind, groups=groups, carries=step.carries)


def _bundle(
    group: Group,
    nodes: Sequence[Node],
    names: Mapping[str, int],
    owners: Owners,
    approximate: tuple[str, ...],
) -> Bundle:
    makers = tuple(n for n, node in enumerate(nodes) if _makes(node, group.number))
    readers, carried = set(), set()
    for axis in group.axes:
        owner = owners[axis.name][0]
        if axis.role == "in" and owner in names:
            readers.add(names[owner])
        elif owner not in names:
            carried.add(owner)
    return Bundle(
        group.number,
        group.width,
        group.channels_per_atom,
        makers,
        tuple(sorted(readers)),
        tuple(sorted(carried)),
        approximate,
    )


def _makes(node: Node, group: int) -> bool:
    return node.role == "layer" and group in node.groups
