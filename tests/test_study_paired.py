"""The statistics of a verdict: against cases by hand, against scipy, and as laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from slimnet.study.paired import RESAMPLES, corrected, coverage, paired, seeds_needed

# a grid, so that no mean ties with another by rounding alone
DIFFERENCES = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=1, max_size=7)


def test_three_seeds_by_hand():
    (found,) = paired([[0.2, 0.4, 0.6]])
    assert found.mean == pytest.approx(0.4)
    assert found.p == 2 / 8  # of eight signs only +++ and --- are as far from 0
    assert 0.2 <= found.low < found.mean < found.high <= 0.6


def test_the_p_value_counts_the_signs_that_are_as_extreme():
    (found,) = paired([[3.0, 2.0, 1.0, -1.0]])
    # sums of ±3 ±2 ±1 ±1 that reach 5 or more: 7, 5, 5, and their negatives
    assert found.p == 6 / 16


@pytest.mark.parametrize("seeds", [2, 3, 6, 9, 15])
def test_it_is_what_scipy_says_of_each_comparison_alone(seeds):
    values = np.random.default_rng(seeds).normal(0.3, 0.4, (3, seeds))
    for row, found in zip(values, paired(values.tolist()), strict=True):
        test = stats.permutation_test(
            (row,), np.mean, permutation_type="samples", n_resamples=9999, random_state=0
        )
        assert found.p == pytest.approx(test.pvalue, abs=0.02 if seeds > 13 else 1e-12)
        drawn = stats.bootstrap((row,), np.mean, n_resamples=RESAMPLES, random_state=0)
        assert (found.low, found.high) == pytest.approx(tuple(drawn.confidence_interval), abs=1e-2)


def test_rows_of_different_lengths_keep_their_places():
    rows = [[1.0], [0.1, 0.3], [0.5], [0.2, 0.2, 0.2], [-0.3, -0.1]]
    found = paired(rows)
    assert [one.mean for one in found] == pytest.approx([1.0, 0.2, 0.5, 0.2, -0.2])
    assert [one.p for one in found] == [1, 0.5, 1, 0.25, 0.5]


@pytest.mark.parametrize("row", [[0.7], [0.7, 0.7, 0.7], [0.0, 0.0]])
def test_without_spread_there_is_no_interval(row):
    (found,) = paired([row])
    assert (found.low, found.high) == (None, None)
    assert found.p == (0.25 if len(row) == 3 else 1.0)


def test_more_comparisons_than_fit_one_call():
    rows = np.random.default_rng(0).normal(size=(300, 4)).tolist()
    found = paired(rows)
    assert [one.mean for one in found] == pytest.approx(np.mean(rows, axis=1).tolist())


@given(DIFFERENCES)
@settings(max_examples=40, deadline=None)
def test_swapping_the_sides_flips_the_sign_and_leaves_the_p_value(row):
    there, back = paired([row, [-value for value in row]])
    assert there.mean == -back.mean
    assert there.p == back.p
    assert (there.low is None) == (back.low is None)
    if there.low is not None:
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


@given(DIFFERENCES, st.sampled_from([0.25, 4.0]), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_neither_the_unit_nor_the_order_of_the_seeds_matters(row, unit, random):
    shuffled = random.sample(row, len(row))
    one, other = paired([row, [unit * value for value in shuffled]])
    assert other.mean == pytest.approx(unit * one.mean)
    assert other.p == one.p
    assert one.p >= min(2 / 2 ** len(row), 1)
    if one.low is not None:
        assert min(row) <= one.low <= one.high <= max(row)


def test_the_correction_by_hand():
    assert corrected([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert corrected([0.04]) == [0.04]
    assert corrected([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_corrected_lies_between_each_alone_and_bonferroni(p):
    after = corrected(p)
    for one, other in zip(p, after, strict=True):
        assert one <= other + 1e-12 and other <= min(len(p) * one, 1.0) + 1e-12
    assert [x for _, x in sorted(zip(p, after, strict=True))] == pytest.approx(sorted(after))


@pytest.mark.parametrize(("comparisons", "seeds"), [(1, 6), (2, 7), (8, 9), (100, 12)])
def test_so_many_seeds_are_needed(comparisons, seeds):
    assert seeds_needed(comparisons) == seeds
    (best,) = paired([[0.1 * (n + 1) for n in range(seeds)]])
    assert corrected([best.p, *[1.0] * (comparisons - 1)])[0] <= 0.05
    (fewer,) = paired([[0.1 * (n + 1) for n in range(seeds - 1)]])
    assert corrected([fewer.p, *[1.0] * (comparisons - 1)])[0] > 0.05


def test_an_interval_among_three_seeds_is_no_95_percent():
    assert coverage(3) == 0.75
    assert coverage(6) == pytest.approx(0.969, abs=1e-3)
    assert coverage(1) == 0
