"""What survives of an axis is what its labels' atoms leave, slot by slot."""

from __future__ import annotations

import numpy as np
import pytest

from slimnet.coupling.labels import Ledger
from slimnet.coupling.survival import Survival


@pytest.fixture
def solved():
    """Two axes of four slots, tied in reverse order, and one that is tied to neither."""
    ledger = Ledger()
    first, second, other = (ledger.fresh(4) for _ in range(3))
    ledger.tie(first, second[::-1])
    return ledger.solve(), first, second, other


def test_what_is_tied_survives_together(solved):
    atoms, first, second, other = solved
    survival = Survival.without(atoms, atoms.of[first[:1]])
    np.testing.assert_array_equal(survival.along(first), [False, True, True, True])
    np.testing.assert_array_equal(survival.along(second), [True, True, True, False])
    assert [survival.length(axis, 4) for axis in (first, second, other, None)] == [3, 3, 4, 4]
    assert [survival.is_whole(axis) for axis in (first, second, other)] == [False, False, True]


def test_an_axis_without_any_slot_left_is_empty(solved):
    atoms, first, second, other = solved
    survival = Survival.without(atoms, atoms.of[second])
    assert survival.is_empty(first) and not survival.is_empty(other)
    assert survival.length(first, 4) == 0


def test_nothing_removed_leaves_all(solved):
    atoms, *axes = solved
    assert all(Survival.without(atoms).is_whole(axis) for axis in axes)
