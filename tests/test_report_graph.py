"""The graph holds what the inspection found: every layer once, partners, reasons."""

import pytest
import torch
from torch import nn

import slimnet
from slimnet.capture.trace import capture
from slimnet.models import MODELS
from slimnet.network import Network
from slimnet.report.graph import make_graph


def graph_of(model, *inputs):
    model = model.eval()
    found = slimnet.inspect(model, inputs)
    return make_graph(Network.of(model), capture(Network.of(model), inputs), found), found


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare, self.head = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.used(x).relu())


class Pair(nn.Module):
    """Two inputs that meet."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x, y):
        return self.head(self.left(x) + self.right(y))


def attention():
    return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)


CASES = {
    "resnet20": lambda: (MODELS["resnet20"].make(), torch.rand(1, 3, 32, 32)),
    "densenet": lambda: (MODELS["densenet40"].make(), torch.rand(1, 3, 32, 32)),
    "attention": lambda: (attention(), torch.rand(1, 5, 16)),
    "recurrent": lambda: (Recurrent(), torch.rand(3, 2, 8)),
    "unused": lambda: (Unused(), torch.rand(2, 8)),
    "pair": lambda: (Pair(), torch.rand(2, 8), torch.rand(2, 8)),
    "one layer": lambda: (nn.Linear(8, 4), torch.rand(2, 8)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    torch.manual_seed(0)
    return graph_of(*CASES[request.param]())


def layers(graph):
    return [node for node in graph.nodes if node.role == "layer"]


def test_every_layer_is_part_of_exactly_one_node(case):
    graph, found = case
    names = [node.name for node in layers(graph)]
    assert sorted(names) == sorted({layer.name for layer in found.layers})
    assert sum(x.channels for x in layers(graph)) == sum(x.channels for x in found.layers)
    assert sum(x.prunable for x in layers(graph)) == sum(x.prunable for x in found.layers)


def test_edges_go_forward_between_nodes_that_ran(case):
    graph, _ = case
    for a, b in graph.edges:
        assert 0 <= a < b < len(graph.nodes)
        assert graph.nodes[a].ran and graph.nodes[b].ran
    assert len(set(graph.edges)) == len(graph.edges)


def test_partners_are_mutual_and_those_of_the_groups(case):
    graph, found = case
    of = {node.name: n for n, node in enumerate(graph.nodes) if node.role == "layer"}
    for n in range(len(graph.nodes)):
        assert all(n in graph.partners(partner) for partner in graph.partners(n))
    for group in found.groups:
        makers = [of[name] for name in group.layers if name in of]
        for maker in makers:
            assert set(makers) - {maker} <= set(graph.partners(maker))


def test_whoever_keeps_channels_says_why(case):
    graph, found = case
    reasons = {layer.name: layer.reasons for layer in found.layers}
    for node in layers(graph):
        assert bool(node.reasons) == (node.prunable < node.channels)
        assert set(reasons[node.name]) <= set(node.reasons)
        assert node.pinned == (node.prunable == 0)


def test_what_shrinks_with_a_group_is_named():
    graph, _ = graph_of(*CASES["resnet20"]())
    name = {n: node.name for n, node in enumerate(graph.nodes)}
    bundle = next(b for b in graph.bundles.values() if "layer1.0.conv1" in map(name.get, b.makers))
    assert [name[n] for n in bundle.readers] == ["layer1.0.conv2"]
    assert bundle.carried == ("layer1.0.bn1",)


def test_approximate_groups_tell_their_layers():
    model = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.Linear(32, 4))
    graph, _ = graph_of(model, torch.rand(2, 8))
    first = layers(graph)[0]
    assert first.prunable == 32
    assert "norm" in first.approximate[0]
    assert first.carries == ("1",)


def test_layers_that_never_ran_come_last_with_their_reason():
    graph, _ = graph_of(*CASES["unused"]())
    assert graph.nodes[-1].name == "spare"
    assert not graph.nodes[-1].ran
    assert "never used" in graph.nodes[-1].reasons[0]


def test_a_join_shows_the_groups_that_meet_there():
    graph, _ = graph_of(*CASES["pair"]())
    join = next(node for node in graph.nodes if node.role == "join")
    left = next(node for node in graph.nodes if node.name == "left")
    assert join.groups == left.groups != ()
