"""Grouped convolutions after a shuffle: the same number leaves every group, in small sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from micro import Net, conv
from shufflenet import Around, shuffle

from slimnet.capture.trace import capture
from slimnet.coupling.balance import balanced_sets
from slimnet.coupling.couple import couple
from slimnet.coupling.groups import find_groups
from slimnet.coupling.removal import Removal
from slimnet.network import Network

IMAGE = (torch.randn(2, 3, 8, 8),)


def sets_of(model) -> list[list[int]]:
    """The places of the view that leave together: what the first group of ``a`` loses."""
    coupling = couple([capture(Network.of(model), IMAGE)])
    groups, _ = find_groups(Network.of(model), coupling, least=1)
    group = next((g for g in groups if "a" in g.layers), None)
    if group is None:
        return []
    axis = next(axis for axis in group.axes if axis.name == "a.bias")
    places = model.a.out_channels // model.a.groups
    first = axis.members[:places]
    return [np.flatnonzero(first == n).tolist() for n in range(group.size)]


@pytest.mark.parametrize(
    ("wide", "first", "second", "expected"),
    [
        (60, 3, 3, [*([j, 7 + j, 14 + j] for j in range(6)), [6, 13]]),
        (22, 2, 2, [*([j, 6 + j] for j in range(5)), [5]]),
        (24, 2, 2, [[j, 6 + j] for j in range(6)]),
        (16, 4, 4, []),
        (60, 2, 3, [[j, 10 + j, 20 + j] for j in range(10)]),
        (60, 3, 2, [[j, 10 + j] for j in range(10)]),
        (68, 4, 4, [[0, 5, 9, 13], [1, 6, 10, 14], [2, 7, 11, 15], [3, 4, 8, 12, 16]]),
    ],
)
def test_the_places_that_leave_together(wide, first, second, expected):
    assert sorted(sets_of(Around(wide, first, second).eval())) == sorted(expected)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([], []),
        ([[3, 0], [0, 3]], [[0, 1]]),
        ([[0, 3], [0, 3], [3, 0]], [[0, 2], [1]]),
        ([[3, 0], [0, 2], [2, 0], [0, 3]], [[1, 2], [0, 3]]),
        ([[3, 0], [2, 1], [0, 3], [1, 2]], [[0, 2], [1, 3]]),
        ([[2, 1], [1, 0], [0, 1], [0, 1]], [[1, 2], [0, 3]]),
    ],
)
def test_sets_of_atoms_by_what_they_take_from_each_group(counts, expected):
    found = balanced_sets(np.array(counts, np.int64).reshape(-1, 2))
    assert sorted(sorted(members.tolist()) for members in found) == sorted(expected)


def coupled(body, **parts):
    parts = {"a": conv(3, 22), "g": conv(22, 8, 1, groups=2), "b": conv(8, 5), **parts}
    model = Net(body, parts).eval()
    return couple([capture(Network.of(model), IMAGE)])


def plain(m, x):
    return m.b(m.g(shuffle(m.a(x), 2)))


def test_columns_are_counted_across_groups_where_the_same_ones_would_be_stuck():
    coupling = coupled(plain)
    assert coupling.apart == {"g.weight": 2}
    weight = coupling.weights["g.weight"]
    assert [len(axis) for axis in weight.axes] == [8, 22, 1, 1]
    assert [len(axis) for axis in weight.lengths] == list(weight.shape)
    atoms = coupling.atoms.of[weight.axes[1]]
    for atom in np.unique(atoms):
        assert (atoms[:11] == atom).sum() == (atoms[11:] == atom).sum()


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (lambda m, x: m.b(m.g(m.a(x))), {}),
        (
            lambda m, x: m.b(m.g(shuffle(m.a(x), 2))),
            {"a": conv(3, 24), "g": conv(24, 8, 1, groups=2)},
        ),
    ],
    ids=["as many places", "a shuffle that divides"],
)
def test_the_same_places_leave_where_they_can(body, parts):
    assert coupled(body, **parts).apart == {}


@pytest.mark.parametrize(
    "read",
    [
        lambda m: m.g.weight.sum(),
        lambda m: m.g.weight.flatten(1).norm(),
        lambda m: m.g.weight[0, 0],
    ],
)
def test_a_weight_that_is_read_elsewhere_loses_the_same_columns(read):
    coupling = coupled(lambda m, x: plain(m, x) * read(m).mean())
    assert coupling.apart == {}


def test_a_weight_that_is_computed_loses_the_same_columns():
    def body(m, x):
        y = shuffle(m.a(x), 2)
        return m.b(torch.nn.functional.conv2d(y, m.g.weight * 2, groups=2))

    assert coupled(body).apart == {}


def test_one_convolution_twice_balances_both_of_its_inputs():
    def twice(m, x):
        return m.b(m.g(shuffle(m.a(x), 2)) + m.g(shuffle(m.c(x), 2)))

    coupling = coupled(twice, c=conv(3, 22))
    assert coupling.apart == {"g.weight": 2}
    of, weights = coupling.atoms.of, coupling.weights
    assert set(of[weights["a.weight"].axes[0]]) == set(of[weights["c.weight"].axes[0]])


def test_what_nothing_makes_up_for_stays():
    """Eleven channels of the first group stay: of the second none has a partner."""

    def body(m, x):
        return m.b(m.g(torch.cat([torch.ones_like(x[:, :1]).expand(-1, 11, -1, -1), m.a(x)], 1)))

    coupling = coupled(body, a=conv(3, 11))
    axis = coupling.weights["a.weight"].axes[0]
    assert not coupling.atoms.free[coupling.atoms.of[axis]].any()


def test_a_part_stays_and_the_rest_leaves_in_pairs():
    """Two of 22 places are padding: their partners stay, the others leave."""

    def body(m, x):
        return m.b(m.g(torch.nn.functional.pad(m.a(x), (0, 0, 0, 0, 0, 2))))

    coupling = coupled(body, a=conv(3, 20))
    free = coupling.atoms.free[coupling.atoms.of[coupling.weights["a.weight"].axes[0]]]
    assert coupling.apart == {} and free.tolist() == [*[True] * 9, False, False, *[True] * 9]


def test_a_plan_that_is_told_makes_two_sets():
    gone = (0, 1, 20, 21)  # places 0 and 10, where order would have made a set of 0 and 6
    model = Net(plain, {"a": conv(3, 22), "g": conv(22, 8, 1, groups=2), "b": conv(8, 5)}).eval()
    told = {"g.weight": Removal({1: gone}, 2)}
    coupling = couple([capture(Network.of(model), IMAGE)], removals=told)
    atoms = coupling.atoms.of[coupling.weights["g.weight"].axes[1]]
    assert coupling.apart == {"g.weight": 2} and not set(atoms[list(gone)]) & set(
        np.delete(atoms, gone)
    )
    assert couple([capture(Network.of(model), IMAGE)], removals={}).apart == {}


def test_sizes_read_from_the_weight_follow():
    """Code that states a size from the weight's own shape or the module's attribute."""

    def body(m, x):
        y = shuffle(m.a(x), 2)
        y = m.g(y.view(-1, 2 * m.g.weight.shape[1], *y.shape[2:]))
        return m.b(y.view(y.shape[0], m.g.out_channels, *y.shape[2:]))

    coupling = coupled(body)
    free = coupling.atoms.free[coupling.atoms.of[coupling.weights["a.weight"].axes[0]]]
    assert coupling.apart == {"g.weight": 2} and free.all()
