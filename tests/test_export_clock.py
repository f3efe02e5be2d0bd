"""Two clocks, what their readings come to, and which of them decides."""

import sys

import numpy as np
import pytest

from slimnet.export.clock import Clock, deciding
from slimnet.export.readings import NOISE, Speedup, interval, speedup_of, timing_of


def test_both_clocks_are_read_around_all_runs():
    wall, cpu, runs = iter([10.0, 16.0]), iter([1.0, 4.0]), []
    clock = Clock(lambda: next(wall), lambda: next(cpu))
    assert clock.timed(lambda: runs.append(1), repeats=3) == (2.0, 1.0)
    assert len(runs) == 3


def test_what_other_threads_compute_is_not_counted_where_one_does_it_all():
    own = iter([5.0, 7.0])
    clock = Clock(lambda: 0.0, lambda: 1 / 0, lambda: next(own))
    assert clock.timed(lambda: None, 2, alone=True) == (0.0, 1.0)


def test_the_usual_clocks_go_on():
    wall, cpu = Clock().timed(lambda: sum(range(10_000)), 10)
    assert wall > 0 and cpu >= 0


def test_which_clock_decides(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert deciding(1, on_cpu=True) == "CPU"
    assert deciding(2, on_cpu=True) == deciding(1, on_cpu=False) == "wall"
    monkeypatch.setattr(sys, "platform", "win32")
    assert deciding(1, on_cpu=True) == "wall"


def test_an_interval_holds_the_median_as_often_as_it_says():
    """Of 400 samples whose median is 1, about 95 % of the intervals hold it."""
    drawn = np.random.default_rng(1).lognormal(0.0, 0.3, size=(400, 30))
    held = sum(low <= 1 <= high for low, high in map(interval, drawn))
    assert 360 <= held <= 396


def test_an_interval_is_the_same_again_and_narrows_with_more_rounds():
    drawn = np.random.default_rng(2).normal(5.0, 1.0, size=1000)
    few, many = interval(drawn[:20]), interval(drawn)
    assert interval(drawn[:20]) == few
    assert many[1] - many[0] < few[1] - few[0]
    assert interval(np.full(3, 7.0)) == (7.0, 7.0)


def test_two_modes_do_not_move_the_median_of_the_ratios():
    """Every third round of either is five times as slow, as walls are; the ratio is told anyhow."""
    slow = np.where(np.arange(60) % 3 == 0, 5.0, 1.0)
    found = speedup_of("slim", "dense", 0.5 * slow[::-1], slow)
    assert found.median == pytest.approx(2)
    assert found.low <= found.interval[0] <= found.median <= found.interval[1] <= found.high


def test_milliseconds_are_of_the_clock_that_decides():
    wall, cpu = np.array([0.004, 0.006, 0.020]), np.array([0.003, 0.003, 0.003])
    found = timing_of("a", wall, cpu, cpu)
    assert (found.median_ms, found.wall_ms, found.cpu_ms) == pytest.approx((3, 6, 3))
    assert found.interval_ms == pytest.approx((3, 3))


@pytest.mark.parametrize(
    ("between", "verdict"),
    [
        ((1.03, 1.2), "faster"),
        ((1 + NOISE / 2, 1.2), "undecided"),
        ((0.8, 0.97), "slower"),
        ((0.8, 1 - NOISE / 2), "undecided"),
        ((0.9, 1.1), "undecided"),
    ],
)
def test_no_winner_inside_the_noise(between, verdict):
    low, high = between
    spread = low - 0.02 if low > 1 else low, high + 0.02 if high < 1 else high
    assert Speedup("slim", "dense", 1.0, *spread, between).verdict == verdict
    assert Speedup("slim", "dense", 1.0, *between).verdict == verdict


def test_a_narrow_interval_of_rounds_that_differ_is_not_enough():
    """Busy machines slow many rounds in a row: 8 of 60 pairs of equal files had such intervals."""
    assert Speedup("slim", "dense", 1.6, 0.6, 2.4, (1.3, 1.9)).verdict == "undecided"
    assert Speedup("slim", "dense", 0.6, 0.3, 1.2, (0.5, 0.8)).verdict == "undecided"
