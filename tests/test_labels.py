"""Ties make atoms; pins keep them, with the first reason given."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slimnet.coupling.labels import Labelled, Ledger, Storage

quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)
COUNT = 24
slots = st.integers(0, COUNT - 1)
pairs = st.lists(st.tuples(slots, slots), max_size=30)


def ledger_of(ties, pins=()) -> Ledger:
    ledger = Ledger()
    ledger.fresh(COUNT)
    for left, right in ties:
        ledger.tie(np.array([left]), np.array([right]))
    for slot, reason in pins:
        ledger.pin(np.array([slot]), reason)
    return ledger


def brute_force(ties) -> list[set[int]]:
    """Merge sets until no tie crosses two of them."""
    parts = [{slot} for slot in range(COUNT)]
    for left, right in ties:
        touched = [part for part in parts if left in part or right in part]
        parts = [part for part in parts if part not in touched] + [set().union(*touched)]
    return parts


@quick
@given(pairs)
def test_atoms_are_the_connected_components_of_the_ties(ties):
    atoms = ledger_of(ties).solve()
    found = {frozenset(np.flatnonzero(atoms.of == atom)) for atom in np.unique(atoms.of)}
    assert found == set(map(frozenset, brute_force(ties)))
    assert atoms.free.all()
    assert len(atoms.reason) == len(found)


@quick
@given(pairs, st.lists(st.tuples(slots, st.integers(0, 5)), max_size=10))
def test_a_pin_holds_its_whole_atom_for_the_first_reason_given(ties, pins):
    atoms = ledger_of(ties, pins).solve()
    for part in brute_force(ties):
        reasons = [reason for slot, reason in pins if slot in part]
        expected = reasons[0] if reasons else -1
        assert {int(atoms.reason[atoms.of[slot]]) for slot in part} == {expected}


def test_labels_are_numbered_on_and_nothing_said_is_nothing_tied():
    ledger = Ledger()
    assert ledger.fresh(3).tolist() == [0, 1, 2]
    assert ledger.fresh(0).tolist() == []
    assert ledger.fresh(2).tolist() == [3, 4]
    assert len(np.unique(ledger.solve().of)) == 5


def test_an_empty_ledger_has_no_atoms():
    atoms = Ledger().solve()
    assert len(atoms.of) == len(atoms.reason) == 0


def test_more_may_be_said_after_solving():
    ledger = ledger_of([(0, 1)])
    assert ledger.solve().of[1] != ledger.solve().of[2]
    ledger.tie(np.array([1]), np.array([2]))
    again = ledger.solve()
    assert again.of[0] == again.of[2]


def test_slots_are_tied_one_to_one():
    ledger = Ledger()
    left, right = ledger.fresh(4), ledger.fresh(4)
    ledger.tie(left, right[::-1])
    atoms = ledger.solve()
    assert atoms.of[left].tolist() == atoms.of[right[::-1]].tolist()
    assert len(np.unique(atoms.of)) == 4


def test_merged_axes_repeat_the_labels_of_the_live_one():
    axis = np.arange(3)
    x = Labelled((2, 3, 4), (None, axis, None), Storage(False, 24))
    assert x.live == (1,)
    expected = np.broadcast_to(axis[None, :, None], (2, 3, 4))
    np.testing.assert_array_equal(x.flat([0, 1, 2]), expected.reshape(-1))
    np.testing.assert_array_equal(x.flat([1, 2]), expected[0].reshape(-1))
    assert x.flat([0]) is None
