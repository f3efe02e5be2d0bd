"""The picture of a network: an SVG that stands alone, or an HTML page to search and click in.

Both hold the same drawing (``picture.parts.jinja``). The page adds ``picture.js``, which reads the
graph as JSON, highlights what hangs together, and folds modules away.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slimnet.capture.trace import Trace
from slimnet.errors import InputError
from slimnet.inspection import Inspection
from slimnet.network import Network
from slimnet.output import check_writable, write_text
from slimnet.report import words
from slimnet.report.drawing import ROW, colours_of, draw
from slimnet.report.graph import Graph, make_graph
from slimnet.report.layout import Layout, lay_out
from slimnet.report.templates import filled


def check_picture(path: Path) -> None:
    """Raise :class:`InputError` where no picture could be written to ``path``."""
    if path.suffix.lower() not in _RENDERERS:
        raise InputError(f"{path} must end in .html (to search and click in) or .svg (to embed)")
    check_writable(path)


def write_picture(
    path: Path, network: Network, trace: Trace, inspection: Inspection, *, title: str
) -> None:
    """Draw what an inspection found over the network that a pass recorded, as .html or .svg.

    Raises :class:`InputError` for any other ending, or where nothing can be written.
    """
    check_picture(path)
    graph = make_graph(network, trace, inspection)
    text = _RENDERERS[path.suffix.lower()](graph, title)
    write_text(path, text)


def render_svg(graph: Graph, title: str) -> str:
    """One SVG, with tooltips and without a script."""
    return _render("picture.svg.jinja", graph, title)


def render_html(graph: Graph, title: str) -> str:
    """One HTML page that needs no other file and no network."""
    return _render("picture.html.jinja", graph, title)


_RENDERERS: Mapping[str, Callable[[Graph, str], str]] = {".html": render_html, ".svg": render_svg}


def _render(template: str, graph: Graph, title: str) -> str:
    layout = lay_out(graph)
    text = filled(
        template,
        title=title,
        totals=_totals(graph),
        drawing=draw(graph, layout),
        data=_data(graph, layout),
    )
    return _UNPRINTABLE.sub("�", text)


_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # not in XML


def _totals(graph: Graph) -> str:
    layers = [node for node in graph.nodes if node.role == "layer"]
    prunable, channels = sum(x.prunable for x in layers), sum(x.channels for x in layers)
    able = sum(x.prunable > 0 for x in layers)
    groups = f"{len(graph.bundles)} group{'' if len(graph.bundles) == 1 else 's'}"
    return (
        f"{able} of {len(layers)} layers can lose channels: {prunable:,} of {channels:,} "
        f"({100 * prunable / max(channels, 1):.1f} %), in {groups} · "
        f"{words.amount(graph.cost.params)} parameters · {words.amount(graph.cost.macs)} MACs"
    )


def _data(graph: Graph, layout: Layout) -> dict[str, Any]:
    """What the page's script reads."""
    return {
        "rows": [asdict(row) for row in layout.rows],
        "nodes": [asdict(node) for node in graph.nodes],
        "edges": graph.edges,
        "groups": {number: asdict(bundle) for number, bundle in graph.bundles.items()},
        "colours": colours_of(graph),
        "rowHeight": ROW,
    }
