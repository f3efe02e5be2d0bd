"""Every node has a row, headings span their module, and what shares a lane never overlaps."""

from itertools import combinations

import pytest
import torch
from test_report_graph import CASES, graph_of

from slimnet.report.layout import lay_out


@pytest.fixture(scope="module", params=CASES)
def laid(request):
    torch.manual_seed(0)
    graph, _ = graph_of(*CASES[request.param]())
    return graph, lay_out(graph)


def test_every_node_has_one_row_in_the_order_in_which_they_ran(laid):
    graph, layout = laid
    assert [row.node for row in layout.rows if row.node is not None] == list(
        range(len(graph.nodes))
    )


def test_headings_span_exactly_what_is_indented_below_them(laid):
    _, layout = laid
    for n, row in enumerate(layout.rows):
        if row.node is None:
            depths = [x.depth for x in layout.rows[n + 1 :]]
            below = next((i for i, d in enumerate(depths) if d <= row.depth), len(depths))
            assert row.last == n + below
            assert below >= 1


def test_headings_and_label_give_the_full_name(laid):
    graph, layout = laid
    for n, row in enumerate(layout.rows):
        if row.node is None or not graph.nodes[row.node].ran:
            continue
        above = [x.path for x in layout.rows[:n] if x.node is None and x.last >= n]
        node = graph.nodes[row.node]
        path = node.name if node.role != "join" else f"{node.name}.{node.kind}".lstrip(".")
        leaf = path.rpartition(".")[2] if row.label != "itself" else "itself"
        assert row.label.endswith(leaf)
        assert all(path.startswith(f"{module}.") or path == module for module in above)


def test_every_edge_is_drawn_once(laid):
    graph, layout = laid
    node = [row.node for row in layout.rows]
    drawn = [(node[wire.source], node[reader]) for wire in layout.wires for reader in wire.readers]
    assert sorted(drawn) == sorted(graph.edges)


def test_what_shares_a_lane_does_not_overlap(laid):
    _, layout = laid
    long = [wire for wire in layout.wires if wire.lane]
    for a, b in combinations(long, 2):
        apart = a.readers[-1] <= b.source or b.readers[-1] <= a.source
        assert a.lane != b.lane or apart
    for a, b in combinations(layout.rails, 2):
        assert a.lane != b.lane or a.rows[-1] < b.rows[0] or b.rows[-1] < a.rows[0]


def test_rails_tie_the_groups_of_several_layers(laid):
    graph, layout = laid
    tied = {n for n, bundle in graph.bundles.items() if len(bundle.makers) > 1}
    assert {rail.group for rail in layout.rails} == tied


def test_a_bare_number_is_not_left_alone():
    graph, _ = graph_of(*CASES["resnet20"]())
    labels = [row.label for row in lay_out(graph).rows]
    assert "layer1.0" in labels
    assert not any(label[:1].isdigit() for label in labels)
