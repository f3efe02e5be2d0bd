"""The certificate: a right cut has one, and every kind of wrong cut is noticed."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from micro import Net, bn, conv
from torch import Tensor, nn

import slimnet
from slimnet.capture.trace import capture
from slimnet.coupling.couple import couple
from slimnet.coupling.groups import find_groups
from slimnet.errors import CertificateError
from slimnet.network import Network
from slimnet.plan.plan import make_plan
from slimnet.plan.rebuild import rebuild
from slimnet.planning.budget import removed_atoms
from slimnet.proof.certificate import TOLERANCE, Certificate, Check, certify
from slimnet.proof.reference import CutContext
from slimnet.proof.stand_ins import weights_of

IMAGE = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


def network(body=lambda m, x: m.b(m.n(m.a(x)).relu()), **parts):
    torch.manual_seed(0)
    model = Net(body, {"a": conv(3, 16), "n": bn(16), "b": conv(16, 4), **parts}).eval()
    nn.init.normal_(model.n.weight)
    model.n.running_mean.normal_()
    model.n.running_var.uniform_(0.5, 1.5)
    return model


def cut_by_hand(model, share=0.5):
    """(slim, proof): a random share of every group leaves."""
    trace = capture(Network.of(model), IMAGE)
    coupling = couple([trace])
    groups, layers = find_groups(Network.of(model), coupling)
    rng = np.random.default_rng(0)
    scores = {g.number: rng.random(g.size) for g in groups}
    kept = {g.number: int(g.size * share) for g in groups}
    removed = removed_atoms(groups, scores, kept)
    plan = make_plan(coupling, groups, layers, removed)
    context = CutContext(trace, coupling, plan)
    return rebuild(Network.of(model), plan), context


def state(model):
    return {name: (id(t), t.detach().clone()) for name, t in Network.of(model).tensors.items()}


def test_a_right_cut_is_certified_and_neither_network_changes():
    model = network()
    slim, context = cut_by_hand(model)
    before = state(model), state(slim)
    certificate = certify(Network.of(model), Network.of(slim), context, IMAGE, seed=3)
    assert certificate.error < 1e-12 <= TOLERANCE == certificate.tolerance
    assert [check.weights for check in certificate.checks] == ["real", "random"]
    assert certificate.exact and certificate.dtype == "float64" and certificate.seed == 3
    for old, new in zip(before, (state(model), state(slim)), strict=True):
        assert old.keys() == new.keys()
        assert all(old[n][0] == new[n][0] and torch.equal(old[n][1], new[n][1]) for n in old)
    assert model.a.weight.dtype == slim.a.weight.dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32


def perturb_weight(slim):
    slim.a.weight[3] *= 1 + 1e-6


def swap_two_channels(slim):
    slim.b.weight[:, [0, 1]] = slim.b.weight[:, [1, 0]]


def swap_buffers(slim):
    mean, var = slim.n.running_mean.clone(), slim.n.running_var.clone()
    slim.n.running_mean.copy_(var)
    slim.n.running_var.copy_(mean.abs())


def change_attribute(slim):
    slim.n.eps = 1e-3


def change_stride(slim):
    slim.b.stride = (2, 2)


def lose_bias(slim):
    slim.b.bias.zero_()


@pytest.mark.parametrize(
    "wrong",
    [perturb_weight, swap_two_channels, swap_buffers, change_attribute, change_stride, lose_bias],
)
def test_a_wrong_network_is_noticed(wrong):
    model = network()
    slim, context = cut_by_hand(model)
    certify(Network.of(model), Network.of(slim), context, IMAGE)
    with torch.no_grad():
        wrong(slim)
    with pytest.raises(CertificateError, match="is not the original with the removed channels"):
        certify(Network.of(model), Network.of(slim), context, IMAGE)


@pytest.mark.parametrize("name", ["a.weight", "a.bias", "n.weight", "n.running_mean", "b.weight"])
def test_one_wrong_index_is_noticed(name):
    model = network()
    _, context = cut_by_hand(model)
    wrong = with_a_wrong_index(context.plan, name)
    slim = Network.of(rebuild(Network.of(model), wrong))
    # the network was cut wrongly, or so planned, or so read
    for each in (context, replace(context, plan=wrong), misread(context, name)):
        with pytest.raises(CertificateError):
            certify(Network.of(model), slim, each, IMAGE)


def with_a_wrong_index(plan, name):
    """Another channel leaves one tensor than leaves the others."""
    ((axis, gone),) = plan.removed[name].items()
    other = next(k for k in range(16) if k not in gone)
    shifted = {name: {axis: tuple(sorted({*gone[1:], other}))}}
    return replace(plan, removed={**plan.removed, **shifted})


def misread(context, name):
    """What the plan with a wrong index looks like where the tensor's labels are as wrong."""
    wrong = with_a_wrong_index(context.plan, name)
    ((axis, right),) = context.plan.removed[name].items()
    weight = context.coupling.weights[name]
    labels = weight.axes[axis].copy()
    places = sorted({*right} ^ {*wrong.removed[name][axis]})
    labels[places] = labels[places[::-1]]
    axes = tuple(labels if d == axis else old for d, old in enumerate(weight.axes))
    weights = {**context.coupling.weights, name: replace(weight, axes=axes)}
    return replace(context, plan=wrong, coupling=replace(context.coupling, weights=weights))


def test_channels_that_are_zero_anyway_do_not_hide_a_wrong_cut():
    """The real weights agree; the random ones do not."""
    model = network()
    slim, context = cut_by_hand(model)
    with torch.no_grad():
        for tensor in (*model.parameters(), *slim.parameters()):
            tensor.zero_()
    certify(Network.of(model), Network.of(slim), context, IMAGE)
    wrong = misread(context, "b.weight")
    with pytest.raises(CertificateError, match="with random weights they differ at aten"):
        slim = Network.of(rebuild(Network.of(model), wrong.plan))
        certify(Network.of(model), slim, wrong, IMAGE)


def test_numbers_that_are_not_finite_and_shapes_that_differ_are_errors():
    model = network()
    slim, context = cut_by_hand(model)
    with torch.no_grad():
        slim.b.bias[0] = float("nan")
    with pytest.raises(CertificateError, match=r"differ at aten.convolution.default \(.*\) by inf"):
        certify(Network.of(model), Network.of(slim), context, IMAGE)


def test_the_example_itself_is_looked_at():
    def body(m, x):
        return m.b(m.n(m.a(x)).relu()) * m.last if x.mean() > 0 else m.b(m.n(m.a(x)).relu())

    model = network(body, last=1)
    slim, context = cut_by_hand(model)
    slim.last = 2
    low, high = (IMAGE[0].abs().neg(),), (IMAGE[0].abs(),)
    certify(Network.of(model), Network.of(slim), context, low)
    with pytest.raises(CertificateError):
        certify(Network.of(model), Network.of(slim), context, high)


NORMS = {
    "native_layer_norm": (
        partial(nn.LayerNorm, 16),
        lambda m, x: m.s(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    ),
    "native_group_norm": (partial(nn.GroupNorm, 4, 16), lambda m, x: m.s(x)),
    "_softmax": (partial(nn.Softmax, 1), lambda m, x: m.s(x)),
    "mean": (nn.Identity, lambda m, x: x * x.mean(1, keepdim=True)),
}


@pytest.mark.parametrize("operator", NORMS)
def test_statistics_are_listed_with_their_reasons_and_pass(operator):
    part, between = NORMS[operator]
    model = network(lambda m, x: m.b(between(m, m.a(x)).relu()), s=part)
    pruned = slimnet.prune(model, IMAGE, ratio=0.5, align=None)
    certificate = pruned.certificate
    assert not certificate.exact and certificate.error <= TOLERANCE
    (listed,) = certificate.approximate
    assert listed["layers"] == ["a"]
    assert listed["reasons"][0].startswith(f"aten.{operator} ")
    assert "test_certificate.py:" in listed["reasons"][0]
    assert pruned.model.a.out_channels == 8


def test_an_approximate_cut_that_is_wrong_is_noticed_as_well():
    model = network(lambda m, x: m.b(m.s(m.a(x)).relu()), s=partial(nn.GroupNorm, 4, 16))
    slim, context = cut_by_hand(model)
    certify(Network.of(model), Network.of(slim), context, IMAGE)
    with torch.no_grad():
        slim.s.weight[0] *= 1.001
    with pytest.raises(CertificateError):
        certify(Network.of(model), Network.of(slim), context, IMAGE)


def test_a_certificate_survives_json_and_says_what_was_checked():
    certificate = Certificate(
        2e-16,
        1e-9,
        (Check("real", 2e-16), Check("random", 1e-16)),
        ({"layers": ["a"], "reasons": ["aten.mean is a statistic over it"]},),
        seed=7,
    )
    again = Certificate.from_json(json.loads(json.dumps(certificate.to_json())))
    assert again == certificate and not again.exact
    assert certificate.to_json()["exact"] is False
    assert str(certificate) == (
        "slim = original with the removed channels zeroed: relative error 2.0e-16 (real weights "
        "2.0e-16, random weights 1.0e-16; float64, tolerance 1e-09; exact but for 1 statistics)"
    )


def test_random_weights_of_both_networks_are_the_same_numbers_cut():
    model = network()
    slim, context = cut_by_hand(model)
    full, small = weights_of("random", Network.of(model).tensors, context.plan, seed=0)
    for name, tensor in Network.of(slim).tensors.items():
        if tensor.is_floating_point():
            whole = full(name, Network.of(model).tensors[name])
            assert whole.dtype == torch.float64
            for axis, gone in context.plan.removed.get(name, {}).items():
                kept = [k for k in range(whole.shape[axis]) if k not in gone]
                whole = whole.index_select(axis, torch.tensor(kept))
            assert torch.equal(small(name, tensor), whole), name
    again, _ = weights_of("random", Network.of(model).tensors, context.plan, seed=0)
    other, _ = weights_of("random", Network.of(model).tensors, context.plan, seed=1)
    assert torch.equal(full("a.weight", model.a.weight), again("a.weight", model.a.weight))
    assert not torch.equal(full("a.weight", model.a.weight), other("a.weight", model.a.weight))


def test_no_second_copy_of_the_weights_is_held():
    """While it runs, only a few layers' doubles are alive at any time."""
    depth, width = 5, 32
    layers = {f"c{k}": conv(width, width) for k in range(depth)}

    def body(m, x):
        x = m.a(x)
        for k in range(depth):
            watch.append(alive(width))
            x = getattr(m, f"c{k}")(x).relu()
        return m.b(x)

    watch: list[int] = []
    model = network(body, a=conv(3, width), b=conv(width, 4), **layers)
    slim, context = cut_by_hand(model)
    watch.clear()
    gc.collect()
    before = alive(width)
    certify(Network.of(model), Network.of(slim), context, IMAGE)
    assert max(watch) - before <= 3, watch
    assert len(watch) == 4 * depth


def alive(width):
    """How many tensors of the size of one inner weight are alive, in double precision."""
    return sum(
        1
        for held in gc.get_objects()
        if type(held) is Tensor
        and held.dim() == 4
        and held.dtype == torch.float64
        and held.shape[0] in (width, width // 2)
        and held.shape[2:] == (3, 3)
    )


@pytest.mark.parametrize("rows", [0, 1])
def test_buffers_without_elements_or_dimensions_are_fine(rows):
    model = network(lambda m, x: torch.cat([m.b(m.n(m.a(x))).flatten() * m.scale, m.none]))
    model.register_buffer("none", torch.zeros(rows))
    model.register_buffer("scale", torch.tensor(2.0))
    assert slimnet.prune(model, IMAGE, ratio=0.5).certificate.error <= TOLERANCE


def test_integer_and_boolean_inputs_and_outputs_are_compared():
    model = network(lambda m, x, k: (m.b(m.a(x)) * k, m.b(m.a(x)).argmax(1)))
    pruned = slimnet.prune(model, (*IMAGE, torch.tensor(3)), ratio=0.5, align=None)
    assert pruned.certificate.error <= TOLERANCE


def test_a_forward_that_makes_float32_tensors_is_checked_in_float64():
    def body(m, x):
        return m.b(m.a(x) + torch.ones(1, dtype=torch.float32) * x.float().mean().to(torch.float32))

    pruned = slimnet.prune(network(body), IMAGE, ratio=0.5, align=None)
    assert pruned.certificate.error <= 1e-12
