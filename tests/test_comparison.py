"""Call by call: no output hides a wrong call, no input is out of range, nothing is unseen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from micro import Net, conv
from test_certificate import IMAGE, cut_by_hand, misread, network, with_a_wrong_index
from torch import nn

import slimnet
from slimnet.errors import CertificateError
from slimnet.network import Network
from slimnet.plan.rebuild import rebuild
from slimnet.proof.certificate import Mismatch, certify
from slimnet.proof.comparison import Departed, observe
from slimnet.proof.inputs import permuted, stacked, variants
from slimnet.proof.stand_ins import weights_of

HIDING = {
    "argmax": lambda m, x: m.b(m.n(m.a(x)).relu()).argmax(1),
    "a comparison": lambda m, x: m.b(m.n(m.a(x)).relu()) > 1e9,
    "a constant": lambda m, x: m.b(m.n(m.a(x)).relu()) * 0,
    "nothing": lambda m, x: m.b(m.n(m.a(x)).relu())[:0],
    "an unread result": lambda m, x: (m.b(m.n(m.a(x)).relu()), x)[1],
}


@pytest.mark.parametrize("output", HIDING)
def test_an_output_that_shows_nothing_hides_no_wrong_cut(output):
    model = network(HIDING[output])
    slim, context = cut_by_hand(model)
    for name in ("a.weight", "n.weight", "n.running_mean"):
        wrong = misread(context, name)
        with pytest.raises(Mismatch):
            badly_cut = Network.of(rebuild(Network.of(model), wrong.plan))
            certify(Network.of(model), badly_cut, wrong, IMAGE)
    certificate = certify(Network.of(model), Network.of(slim), context, IMAGE)
    assert certificate.layers == 3 and certificate.calls >= 4


def test_a_batch_of_nothing_proves_nothing():
    model = network()
    slim, context = cut_by_hand(model)
    with pytest.raises(CertificateError, match="nothing can be proven of a"):
        certify(Network.of(model), Network.of(slim), context, (IMAGE[0][:0],))


def test_the_first_call_that_differs_is_named():
    model = network()
    slim, context = cut_by_hand(model)
    slim.n.eps = 1e-3
    with pytest.raises(Mismatch, match=r"at aten.*batch_norm.* \(.*in n \(") as caught:
        certify(Network.of(model), Network.of(slim), context, IMAGE)
    assert caught.value.runs[0][-1].site.module == "n"


def test_every_random_vector_has_both_signs_and_variances_none():
    model = network(p=nn.PReLU(16))
    full, _ = weights_of("random", Network.of(model).tensors, slimnet.Plan({}), seed=0)
    for name, tensor in [*model.named_parameters(), ("n.running_mean", model.n.running_mean)]:
        values = full(name, tensor)
        assert values.lt(0).any() and values.gt(0).any(), name
    assert full("n.running_var", model.n.running_var).gt(0).all()
    positive, _ = weights_of("positive", Network.of(model).tensors, slimnet.Plan({}), seed=0)
    assert positive("n.weight", model.n.weight).gt(0).all()


def test_no_two_tensors_get_the_same_random_numbers():
    """Else a weight that is read in another's place would go unnoticed."""
    model = Net(lambda m, x: x, {"a": conv(8, 8), "b": conv(8, 8)})
    full, small = weights_of("random", Network.of(model).tensors, slimnet.Plan({}), seed=0)
    for values in (full, small):
        assert not torch.equal(
            values("a.weight", model.a.weight), values("b.weight", model.b.weight)
        )


def test_inputs_keep_to_the_examples_own_values():
    x = torch.rand(1, 3, 8, 8) + 0.5
    k = torch.tensor([[1, 2, 3]])
    two, one, same = variants((x, k), seed=0)
    assert two[0].shape == (2, 3, 8, 8) and two[1].shape == (2, 3)
    for given in (two, one):
        assert np.isin(given[0].numpy(), x.numpy()).all()
        assert not torch.equal(given[0][:1], x)
        assert torch.equal(given[1][:1], k)
    assert same[0] is x
    noise = permuted((torch.zeros(2, 3),), seed=0)[0]
    assert noise.lt(0).any() and noise.gt(0).any()


@pytest.mark.parametrize("example", [(torch.rand(2, 3),), (torch.rand(3),), (torch.tensor(1.0), 3)])
def test_what_shows_no_batch_of_one_is_not_stacked(example):
    assert stacked(example, seed=0) is None


RANGES = {
    "a root": (lambda m, x: m.b(m.a(x.sqrt()).relu()), torch.rand(1, 3, 8, 8)),
    "a logarithm": (lambda m, x: m.b(m.a(x.log()).relu()), torch.rand(1, 3, 8, 8) + 0.1),
    "an angle": (lambda m, x: m.b(m.a(x.acos()).relu()), torch.rand(1, 3, 8, 8) * 2 - 1),
    "a checked range": (
        lambda m, x: m.b(m.a(x).relu()) if x.min() >= 0 and x.max() <= 1 else x / 0,
        torch.rand(1, 3, 8, 8),
    ),
}


@pytest.mark.parametrize("reads", RANGES)
def test_inputs_of_a_range_are_no_obstacle(reads):
    body, x = RANGES[reads]
    pruned = slimnet.prune(network(body), (x,), ratio=0.5, align=None)
    assert pruned.certificate.exact and pruned.model.a.out_channels == 8


def test_a_batch_of_two_is_proven_where_samples_are_apart_and_one_elsewhere():
    def mixed(m, x):  # what becomes of a sample depends on how many there are
        y = m.a(x)
        return m.b(y / y.shape[1] ** (len(x) - 1))

    for body, batch in ((lambda m, x: m.b(m.a(x).relu()), 2), (mixed, 1)):
        pruned = slimnet.prune(network(body), (IMAGE[0][:1],), ratio=0.5, align=None)
        assert pruned.model.a.out_channels == 8
        assert pruned.certificate.checks[1].batch == batch


RANDOM = {
    "noise of one channel": lambda m, x: m.b(m.a(x) + torch.randn(len(x), 1, 1, 1)),
    "noise of all channels": lambda m, x: m.b(m.a(x) + torch.randn_like(m.a(x))),
    "dropout": lambda m, x: m.b(nn.functional.dropout(m.a(x), 0.5, training=True)),
    "numbers in place": lambda m, x: m.b(m.a(x) * torch.zeros_like(m.a(x)).bernoulli_(0.5)),
    "a random place": lambda m, x: m.b(m.a(x)) + m.a(x)[0, 0, torch.randint(8, ())].mean(),
    "NumPy's": lambda m, x: m.b(m.a(x) * float(np.random.default_rng().bit_generator is not None)),
    "NumPy's global": lambda m, x: m.b(m.a(x) * np.random.rand()),
}


@pytest.mark.parametrize("draws", RANDOM)
def test_random_numbers_in_forward_are_alike_in_both(draws):
    model = network(RANDOM[draws])
    pruned = slimnet.prune(model, IMAGE, ratio=0.5, align=None)
    assert pruned.certificate.error < 1e-12
    if draws != "a random place":
        assert pruned.model.a.out_channels == 8
    slim, context = cut_by_hand(model)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    certify(Network.of(model), Network.of(slim), context, IMAGE)
    assert torch.equal(state[0], torch.get_rng_state())
    assert np.array_equal(state[1], np.random.get_state()[1])
    with torch.no_grad():
        slim.a.weight[[0, 1]] = slim.a.weight[[1, 0]]
    with pytest.raises(Mismatch):
        certify(Network.of(model), Network.of(slim), context, IMAGE)


def test_a_network_that_differs_from_itself_is_said_to():
    passes = []

    def counted(m, x):
        passes.append(1)
        return m.b(m.a(x)) * len(passes)

    model = network(counted)
    slim, context = cut_by_hand(model)
    with pytest.raises(CertificateError, match="Net differs from itself: two passes on the same"):
        certify(Network.of(model), Network.of(slim), context, IMAGE)


def test_only_what_training_runs_is_proven_in_a_training_pass():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
            self.b, self.aux = nn.Conv2d(16, 4, 3), nn.Conv2d(16, 5, 3)

        def forward(self, x):
            y = self.n(self.a(x)).relu()
            return (self.b(y), self.aux(y)) if self.training else self.b(y)

    model = Auxiliary().eval()
    pruned = slimnet.prune(model, IMAGE, ratio=0.5, align=None)
    assert pruned.model.aux.in_channels == 8
    for certificate in (pruned.certificate, slimnet.verify(pruned, model)):
        assert [check.weights for check in certificate.checks] == ["real", "random", "random"]
        assert certificate.changed == ()
    wrong = replace(pruned, plan=with_a_wrong_index(pruned.plan, "aux.weight"))
    wrong = replace(wrong, model=rebuild(Network.of(model), wrong.plan))
    with pytest.raises(CertificateError):
        slimnet.verify(wrong, model)


def test_a_pass_that_leaves_the_recorded_one_ends_there_where_others_can_be_tried():
    ends = []

    def branched(m, x):
        y = m.n(m.a(x))
        y = y.relu() if x.flatten()[0] == IMAGE[0].flatten()[0] else y.tanh()
        ends.append(len(x))
        return m.b(y)

    model = network(branched)
    _, context = cut_by_hand(model)
    full, _ = weights_of("real", Network.of(model).tensors, context.plan, seed=0)
    del ends[:]
    with pytest.raises(Departed):
        observe(Network.of(model), full, context, (IMAGE[0] + 1,), 0, strict=True)
    assert ends == []
    assert not observe(Network.of(model), full, context, (IMAGE[0] + 1,), 0).follows and ends == [2]
    assert observe(Network.of(model), full, context, IMAGE, 0, strict=True).follows
