"""Rounds of pruning compose: plans, proofs and files are relative to the original network."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import slimnet
from slimnet.errors import CertificateError, InputError
from slimnet.lineage import lineage_of
from slimnet.models import MODELS
from slimnet.network import Network
from slimnet.plan.rebuild import rebuild
from slimnet.program.program import LITERALS


def digits(name="digits_resnet"):
    torch.manual_seed(0)
    return MODELS[name].make().eval(), (torch.randn(1, *MODELS[name].input_shape),)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU())
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


def mine():
    torch.manual_seed(0)
    return Net().eval(), (torch.randn(2, 3, 8, 8),)


def again(pruned, how, tmp_path):
    """What a second round is given."""
    if how == "pruned":
        return (pruned,)
    if how == "its model":
        return pruned.model, pruned.example
    path = slimnet.save(pruned, tmp_path / f"round{len(list(tmp_path.iterdir()))}.pt")
    into = Net() if how == "a file with its class" else None
    return slimnet.load(path, into), pruned.example


HOW = ["pruned", "its model", "a file with its class", "a file"]


@pytest.mark.parametrize("how", HOW)
def test_rounds_compose(how, tmp_path):
    model, example = mine()
    pruned = slimnet.prune(model, example, ratio=0.3, align=None)
    for _ in range(2):
        pruned = slimnet.prune(*again(pruned, how, tmp_path), ratio=0.2, align=None)
    whole, certificate = pruned.whole()
    assert "pruned in more than one step" in whole.notes and certificate.error < 1e-9
    same = Network.of(pruned.model).tensors
    assert all(
        torch.equal(same[n], t)
        for n, t in Network.of(rebuild(Network.of(model), whole)).tensors.items()
    )
    path = slimnet.save(pruned, tmp_path / "slim.pt")
    assert slimnet.verify(path, model).error < 1e-9
    assert slimnet.verify(pruned, model).error < 1e-9
    x = torch.randn(5, 3, 8, 8)
    for loaded in (slimnet.load(path), slimnet.load(path, into=Net())):
        assert torch.equal(loaded(x), pruned.model(x))
    assert not pruned.trained


class Heads(nn.Module):
    """Its class reads a size from an attribute; its program has it as a literal."""

    def __init__(self):
        super().__init__()
        self.dim = 32
        self.first, self.head = nn.Linear(8, 2 * self.dim), nn.Linear(self.dim, 4)

    def forward(self, x):
        return self.head(self.first(x).view(-1, 2, self.dim).relu().sum(1))


def test_literals_of_a_program_are_mended_in_a_later_round(tmp_path):
    model, x = Heads().eval(), torch.randn(3, 8)
    first = slimnet.prune(model, (x,), ratio=0.25, align=None)
    second = slimnet.prune(*again(first, "a file", tmp_path), ratio=0.25, align=None)
    assert {change.module for change in second.plan.changes} == {LITERALS}
    path = slimnet.save(second, tmp_path / "slim.pt")
    assert torch.equal(slimnet.load(path)(x), second.model(x))
    assert torch.equal(slimnet.load(path, into=Heads())(x), second.model(x))
    assert slimnet.verify(path, model).error < 1e-9


def test_a_second_round_is_proven_against_either_network():
    model, example = mine()
    first = slimnet.prune(model, example, ratio=0.3, align=None)
    second = slimnet.prune(first, ratio=0.3, align=None)
    assert second.plan.before == first.plan.after
    for against in (model, first.model):
        assert slimnet.verify(second, against).error < 1e-9
    with pytest.raises(CertificateError):
        slimnet.verify(second, Net().eval())


def test_the_certificate_of_all_rounds_is_kept(tmp_path):
    model, example = mine()
    first = slimnet.prune(model, example, ratio=0.3, align=None)
    second = slimnet.prune(first, ratio=0.3, align=None)
    _, both = second.whole()
    assert both.error == max(first.certificate.error, second.certificate.error)
    unproven = slimnet.prune(model, example, ratio=0.3, align=None, verify=False)
    assert slimnet.prune(unproven, ratio=0.3, align=None).whole()[1] is None
    assert slimnet.prune(first, ratio=0.3, align=None, verify=False).whole()[1] is None


def test_blocks_that_leave_in_a_later_round(tmp_path):
    model, example = digits("resnet20")
    first = slimnet.prune(model, example, ratio=0.25, align=None)
    second = slimnet.prune(first, drop_blocks=["layer2.1"], ratio=0.25, align=None)
    third = slimnet.prune(second.model, example, drop_blocks=["layer3.2"])
    path = slimnet.save(third, tmp_path / "slim.pt", "slimnet:resnet20")
    assert slimnet.verify(path, model).error < 1e-9
    assert slimnet.verify(third, model).error < 1e-9
    assert slimnet.verify(third, second.model).error < 1e-9
    assert torch.equal(slimnet.load(path)(*example), third.model(*example))


def test_a_network_that_was_trained_in_between_is_known_to_be(tmp_path):
    model, example = mine()
    first = slimnet.prune(model, example, ratio=0.3, align=None)
    optimizer = torch.optim.SGD(first.model.parameters(), lr=0.1)
    first.model(*example).sum().backward()
    optimizer.step()
    second = slimnet.prune(first.model, example, ratio=0.3, align=None)
    assert second.trained
    path = slimnet.save(second, tmp_path / "slim.pt")
    assert [check.weights for check in slimnet.verify(path, model).checks] == ["random"]
    assert [check.weights for check in slimnet.verify(second, model).checks] == ["random"]


def test_statistics_that_were_estimated_anew_count_as_trained():
    model, example = digits("digits_vgg")
    first = slimnet.prune(model, example, ratio=0.25)
    slimnet.prune(first, ratio=0.25)
    assert not lineage_of(Network.of(first.model)).trained
    first.model.train()(torch.cat([*example, *example]))
    first.model.eval()
    assert slimnet.prune(first, ratio=0.25).trained


def test_a_repaired_network_stays_known_as_changed():
    model, example = digits("digits_vgg")
    data = torch.randn(64, *example[0].shape[1:])
    first = slimnet.prune(model, example, ratio=0.25, repair=True, data=data)
    assert slimnet.prune(first, ratio=0.25).trained


def test_a_network_whose_shapes_changed_is_not_known_any_more():
    model, example = mine()
    first = slimnet.prune(model, example, ratio=0.3, align=None)
    first.model.head = nn.Linear(first.model.head.in_features, 7)
    assert lineage_of(Network.of(first.model)) is None
    assert slimnet.prune(first.model, example, ratio=0.3, align=None).earlier is None


def test_nothing_keeps_a_slim_network_alive():
    model, example = mine()
    slim = weakref.ref(slimnet.prune(model, example, ratio=0.3, align=None).model)
    gc.collect()
    assert slim() is None
    assert lineage_of(Network.of(model)) is None


class Equal(Net):
    """A class that defines equality cannot be hashed."""

    def __eq__(self, other):
        return True

    __hash__ = None


def test_a_network_need_not_be_hashable():
    _, example = mine()
    first = slimnet.prune(Equal().eval(), example, ratio=0.3, align=None)
    assert slimnet.prune(first, ratio=0.3, align=None).earlier is not None
    assert lineage_of(Network.of(Equal())) is None


def test_an_example_is_needed_once():
    model, _ = mine()
    with pytest.raises(InputError, match="example must be a tuple of the positional inputs"):
        slimnet.prune(model, ratio=0.5)
