"""What hangs together in whole networks, and what a pin says."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from micro import Net, bn, buffer, conv, lin, weight
from torch import nn

from slimnet.capture.trace import capture
from slimnet.coupling.couple import Pin, couple
from slimnet.coupling.survival import Survival
from slimnet.network import Network

IMAGE = (torch.randn(2, 3, 8, 8),)


def coupled(body, *, example=IMAGE, pins=(), traces=1, **parts):
    model = Net(body, {"a": conv(3, 16), "b": conv(16, 4), **parts}).eval()
    return couple([capture(Network.of(model), example) for _ in range(traces)], pins=pins)


def atoms(coupling, name, axis=0):
    return coupling.atoms.of[coupling.weights[name].axes[axis]]


def free(coupling, name, axis=0):
    return coupling.atoms.free[atoms(coupling, name, axis)]


def reason(coupling, name, slot=0, axis=0):
    (found,) = coupling.reasons_of(atoms(coupling, name, axis)[slot : slot + 1])
    return str(found)


def test_a_layers_outputs_are_its_readers_inputs():
    coupling = coupled(lambda m, x: m.b(m.n(m.a(x)).relu()), n=bn(16))
    made = atoms(coupling, "a.weight")
    assert len(np.unique(made)) == 16 and free(coupling, "a.weight").all()
    for name in ("a.bias", "n.weight", "n.bias", "n.running_mean", "n.running_var"):
        np.testing.assert_array_equal(atoms(coupling, name), made)
    np.testing.assert_array_equal(atoms(coupling, "b.weight", 1), made)


def test_inputs_and_outputs_of_the_network_stay():
    coupling = coupled(lambda m, x: m.b(m.a(x)))
    assert not free(coupling, "a.weight", 1).any()
    assert not free(coupling, "b.weight").any()
    assert reason(coupling, "b.weight") == "it is an output of the network"
    assert reason(coupling, "a.weight", axis=1).startswith("aten.convolution meets it with an axis")


def test_a_residual_ties_both_branches():
    coupling = coupled(lambda m, x: m.b(m.a(x) + m.c(m.a(x))), c=conv(16, 16))
    np.testing.assert_array_equal(atoms(coupling, "a.weight"), atoms(coupling, "c.weight"))
    np.testing.assert_array_equal(atoms(coupling, "c.weight", 1), atoms(coupling, "c.weight"))


def test_a_flattened_map_repeats_its_channels():
    coupling = coupled(lambda m, x: m.f(m.a(x).flatten(1)), f=lin(16 * 64, 4))
    np.testing.assert_array_equal(
        atoms(coupling, "f.weight", 1), np.repeat(atoms(coupling, "a.weight"), 64)
    )


def test_two_networks_in_one_do_not_touch():
    coupling = coupled(lambda m, x: (m.b(m.a(x)), m.d(m.c(x))), c=conv(3, 16), d=conv(16, 4))
    assert not set(atoms(coupling, "a.weight")) & set(atoms(coupling, "c.weight"))
    assert free(coupling, "a.weight").all() and free(coupling, "c.weight").all()


def test_several_passes_see_more_than_one():
    """What one pass frees another may pin: both call the same layers."""
    model = Net(lambda m, x, k: m.b(m.a(x)) if k else m.a(x), {"a": conv(3, 16), "b": conv(16, 4)})
    inner, outer = (capture(Network.of(model.eval()), (*IMAGE, k)) for k in (1, 0))
    assert free(couple([inner]), "a.weight").all()
    assert not free(couple([inner, outer]), "a.weight").any()


def test_a_fix_is_found_for_an_attribute_and_none_for_a_literal():
    fixed = coupled(lambda m, x: m.b(m.a(x).view(-1, m.width, 8, 8)), width=16)
    (fix,) = fixed.fixes
    assert str(fix.attribute) == "width" and fix.old == 16
    assert fix.value(Survival.without(fixed.atoms, atoms(fixed, "a.weight")[:5])) == 11
    literal = coupled(lambda m, x: m.b(m.a(x).view(-1, 16, 8, 8)))
    assert not literal.fixes and not free(literal, "a.weight").any()
    assert "is given the literal size 16 (test_couple.py:" in reason(literal, "a.weight")


def test_an_index_buffer_is_remapped():
    def reverse():
        return nn.Buffer(torch.arange(15, -1, -1))

    coupling = coupled(lambda m, x: m.b(m.a(x)[:, m.order]), order=partial(reverse))
    (remap,) = coupling.remaps
    assert remap.name == "order"
    np.testing.assert_array_equal(coupling.atoms.of[remap.axis], atoms(coupling, "a.weight"))
    np.testing.assert_array_equal(atoms(coupling, "b.weight", 1), atoms(coupling, "a.weight")[::-1])


def test_a_pin_found_by_trying_holds_what_its_call_touches():
    coupling = coupled(lambda m, x: m.b(m.a(x).relu()), pins=[Pin(1, "breaks")])
    assert not free(coupling, "a.weight").any()
    assert reason(coupling, "a.weight").startswith("breaks (test_couple.py:")


def test_without_a_rule_everything_that_an_operator_touches_stays():
    coupling = coupled(
        lambda m, x: m.b(m.a(x) + torch.fft.ifft(torch.fft.fft(m.c(x))).real), c=conv(3, 16)
    )
    assert not free(coupling, "c.weight").any() and not free(coupling, "a.weight").any()
    assert "has no rule (test_couple.py:" in reason(coupling, "c.weight")


def test_a_raw_parameter_and_a_buffer_are_tied_like_layers():
    coupling = coupled(
        lambda m, x: m.b(m.a(x) * m.s + m.t), s=weight(16, 1, 1), t=buffer(1, 16, 1, 1)
    )
    np.testing.assert_array_equal(atoms(coupling, "s"), atoms(coupling, "a.weight"))
    np.testing.assert_array_equal(atoms(coupling, "t", 1), atoms(coupling, "a.weight"))


def test_a_view_takes_the_reading_that_leaves_most_free():
    """[16 = 2 × 8] then a layer over the 8: the other factor must not carry the labels."""
    coupling = coupled(
        lambda m, x: m.f(m.a(x).mean((2, 3)).view(x.shape[0], 2, -1)).flatten(1), f=lin(8, 4)
    )
    made = atoms(coupling, "a.weight").reshape(2, 8)
    np.testing.assert_array_equal(made[0], made[1])
    assert free(coupling, "a.weight").all()


def test_only_parameters_that_ran_have_labels():
    coupling = coupled(lambda m, x: m.b(m.a(x)), unused=conv(3, 3))
    assert set(coupling.weights) == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_padded_slots_may_go_where_code_computes_their_number():
    """As BlazeFace pads its shortcut."""

    def block(m, x):
        y = m.a(x)
        return m.b(m.c(y) + F.pad(y, (0, 0, 0, 0, 0, m.extra)))

    parts = {"b": conv(24, 4), "c": conv(16, 24)}
    coupling = coupled(block, **parts, extra=8)
    assert free(coupling, "c.weight").all() and free(coupling, "a.weight").all()
    (fix,) = coupling.fixes
    for gone in (0, 3, 8):
        removed = atoms(coupling, "c.weight")[16 : 16 + gone]
        assert fix.value(Survival.without(coupling.atoms, removed)) == 8 - gone
    literal = coupled(lambda m, x: m.b(m.c(m.a(x)) + F.pad(m.a(x), (0, 0, 0, 0, 8, 0))), **parts)
    assert free(literal, "c.weight")[8:].all() and not free(literal, "c.weight")[:8].any()


@pytest.mark.parametrize(
    ("amount", "expected"), [(lambda m: m.o - m.i, 16), (lambda m: m.extra + 0, 0)]
)
def test_padding_that_is_computed_may_become_nothing(amount, expected):
    def block(m, x):
        y = m.a(x)
        return m.b(m.c(y) + F.pad(y, (0, 0, 0, 0, 0, amount(m))))

    coupling = coupled(block, b=conv(24, 4), c=conv(16, 24), o=24, i=16, extra=8)
    survival = Survival.without(coupling.atoms, atoms(coupling, "c.weight")[16:])
    assert [fix.value(survival) for fix in coupling.fixes] == [expected]


HEAD_VIEWS = {
    "heads and width": lambda m, n: (n[0], n[1], m.heads, m.width),
    "tokens computed": lambda m, n: (n[0], -1, m.heads, m.width),
    "heads computed": lambda m, n: (n[0], n[1], -1, m.width),
    "width computed": lambda m, n: (n[0], n[1], m.heads, -1),
}


@pytest.mark.parametrize("heads", [False, True], ids=["widths", "heads"])
@pytest.mark.parametrize("theirs", HEAD_VIEWS)
@pytest.mark.parametrize("own", HEAD_VIEWS)
def test_queries_and_keys_may_name_their_sizes_in_different_ways(own, theirs, heads):
    def body(m, x):
        def split(layer, view):
            return layer(x).view(HEAD_VIEWS[view](m, x.shape[:2])).transpose(1, 2)

        y = F.scaled_dot_product_attention(split(m.q, own), split(m.k, theirs), split(m.v, theirs))
        return m.o(y.transpose(1, 2).flatten(2))

    parts = {name: lin(8, 32) for name in "qkv"} | {"o": lin(32, 4), "heads": 4, "width": 8}
    model = Net(body, parts).eval()
    coupling = couple([capture(Network.of(model), (torch.randn(2, 5, 8),))], heads=heads)
    for name in "qkv":
        assert free(coupling, f"{name}.weight").all()
        rows = atoms(coupling, f"{name}.weight").reshape(4, 8)
        whole, part = (rows == rows[:, :1]).all(), (rows == rows[:1]).all()
        assert whole != part and (whole or not heads)


def test_each_attention_of_a_network_has_its_own_reading():
    """One whose queries state the width and one whose keys do, and a projection that stays."""

    def attended(m, x, own, theirs):
        q, k, v = (
            layer(x).view(HEAD_VIEWS[view](m, x.shape[:2])).transpose(1, 2)
            for layer, view in ((m.q, own), (m.k, theirs), (m.v, theirs))
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def body(m, x):
        y = attended(m.one, x, "heads computed", "heads and width")
        z = attended(m.two, x, "width computed", "heads computed")
        return m.o(y + z), m.p(x).view(*x.shape[:2], 4, -1)

    attention = {name: lin(8, 32) for name in "qkv"} | {"heads": 4, "width": 8}
    parts = {key: partial(Net, None, attention) for key in ("one", "two")}
    model = Net(body, parts | {"o": lin(32, 4), "p": lin(8, 32)}).eval()
    coupling = couple([capture(Network.of(model), (torch.randn(2, 5, 8),))])
    for name in "qkv":
        assert free(coupling, f"one.{name}.weight").all()
        assert free(coupling, f"two.{name}.weight").all()


@pytest.mark.parametrize("name", ["topk", "kthvalue"])
def test_how_many_are_compared_is_a_size_that_stays(name):
    def body(m, x):
        y = m.a(x)
        best = getattr(y.flatten(2), name)(m.width, 2).values
        return m.b(y.view(-1, m.width, 8, 8)), best.sum()

    def alone(m, x):
        return m.b(m.a(x).view(-1, m.width, 8, 8))

    assert not free(coupled(body, width=16), "a.weight").any()
    assert free(coupled(alone, width=16), "a.weight").all()
