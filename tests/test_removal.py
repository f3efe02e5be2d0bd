"""What leaves a tensor: selected, zeroed, counted and composed by one law, also across groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from shufflenet import dense

from slimnet.coupling.removal import Removal, add_part, of_elements, part, zero_part
from slimnet.errors import InputError

SHAPE = (6, 4, 3, 1)  # two groups: 3 rows and 4 columns each


@st.composite
def removals(draw, groups: int, shape: tuple[int, ...], least: int = 1) -> Removal:
    """As many rows and columns of each group, but not the same."""

    def of_each(length: int) -> tuple[int, ...]:
        count = draw(st.integers(0, length - least))
        places = [draw(st.permutations(range(length)))[:count] for _ in range(groups)]
        return tuple(sorted(g * length + i for g, few in enumerate(places) for i in few))

    axes = {0: of_each(shape[0] // groups), 1: of_each(shape[1])}
    return Removal({d: gone for d, gone in axes.items() if gone}, groups)


@settings(max_examples=50, derandomize=True, deadline=None, database=None)
@given(removal=removals(2, SHAPE))
def test_what_stays_is_what_stays_of_the_block_diagonal_weight(removal):
    weight = torch.randn(SHAPE)
    small = removal.select(weight)
    expected = dense(weight, 2)
    for d in removal.axes:
        expected = expected.index_select(d, removal.kept(d, SHAPE))
    assert torch.equal(dense(small, 2), expected)
    assert tuple(small.shape) == removal.after(SHAPE) and removal.before(small.shape) == SHAPE
    assert removal.fits(SHAPE)


@settings(max_examples=50, derandomize=True, deadline=None, database=None)
@given(removal=removals(2, SHAPE))
def test_what_leaves_is_zero_in_the_block_diagonal_weight(removal):
    weight = torch.randn(SHAPE)
    expected = dense(weight, 2)
    for d, gone in removal.axes.items():
        expected.index_fill_(d, torch.tensor(gone), 0)
    assert torch.equal(dense(removal.zero_(weight.clone()), 2), expected)


@settings(max_examples=50, derandomize=True, deadline=None, database=None)
@given(data=st.data())
@pytest.mark.parametrize("across", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_two_in_a_row_are_one(across, data):
    shape = (8, 5, 1)
    first = data.draw(removals(across[0], shape, least=3))
    if across[0] == 1:  # the same places leave every group, and as many rows
        first = Removal({d: x for d, x in first.axes.items() if d})
    second = data.draw(removals(across[1], first.after(shape)))
    if across[1] == 1:
        second = Removal({d: x for d, x in second.axes.items() if d})
    weight = torch.randn(shape)
    both = first.then(second, shape)
    assert torch.equal(both.select(weight), second.select(first.select(weight)))
    assert both.fits(shape) and both.after(shape) == second.after(first.after(shape))


def test_groups_lose_other_columns_and_the_convolution_is_that_of_the_survivors():
    x, weight = torch.randn(2, 8, 5), torch.randn(6, 4, 3)
    removal = Removal({1: (1, 4, 7), 0: ()}, 2)
    assert not removal.fits(weight.shape)  # one of the first group and two of the second
    removal = Removal({1: (1, 3, 4, 7)}, 2)
    kept = removal.kept(1, weight.shape)
    masked = x.clone()
    masked[:, [1, 3, 4, 7]] = 0
    slim = F.conv1d(x[:, kept], removal.select(weight), groups=2)
    torch.testing.assert_close(slim, F.conv1d(masked, weight, groups=2))


@pytest.mark.parametrize(
    ("axes", "groups"),
    [
        ({1: (8,)}, 1),
        ({1: (7, 8)}, 2),
        ({1: (0, 1)}, 2),
        ({0: (0,), 1: (0, 4)}, 2),
        ({1: (4, 0)}, 2),
        ({1: (0, 0)}, 1),
        ({1: (-1, 4)}, 2),
        ({4: (0,)}, 1),
        ({-1: (0,)}, 1),
        ({1: (0, 1, 2, 3)}, 4),
        ({1: (0, 1, 2)}, 3),
    ],
)
def test_what_does_not_fit(axes, groups):
    assert not Removal(axes, groups).fits(SHAPE)


def test_a_vector_has_no_columns():
    assert Removal({0: (1, 2)}).fits((6,)) and not Removal({0: (0, 3)}, 2).fits((6,))


def test_other_groups_cannot_be_composed():
    with pytest.raises(InputError, match="count across 2 and 3 groups"):
        Removal({1: (0, 4)}, 2).then(Removal({1: (0, 3, 6)}, 3), (6, 4, 1))


def test_parts_of_indices():
    weight = torch.arange(24.0).reshape(4, 6)  # two groups of two rows and six columns
    positions = torch.tensor([1, 8])
    assert part(weight, 1, positions, 2).tolist() == [[1, 7], [14, 20]]
    assert part(weight, 0, positions[:1]).tolist() == [[6, 7, 8, 9, 10, 11]]
    changed = weight.clone()
    add_part(changed, 1, positions, torch.tensor([[1.0, 2], [3, 4]]), 2)
    difference = {(0, 1): 1, (1, 1): 2, (2, 2): 3, (3, 2): 4}
    assert {
        tuple(x): int((changed - weight)[tuple(x)]) for x in (changed - weight).nonzero().tolist()
    } == difference
    zero_part(weight, 1, positions, 2)
    assert (weight == 0).nonzero().tolist() == [[0, 0], *map(list, difference)]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_each_element_has_what_its_index_has(axis, groups):
    across = groups if axis == 1 else 1
    along = torch.arange(SHAPE[axis] * across)
    elements = of_elements(along, SHAPE, axis, across)
    assert tuple(elements.shape) == SHAPE
    for index in along.tolist():
        assert (part(elements, axis, torch.tensor([index]), across) == index).all()


def test_indices_of_every_kind_of_integer():
    gone = tuple(np.array([0, 5], np.int64))
    assert Removal({1: gone}, 2).select(torch.ones(SHAPE)).shape == (6, 3, 3, 1)
