"""Groups: atoms with the same places; layers: what may leave, and why the rest may not."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from micro import Net, bn, conv, lin, weight
from torch import nn

from slimnet.capture.trace import capture
from slimnet.coupling.couple import couple
from slimnet.coupling.groups import NARROW, find_groups
from slimnet.network import Network

IMAGE = (torch.randn(2, 3, 8, 8),)


def found(body, *, example=IMAGE, **parts):
    model = Net(body, {"a": conv(3, 16), "b": conv(16, 4), **parts}).eval()
    groups, layers = find_groups(Network.of(model), couple([capture(Network.of(model), example)]))
    return groups, {layer.name: layer for layer in layers}


def places(group):
    return {(axis.name, axis.dim): axis.role for axis in group.axes}


def test_a_group_is_every_axis_its_channels_occupy():
    (group,), layers = found(lambda m, x: m.b(m.n(m.a(x)).relu()), n=bn(16))
    assert places(group) == {
        ("a.weight", 0): "out",
        ("a.bias", 0): "vector",
        ("n.weight", 0): "scale",
        ("n.bias", 0): "vector",
        ("n.running_mean", 0): "buffer",
        ("n.running_var", 0): "buffer",
        ("b.weight", 1): "in",
    }
    assert (group.size, group.width, group.layers, group.approximate) == (16, 16, ("a",), ())
    assert layers["a"].prunable == layers["a"].channels == 16 and layers["a"].groups == (0,)


def test_members_say_which_channel_each_position_belongs_to():
    (group,), _ = found(lambda m, x: m.f(m.a(x).flip(1).flatten(1)), f=lin(16 * 64, 4))
    axes = {axis.name: axis for axis in group.axes}
    made, read = axes["a.weight"], axes["f.weight"]
    assert read.dim == 1 and len(read.positions) == 16 * 64
    np.testing.assert_array_equal(made.members, np.arange(16))
    np.testing.assert_array_equal(read.members, np.repeat(made.members[::-1], 64))


def test_a_residual_is_one_group_of_both_its_makers():
    groups, layers = found(lambda m, x: m.b(m.a(x) + m.c(m.a(x))), c=conv(16, 16))
    assert [group.layers for group in groups] == [("a", "c")]
    assert layers["c"].groups == layers["a"].groups


def test_channels_of_one_layer_with_different_readers_are_different_groups():
    _, layers = found(
        lambda m, x: (m.b(m.a(x)[:, :8]), m.c(m.a(x)[:, -8:])), b=conv(8, 4), c=conv(8, 4)
    )
    assert layers["a"].prunable == 0  # a literal bound: both halves stay
    groups, layers = found(
        lambda m, x: [
            part(y) for part, y in zip((m.b, m.c), m.a(x).split(m.sizes, 1), strict=True)
        ],
        b=conv(8, 4),
        c=conv(8, 4),
        sizes=[8, 8],
    )
    assert len(groups) == 2 and layers["a"].groups == (0, 1) and layers["a"].prunable == 16


def test_channels_that_leave_in_pairs_are_atoms_of_two():
    (group, other), _ = found(lambda m, x: m.b(m.g(m.a(x))), g=conv(16, 16, groups=2))
    assert group.size == 8 and group.width == 16 and group.channels_per_atom == 2
    assert other.size == 8 and other.layers == ("g",)


@pytest.mark.parametrize("width", [NARROW - 1, NARROW])
def test_narrow_groups_are_left_alone(width):
    groups, layers = found(lambda m, x: m.b(m.a(x)), a=conv(3, width), b=conv(width, 4))
    assert len(groups) == (width >= NARROW)
    if width < NARROW:
        assert layers["a"].reasons == (
            "fewer than 8 channels hang together there: left alone, unless a lower minimum is "
            "asked for (--min-channels 1)",
        )


@pytest.mark.parametrize(("least", "number"), [(None, 0), (9, 0), (7, 0), (6, 1), (1, 1)])
def test_narrow_groups_leave_where_a_lower_minimum_is_asked_for(least, number):
    model = Net(lambda m, x: m.b(m.a(x)), {"a": conv(3, 6), "b": conv(6, 4)}).eval()
    groups, layers = find_groups(
        Network.of(model), couple([capture(Network.of(model), IMAGE)]), least
    )
    assert len(groups) == number and layers[0].prunable == 6 * number


def test_channels_that_can_only_leave_at_once_stay():
    _, layers = found(lambda m, x: m.b(F.pixel_shuffle(m.a(x), 4)), b=conv(1, 4))
    assert layers["a"].prunable == 0
    assert layers["a"].reasons == ("all its channels hang together: they could only leave at once",)


@pytest.mark.parametrize(("width", "free"), [(60, 60), (54, 54), (24, 24), (9, 0)])
def test_a_shuffle_between_groups_says_what_ties_all_channels(width, free):
    """As ShuffleNet has it: 60 channels in 3 groups of 20, which 3 does not divide.

    Of 9, each group of the second convolution reads one place of the groups of the first.
    """

    def shuffled(m, x):
        y = m.a(m.s(x))
        n, c, h, w = y.shape
        y = y.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, -1, h, w)
        return m.b(m.c(m.d(y)))

    _, layers = found(
        shuffled,
        s=conv(3, 48),
        a=conv(48, width, 1, groups=3),
        d=conv(width, width, groups=width),
        c=conv(width, 48, 1, groups=3),
        b=conv(48, 4),
    )
    assert layers["a"].prunable == free
    if not free:
        (reason,) = layers["a"].reasons
        assert reason.startswith("aten.convolution divides it into 3 (")
        end = (
            ": the same places of the one and the same number of the other have to leave every "
            "block, which only all of them do"
        )
        assert reason.endswith(end)
        assert "in a (" in reason or "in a)" in reason
        assert "in c (" in reason or "in c)" in reason


def test_each_layer_that_stays_says_why_most_frequent_first():
    _, layers = found(lambda m, x: m.b(m.a(x) + m.a(x)[:, 2:3]))
    assert layers["a"].prunable == 13
    assert layers["b"].reasons == ("it is an output of the network",)
    (reason,) = layers["a"].reasons[:1]
    assert reason.startswith("aten.")
    assert "test_groups.py:" in reason


def test_a_layer_that_never_ran_says_so():
    _, layers = found(lambda m, x: m.b(m.a(x)), head=conv(16, 9))
    head = layers["head"]
    assert (head.kind, head.channels, head.prunable) == ("Conv2d", 9, 0)
    assert head.reasons == ("it was never used while the example ran through the network",)


def test_a_statistic_makes_its_group_approximate_and_no_other():
    groups, _ = found(
        lambda m, x: m.b(m.c(m.n(m.a(x)))), n=partial(nn.GroupNorm, 4, 16), c=conv(16, 16)
    )
    approximate = {group.layers[0]: group.approximate for group in groups}
    assert not approximate["c"]
    (reason,) = approximate["a"]
    assert reason.text == "aten.native_group_norm normalises over it: its mean and variance change"


def test_roles_of_transposed_convolutions_and_raw_parameters():
    def body(m, x):
        return m.b(m.up(m.a(x)) * m.s)

    groups, _ = found(
        body, up=partial(nn.ConvTranspose2d, 16, 12, 2, stride=2), s=weight(12, 1, 1), b=conv(12, 4)
    )
    roles = {place: role for group in groups for place, role in places(group).items()}
    assert roles["up.weight", 0] == "in" and roles["up.weight", 1] == "out"
    assert roles["s", 0] == "out" or roles["s", 0] == "vector"


def test_a_parametrised_weight_belongs_to_its_layer():
    def normed():
        return nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 16, 3, padding=1))

    (group,), layers = found(lambda m, x: m.b(m.a(x)), a=partial(normed))
    assert group.layers == ("a",)
    assert layers["a"].prunable == 16


def test_a_tied_weight_is_one_slot():
    model = Net(
        lambda m, x: m.b(m.c(m.a(x).relu())),
        {"a": conv(3, 16), "c": conv(16, 16), "b": conv(16, 4)},
    )
    model.d = model.c
    groups, layers = find_groups(
        Network.of(model), couple([capture(Network.of(model.eval()), IMAGE)])
    )
    assert sum(axis.name == "c.weight" for group in groups for axis in group.axes) == 2
    assert not any(axis.name.startswith("d.") for group in groups for axis in group.axes)
    assert "d" not in {layer.name for layer in layers}


def test_atoms_are_numbered_as_the_coupling_numbers_them():
    model = Net(lambda m, x: m.b(m.a(x)), {"a": conv(3, 16), "b": conv(16, 4)}).eval()
    coupling = couple([capture(Network.of(model), IMAGE)])
    ((group,), _) = find_groups(Network.of(model), coupling)
    own = coupling.atoms.of[coupling.weights["a.weight"].axes[0]]
    (axis,) = (axis for axis in group.axes if axis.name == "a.weight")
    np.testing.assert_array_equal(group.atoms[axis.members], own[axis.positions])
