"""Where everything stands in the picture: one row per node, headings, lanes for what is long.

The idea is a history of commits: all nodes stand below one another in the order in which they ran,
so the picture stays legible for three layers and for a thousand. A tensor that is read further down
than in the next row takes a lane on the left; a group of several layers takes a rail on the right.
Lanes are shared by what does not overlap. Rows of one module stand under its heading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TypeAlias

from slimnet.report.graph import Graph, Node

_Span: TypeAlias = tuple[int, int]  # from one row to another


@dataclass(frozen=True)
class Row:
    """A line of the picture: a node, or the heading of a module."""

    label: str  # what the headings above do not say already
    depth: int
    path: str  # the full name
    node: int | None = None  # of a heading: None
    last: int = 0  # of a heading: the last row under it


@dataclass(frozen=True)
class Wire:
    """A tensor on its way from the row that gives it to the rows that read it."""

    source: int
    readers: tuple[int, ...]
    lane: int  # 0: straight down, to the next node only


@dataclass(frozen=True)
class Rail:
    """A group of several layers: the rows that leave together."""

    group: int
    rows: tuple[int, ...]
    lane: int


@dataclass(frozen=True)
class Layout:
    """Rows from top to bottom, and what connects them."""

    rows: tuple[Row, ...]
    wires: tuple[Wire, ...]
    rails: tuple[Rail, ...]

    @property
    def wire_lanes(self) -> int:
        """Lanes on the left, the straight one included."""
        return 1 + max((wire.lane for wire in self.wires), default=0)

    @property
    def rail_lanes(self) -> int:
        """Lanes on the right."""
        return 1 + max((rail.lane for rail in self.rails), default=-1)


def lay_out(graph: Graph) -> Layout:
    """Give every node a row and every long connection a lane."""
    placed = _place(graph.nodes)
    ran = _rows([x for x in placed if graph.nodes[x.node].ran], 0, 0, 0)
    rest = _rows([x for x in placed if not graph.nodes[x.node].ran], 0, 1, len(ran) + 1)
    if rest:
        rest.insert(0, Row("did not run in the recorded pass", 0, "", last=len(ran) + len(rest)))
    rows = (*ran, *rest)
    row_of = {row.node: n for n, row in enumerate(rows) if row.node is not None}
    return Layout(rows, _wires(graph, row_of), _rails(graph, row_of))


@dataclass(frozen=True)
class _Placed:
    node: int
    path: str
    modules: tuple[str, ...]  # that it stands in, the outermost first
    leaf: str


def _place(nodes: Sequence[Node]) -> list[_Placed]:
    """Joins stand in their module; so does a layer that holds other layers."""
    inner = {node.name if node.role == "join" else _parent(node.name) for node in nodes}
    holders = {prefix for path in inner for prefix in accumulate(path.split("."), "{}.{}".format)}
    placed = []
    for number, node in enumerate(nodes):
        module, leaf = _parent(node.name), node.name.rpartition(".")[2]
        if node.role == "join":
            module, leaf = node.name, node.kind
        elif node.role == "layer" and node.name in holders:
            module, leaf = node.name, "itself"
        modules = tuple(module.split(".")) if module else ()
        placed.append(_Placed(number, node.name, modules, leaf))
    return placed


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _rows(placed: Sequence[_Placed], level: int, depth: int, start: int) -> list[Row]:
    """Rows from number ``start`` on; ``level`` modules of each path are said by headings."""
    rows: list[Row] = []
    for module, group in groupby(placed, lambda x: x.modules[level : level + 1]):
        run = list(group)
        if not module or len(run) < _HEADED:
            rows += [_leaf(x, level, depth) for x in run]
        else:
            rows += _module(run, level, depth, start + len(rows))
    return rows


_HEADED = 3  # rows that are worth a heading; fewer say their module themselves


def _leaf(placed: _Placed, level: int, depth: int) -> Row:
    return Row(_label((*placed.modules, placed.leaf), level), depth, placed.path, placed.node)


def _label(parts: Sequence[str], level: int) -> str:
    """What the headings above do not say; a bare number needs the name before it."""
    while level and parts[level][:1].isdigit():
        level -= 1
    return ".".join(parts[level:])


def _module(run: Sequence[_Placed], level: int, depth: int, start: int) -> list[Row]:
    """A heading for all modules that the whole run shares, and the rows under it."""
    shared = level + 1
    while len({x.modules[: shared + 1] for x in run}) == 1 and len(run[0].modules) > shared:
        shared += 1
    below = _rows(run, shared, depth + 1, start + 1)
    modules = run[0].modules[:shared]
    heading = Row(_label(modules, level), depth, ".".join(modules), last=start + len(below))
    return [heading, *below]


def _wires(graph: Graph, row_of: Mapping[int, int]) -> tuple[Wire, ...]:
    near, far = [], []
    for source, edges in groupby(graph.edges, lambda edge: edge[0]):
        targets = [target for _, target in edges]
        if source + 1 in targets:
            near.append(Wire(row_of[source], (row_of[source + 1],), 0))
        rest = tuple(row_of[target] for target in targets if target != source + 1)
        if rest:
            far.append((row_of[source], rest))
    lanes = _lanes([(source, readers[-1]) for source, readers in far], may_touch=True)
    wires = [Wire(*ends, lane + 1) for ends, lane in zip(far, lanes, strict=True)]
    return tuple(near + wires)


def _rails(graph: Graph, row_of: Mapping[int, int]) -> tuple[Rail, ...]:
    shared = {n: b.makers for n, b in graph.bundles.items() if len(b.makers) > 1}
    rails = [(number, tuple(row_of[m] for m in makers)) for number, makers in shared.items()]
    lanes = _lanes([(rows[0], rows[-1]) for _, rows in rails], may_touch=False)
    return tuple(Rail(*rail, lane) for rail, lane in zip(rails, lanes, strict=True))


def _lanes(spans: Sequence[_Span], *, may_touch: bool) -> list[int]:
    """A lane for every span, short ones first; spans of one lane do not overlap."""
    taken: list[list[_Span]] = []
    lanes = [0] * len(spans)
    for n in sorted(range(len(spans)), key=lambda n: spans[n][1] - spans[n][0]):
        first, last = spans[n]
        lanes[n] = _free_lane(taken, (first, last if may_touch else last + 1))
    return lanes


def _free_lane(taken: list[list[_Span]], span: _Span) -> int:
    """The innermost lane with room for a half-open span, which it then takes."""
    first, last = span
    for lane, others in enumerate(taken):
        if all(last <= a or b <= first for a, b in others):
            others.append(span)
            return lane
    taken.append([span])
    return len(taken) - 1
