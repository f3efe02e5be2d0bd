"""Grouped convolutions after a shuffle: the same number leaves every group, in small sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from micro import Net, conv, lin
from shufflenet import shuffle

from slimnet.capture.trace import capture
from slimnet.coupling.couple import couple
from slimnet.coupling.groups import find_groups

IMAGE = (torch.randn(2, 3, 8, 8),)


def unit(wide: int, first: int, second: int):
    """Grouped, shuffled, depthwise, grouped."""
    return Net(
        lambda m, x: m.h(m.b(m.d(shuffle(m.a(m.s(x)), first))).mean((2, 3))),
        {
            "s": conv(3, 48),
            "a": conv(48, wide, 1, groups=first),
            "d": conv(wide, wide, groups=wide),
            "b": conv(wide, 48, 1, groups=second),
            "h": lin(48, 5),
        },
    ).eval()


def sets_of(model) -> list[list[int]]:
    """The places of the view that leave together: what the first group of ``a`` loses."""
    coupling = couple([capture(model, IMAGE)])
    groups, _ = find_groups(model, coupling, least=1)
    group = next((g for g in groups if "a" in g.layers), None)
    if group is None:
        return []
    slot = next(slot for slot in group.slots if slot.name == "a.bias")
    places = model.a.out_channels // model.a.groups
    first = slot.members[:places]
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
    assert sorted(sets_of(unit(wide, first, second))) == sorted(expected)
