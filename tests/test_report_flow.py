"""Which layer reads which is what really ran: joins, repeated layers, weights that are data."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from slimnet.capture.trace import capture
from slimnet.network import Network
from slimnet.report.flow import read_flow
from slimnet.report.graph import _owners


def drawn(model, *inputs):
    """Every step as a word, with the words of the steps that it reads."""
    owners = _owners(Network.of(model))
    layers = [name for names in owners.values() for name in names if "norm" not in name]
    flow = read_flow(capture(Network.of(model.eval()), inputs), owners, layers)
    words = [step.name if step.role != "join" else step.kind for step in flow.steps]
    assert all(a < b for a, b in flow.edges)
    return [
        (word, sorted(words[a] for a, b in flow.edges if b == n)) for n, word in enumerate(words)
    ], flow


class Net(nn.Module):
    """Four layers and a forward of its own for each test."""

    def __init__(self, forward):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.norm = nn.BatchNorm2d(4)
        self.table = nn.Embedding(8, 4)
        self.run = forward

    def forward(self, *inputs):
        return self.run(self, *inputs)


IMAGE = torch.rand(2, 4, 3, 3)


def test_a_skip_meets_the_branch_that_it_skips():
    steps, flow = drawn(Net(lambda m, x: m.c(m.a(x) + m.norm(m.b(m.a(x)).relu()))), IMAGE)
    assert steps == [
        ("input", []),
        ("a", ["input"]),
        ("b", ["a"]),
        ("add", ["a", "b"]),
        ("c", ["add"]),
        ("output", ["c"]),
    ]
    assert [step.carries for step in flow.steps][2] == ("norm",)


def test_adding_a_tensor_to_itself_is_no_join():
    steps, _ = drawn(Net(lambda m, x: (lambda y: y + 2 * y.relu())(m.a(x))), IMAGE)
    assert [word for word, _ in steps] == ["input", "a", "output"]


def test_a_part_that_is_written_in_place_keeps_the_rest():
    def run(m, x):
        y = m.a(x)
        y[:, :2] = m.b(x)[:, :2]
        return m.c(y)

    steps, _ = drawn(Net(run), IMAGE)
    assert ("c", ["a", "b"]) in steps


def test_adding_in_place_is_a_join_for_whoever_reads_on():
    def run(m, x):
        y = m.a(x)
        y += m.b(x)
        return m.c(y)

    steps, _ = drawn(Net(run), IMAGE)
    assert ("add", ["a", "b"]) in steps
    assert ("c", ["add"]) in steps


def test_a_layer_that_runs_again_is_one_step():
    def run(m, x):
        for _ in range(3):
            x = m.b(m.a(x))
        return m.c(x)

    steps, _ = drawn(Net(run), IMAGE)
    assert [word for word, _ in steps] == ["input", "a", "b", "c", "output"]


def test_weights_from_another_module_are_data_where_they_are_added():
    def run(m, x):
        return m.c(m.a(x) + m.table.weight[:4, :1, None])

    steps, _ = drawn(Net(run), IMAGE)
    assert ("table", []) in steps
    assert ("add", ["a", "table"]) in steps


def test_weights_that_are_applied_elsewhere_still_are_their_layer():
    steps, _ = drawn(Net(lambda m, x: F.conv2d(m.a(x), m.b.weight * 2)), IMAGE)
    assert steps[1:] == [("a", ["input"]), ("b", ["a"]), ("output", ["b"])]


def test_a_parametrised_weight_belongs_to_its_layer():
    model = Net(lambda m, x: m.b(m.a(x)))
    nn.utils.parametrizations.weight_norm(model.a)
    steps, _ = drawn(model, IMAGE)
    assert steps[1:3] == [("a", ["input"]), ("b", ["a"])]


def test_tied_weights_are_a_layer_under_each_of_their_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mid, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.mid(self.embed(x)))

    steps, _ = drawn(Tied(), torch.arange(5)[None])
    assert [word for word, _ in steps] == ["input", "embed", "mid", "head", "output"]


@pytest.mark.parametrize("by_hand", [True, False])
def test_attention_is_one_join(by_hand):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.proj = nn.Linear(4, 12), nn.Linear(4, 4)

        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            if by_hand:
                return self.proj((q @ k.transpose(1, 2)).softmax(-1) @ v)
            return self.proj(F.scaled_dot_product_attention(q, k, v))

    steps, _ = drawn(Attention(), torch.rand(2, 5, 4))
    assert steps[2:4] == [("attention", ["qkv"]), ("proj", ["attention"])]


def test_several_inputs_are_told_apart():
    steps, _ = drawn(Net(lambda m, x, y: m.c(torch.cat([m.a(x), m.b(y)])[:2])), IMAGE, IMAGE)
    assert ("a", ["input 1"]) in steps
    assert ("b", ["input 2"]) in steps
    assert ("cat", ["a", "b"]) in steps


def test_what_follows_the_last_layer_is_left_out_but_for_the_first_join():
    def run(m, x):
        boxes, scores = m.a(x), m.b(x)
        joint = boxes * scores
        return joint + (joint.relu() * x).amax() + (joint - x).amin()

    steps, _ = drawn(Net(run), IMAGE)
    assert [word for word, _ in steps] == ["input", "a", "b", "mul", "output"]
    assert steps[-1] == ("output", ["input", "mul"])
