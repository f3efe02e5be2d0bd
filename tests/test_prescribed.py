"""Widths that names prescribe: how many channels stay, or which."""

import numpy as np
import pytest
import torch
from torch import nn

import slimnet
from slimnet.errors import InputError, PruneError
from slimnet.planning.request import CutRequest, parse_widths

IMAGE = (torch.zeros(1, 3, 8, 8),)


class Net(nn.Module):
    """``b`` and ``c`` are added."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 32, 3, padding=1)
        self.b = nn.Conv2d(32, 16, 3, padding=1)
        self.c = nn.Conv2d(32, 16, 1)
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.a(x).relu()
        return self.head(self.norm(self.b(x) + self.c(x)).mean((2, 3)))


class Halves(nn.Module):
    """The halves of ``a`` go with other layers; ``shuffled`` loses four channels at a time."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 32, 3)
        self.b = nn.Conv2d(3, 16, 3)
        self.c = nn.Conv2d(3, 16, 3)
        self.shuffled = nn.Conv2d(32, 64, 1)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        both = self.a(x) + torch.cat([self.b(x), self.c(x)], 1)
        return self.head(nn.functional.pixel_shuffle(self.shuffled(both), 2))


def widths_of(pruned, *names):
    return [pruned.model.get_submodule(name).weight.shape[0] for name in names]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


def test_a_number_is_met_whatever_the_alignment_and_nothing_else_leaves(net):
    pruned = slimnet.prune(net, IMAGE, widths={"a": 19})
    assert widths_of(pruned, "a", "b", "c") == [19, 16, 16]
    least = net.a.weight.abs().sum((1, 2, 3)).argsort()[:13].sort().values.tolist()
    assert list(pruned.plan.removed["a.weight"][0]) == least
    assert pruned.certificate.error < 1e-9
    assert pruned.plan.asked["widths"] == {"a": 19}


def test_named_channels_stay_and_the_last_word_counts(net):
    kept = [0, 5, 17, 31]
    pruned = slimnet.prune(net, IMAGE, widths={"*": 15, "a": kept, "c": 9})
    assert widths_of(pruned, "a", "b", "c") == [4, 9, 9]
    assert torch.equal(pruned.model.a.bias, net.a.bias[kept])


def test_a_budget_is_met_by_the_others(net):
    pruned = slimnet.prune(net, IMAGE, macs=0.5, widths={"a": 30}, align=None)
    assert widths_of(pruned, "a") == [30] and widths_of(pruned, "b")[0] < 16
    cost = slimnet.cost(pruned.model, IMAGE).macs
    assert cost <= 0.5 * slimnet.cost(net, IMAGE).macs


def test_several_rounds_keep_to_them(net):
    pruned = slimnet.prune(net, IMAGE, macs=0.5, widths={"a": [*range(24)]}, steps=3, align=None)
    assert list(pruned.plan.removed["a.weight"][0]) == [*range(24, 32)]


def test_also_where_the_criterion_reads_nothing(net):
    pruned = slimnet.prune(net, IMAGE, widths={"a": [*range(9)]}, criterion="bn-scale")
    assert widths_of(pruned, "a") == [9]
    with pytest.raises(PruneError, match="nothing to read in a: name the channels that stay"):
        slimnet.prune(net, IMAGE, widths={"a": 9}, criterion="bn-scale")


def test_a_part_of_a_layer_is_named_by_its_channels():
    torch.manual_seed(0)
    halves = Halves().eval()
    pruned = slimnet.prune(halves, IMAGE, widths={"a:0-15": 8, "a:16-31": [16, 20]})
    gone = {*pruned.plan.removed["a.weight"][0]}
    assert len(gone & {*range(16)}) == 8 and {*range(16, 32)} - gone == {16, 20}
    whole = slimnet.prune(halves, IMAGE, widths={"a": [*range(4), *range(16, 20)]})
    assert widths_of(whole, "a") == [8]
    assert widths_of(slimnet.prune(halves, IMAGE, widths={"shuffled": 40}), "shuffled") == [40]


REFUSED = {
    "a cannot keep 33 channels: it has 32": ({"a": 33}, Net),
    "no layer is called 'x'; layers are called a, b": ({"x": 3}, Net),
    "head can lose no channels: ": ({"head": 3}, Net),
    "the channels of a belong to 2 groups .0-15, 16-31.: say which you mean, as in a:0-15": (
        {"a": 8},
        Halves,
    ),
    "channels 0-7 of a are no group by themselves: name all of a:0-15": ({"a:0-7": 4}, Halves),
    "shuffled cannot keep 30 channels: it has 64, and 4 leave at a time": (
        {"shuffled": 30},
        Halves,
    ),
    "channels 8-11 of shuffled leave together: keep all of them, or none": (
        {"shuffled": [*range(10)]},
        Halves,
    ),
    "a would keep none of its channels: name one at least": ({"a": [*range(16)]}, Halves),
    "a has no channels 32, 40-41: it has 0-31": ({"a": [0, 32, 40, 41]}, Net),
    "a:0-15 has no channels 16: it has 0-15": ({"a:0-15": [3, 16]}, Halves),
    "'x' does not name channels: write them as 0-3, 7": ({"a:x": 4}, Halves),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_is_refused(words):
    widths, kind = REFUSED[words]
    with pytest.raises(InputError, match=words):
        slimnet.prune(kind().eval(), IMAGE, widths=widths)


def test_a_layer_that_is_kept_by_name_has_no_other_width(net):
    with pytest.raises(InputError, match="b, c is kept by name, and 9 of its 16 channels by a wid"):
        slimnet.prune(net, IMAGE, widths={"c": 9}, keep=["b"])
    slimnet.prune(net, IMAGE, widths={"c": 16, "a": 8}, keep=["b"])


def test_widths_as_they_are_typed():
    assert parse_widths(["a=3", "b:0-7=0-2,5"]) == {"a": 3, "b:0-7": (0, 1, 2, 5)}
    assert CutRequest(widths={"a": np.arange(2)}).plain()["widths"] == {"a": [0, 1]}
    for text in ("a", "=3", "a=x", "a=3-1"):
        with pytest.raises(InputError, match=r"as|must be LAYER"):
            parse_widths([text])
    for keep in (0, [], [-1], -2):
        with pytest.raises(InputError, match="'a' must keep a channel at least"):
            CutRequest(widths={"a": keep})
