"""The picture of a network in px: where each row, number and line of a layout is drawn.

Takes a :class:`~slimnet.report.graph.Graph` and its layout, gives a :class:`Drawing` that templates
put into SVG as it is. Colours mean company: layers of one colour lose their channels together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TypeAlias

from slimnet.report.graph import Graph, Node
from slimnet.report.layout import Layout, Row, Wire

ROW = 20  # px from one row to the next
BAR = 96  # px of the widest layer's bar
ALONE = "#64748b"  # a layer whose channels leave without others; legible on black and white
_MONO, _SANS = 7.25, 6.6  # px of a letter, 12 px high
_LEGEND = 860  # px
_LABEL, _KIND, _WHY = 46, 20, 76  # letters that are shown of a name, a kind, a reason


@dataclass(frozen=True)
class Columns:
    """Where each column of the drawing is, in px from the left."""

    lane: float  # px from one lane to the next
    dot: float
    label: float
    kind: float
    channels: float  # right edge
    bar: float
    prunable: float  # right edge
    group: float  # right edge
    rail: float
    why: float
    width: float


@dataclass(frozen=True)
class Line:
    """One row, measured out."""

    row: Row
    y: float
    shape: str  # heading | layer | join | input | output
    state: str  # exact | approximate | pinned | ""
    label: str
    indent: float
    kind: str
    colour: str
    channels: str
    prunable: str
    bar: float  # px
    filled: float  # px of it that can leave
    group: str
    why: str
    tip: str


@dataclass(frozen=True)
class Path:
    """A line between rows; coordinates are pairs ``x,y`` so that a script can move them."""

    kind: str  # wire | rail | dots
    colour: str
    d: str
    groups: str
    rows: str


@dataclass(frozen=True)
class Drawing:
    """Everything that a template draws."""

    columns: Columns
    lines: Sequence[Line]
    paths: Sequence[Path]
    height: float


# Okabe and Ito's palette: told apart with any colour vision and in print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
Colours: TypeAlias = Mapping[int, str]  # of every group


def colours_of(graph: Graph) -> Colours:
    """Colours mean company: groups of several layers take turns, the others share one."""
    together = sorted((b.makers[0], n) for n, b in graph.bundles.items() if len(b.makers) > 1)
    turns = {number: COLOURS[turn % len(COLOURS)] for turn, (_, number) in enumerate(together)}
    return {number: turns.get(number, ALONE) for number in graph.bundles}


def draw(graph: Graph, layout: Layout) -> Drawing:
    """Measure a laid out graph."""
    colours = colours_of(graph)
    lines = _lines(graph, layout, colours)
    columns = _columns(layout, lines)
    paths = [*_wires(graph, layout, columns, colours), *_rails(layout, columns, colours)]
    return Drawing(columns, lines, paths, ROW * len(lines))


def _columns(layout: Layout, lines: Sequence[Line]) -> Columns:
    lanes = layout.wire_lanes - 1
    lane = min(12.0, max(4.0, 240 / max(lanes, 1)))
    dot = 16 + lane * lanes
    label = dot + 16
    nodes = [line for line in lines if line.shape != "heading"]
    kind = label + 16 + max(line.indent + _MONO * len(line.label) for line in nodes)
    channels = kind + 52 + _SANS * max(len(line.kind) for line in nodes)
    names = max(line.indent + _MONO * len(line.label) for line in lines)
    channels = max(channels, label + 76 + names)  # headings have no kind
    bar = channels + 10
    prunable = bar + BAR + 56
    group = prunable + 20 + _SANS * max(len(line.group) for line in lines) + 20
    rail = group + 18
    why = rail + 8 * layout.rail_lanes + 14
    width = max(why + 16 + max(290, *(_SANS * len(line.why) for line in lines)), _LEGEND)
    return Columns(lane, dot, label, kind, channels, bar, prunable, group, rail, why, width)


def _middle(row: int) -> float:
    return ROW * row + ROW / 2


def _lines(graph: Graph, layout: Layout, colours: Colours) -> list[Line]:
    widest = max((node.channels for node in graph.nodes), default=1)
    made = []
    for number, row in enumerate(layout.rows):
        if row.node is None:
            under = layout.rows[number + 1 : row.last + 1]
            nodes = [graph.nodes[x.node] for x in under if x.node is not None]
            made.append(_heading(number, row, nodes))
        else:
            made.append(_line(number, row, graph, widest, colours))
    return made


def _heading(number: int, row: Row, nodes: Sequence[Node]) -> Line:
    channels, prunable = sum(x.channels for x in nodes), sum(x.prunable for x in nodes)
    layers = sum(node.role == "layer" for node in nodes)
    return Line(
        row=row,
        y=_middle(number),
        shape="heading",
        state="",
        label=row.label,
        indent=14 * row.depth,
        kind="",
        colour="",
        channels=f"{channels:,}",
        prunable=f"{prunable:,}",
        bar=0,
        filled=0,
        group="",
        why="",
        tip=f"{row.label}: {layers} layers, {prunable:,} of {channels:,} channels can leave",
    )


def _line(number: int, row: Row, graph: Graph, widest: int, colours: Colours) -> Line:
    node = graph.nodes[row.node or 0]
    bar = max(BAR * sqrt(node.channels / widest), 3) if node.channels else 0
    return Line(
        row=row,
        y=_middle(number),
        shape=node.role,
        state=_state(node),
        label=_shortened(row.label, _LABEL),
        indent=14 * row.depth,
        kind=_cut(node.kind, _KIND) if node.role == "layer" else "",
        colour=_colour(node.groups, colours),
        channels=f"{node.channels:,}" if node.role == "layer" else "",
        prunable=f"{node.prunable:,}" if node.role == "layer" else "",
        bar=bar,
        filled=bar * node.prunable / max(node.channels, 1),
        group=_numbers(node.groups) if node.role == "layer" else "",
        why=_why(node),
        tip=_tip(graph, row.node or 0),
    )


def _state(node: Node) -> str:
    if node.role != "layer":
        return ""
    return "pinned" if node.pinned else "approximate" if node.approximate else "exact"


def _colour(groups: Sequence[int], colours: Colours) -> str:
    """Of several groups: the colour that they share, or none."""
    found = {colours[number] for number in groups}
    return found.pop() if len(found) == 1 else ""


def _numbers(groups: Sequence[int]) -> str:
    return f"{groups[0]} … {groups[-1]}" if len(groups) > 2 else " ".join(map(str, groups))


def _shortened(text: str, letters: int) -> str:
    """The end of a name says most."""
    return text if len(text) <= letters else f"…{text[1 - letters :]}"


def _why(node: Node) -> str:
    """Why channels stay, or why a cut is approximate: the first reason and its line of code."""
    if node.reasons and node.prunable:
        return _brief(f"{node.channels - node.prunable:,} stay: {node.reasons[0]}")
    if node.reasons:
        return _brief(node.reasons[0])
    return _brief(f"≈ {node.approximate[0]}") if node.approximate else ""


def _brief(reason: str) -> str:
    found = re.fullmatch(r"(.*) \((?:([^()]*:\d+), )?in .*\)", reason)
    text, line = (found[1], f" · {found[2]}" if found[2] else "") if found else (reason, "")
    return _cut(text, _WHY - len(line)) + line


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _tip(graph: Graph, number: int) -> str:
    node = graph.nodes[number]
    lines = [f"{node.name} · {node.kind}" if node.name and node.kind else node.name or node.kind]
    if node.role == "layer":
        lines.append(f"{node.prunable:,} of {node.channels:,} channels can leave")
    if node.groups:
        lines.append(f"group {_numbers(node.groups)}")
    partners = [graph.nodes[n].name for n in graph.partners(number)]
    if partners:
        more = f" and {len(partners) - 8} more" if len(partners) > 8 else ""
        lines.append(f"together with {', '.join(partners[:8])}{more}")
    lines += [f"approximate: {reason}" for reason in node.approximate[:3]]
    lines += [f"stays: {reason}" for reason in node.reasons[:3]]
    return "\n".join(lines)


def _wires(graph: Graph, layout: Layout, columns: Columns, colours: Colours) -> list[Path]:
    made = []
    for wire in sorted(layout.wires, key=lambda wire: -wire.lane):  # the nearest on top
        groups = graph.nodes[layout.rows[wire.source].node or 0].groups
        d = _straight(wire, columns) if wire.lane == 0 else _around(wire, columns)
        made.append(_path("wire", groups, colours, d, (wire.source, *wire.readers)))
    return made


def _straight(wire: Wire, columns: Columns) -> str:
    return _points(columns.dot, _middle(wire.source), _middle(wire.readers[0]))


def _points(x: float, top: float, bottom: float) -> str:
    return f"M {x:g},{top:g} L {x:g},{bottom:g}"


def _around(wire: Wire, columns: Columns) -> str:
    """Out to the lane, down, and back in at every reader."""
    x, dot, bend = columns.dot - columns.lane * wire.lane, columns.dot, min(8.0, columns.lane)
    top, bottom = _middle(wire.source), _middle(wire.readers[-1])
    pieces = [
        f"M {dot:g},{top:g} L {x + bend:g},{top:g} Q {x:g},{top:g} {x:g},{top + bend:g}",
        f"L {x:g},{bottom - bend:g}",
    ]
    for y in map(_middle, wire.readers):
        pieces.append(f"M {x:g},{y - bend:g} Q {x:g},{y:g} {x + bend:g},{y:g} L {dot:g},{y:g}")
    return " ".join(pieces)


def _rails(layout: Layout, columns: Columns, colours: Colours) -> list[Path]:
    made = []
    for rail in layout.rails:
        x, middles = columns.rail + 8 * rail.lane, [_middle(row) for row in rail.rows]
        line = _points(x, middles[0], middles[-1])
        dots = " ".join(_points(x, y, y) for y in middles)
        made.append(_path("rail", (rail.group,), colours, line, rail.rows))
        made.append(_path("dots", (rail.group,), colours, dots, rail.rows))
    return made


def _path(kind: str, groups: Sequence[int], colours: Colours, d: str, rows: Sequence[int]) -> Path:
    numbers = " ".join(map(str, groups))
    return Path(kind, _colour(groups, colours), d, numbers, " ".join(map(str, rows)))
