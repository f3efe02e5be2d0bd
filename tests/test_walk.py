"""What is handed to ``prune`` goes down: the numbers of benchmarks/walk.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from walk import Meter, Stop, Walk, floor_of, walk_of


@pytest.mark.parametrize("criterion", ["l1", "taylor"])
def test_the_model_climbs_up_at_most_ten_times_and_visits_capture_at_most_four_times(criterion):
    walk = walk_of("model", criterion)
    assert len(walk.stops) > 30, "the meter sees nothing"
    assert len(walk.climbs) <= 10, walk.climbs
    assert len(walk.entries) <= 4, walk.entries


@pytest.mark.parametrize(("value", "climbs"), [("example", 5), ("plan", 5), ("statistics", 0)])
def test_the_other_values_go_down_as_well(value, climbs):
    walk = walk_of(value)
    assert walk.stops and len(walk.climbs) <= climbs, walk.climbs
    assert len(walk.entries) <= 1


def test_floors_are_those_of_the_contracts():
    assert floor_of("slimnet.pruning") > floor_of("slimnet.proof.certificate")
    assert floor_of("slimnet.proof.certificate") > floor_of("slimnet.plan.rebuild")
    assert floor_of("slimnet.plan.rebuild") > floor_of("slimnet.capture.trace")
    assert floor_of("slimnet.capture.trace") > floor_of("slimnet.network")


def test_a_value_that_goes_down_and_comes_back_climbs_once():
    low, high = "slimnet.capture.modules", "slimnet.proof.certificate"
    stops = [Stop(high, "a", ""), Stop(low, "b", high), Stop(low, "c", low), Stop(high, "d", high)]
    walk = Walk(tuple(stops))
    assert len(walk.moves) == 2 and len(walk.climbs) == len(walk.entries) == 1


def test_only_functions_of_slimnet_are_stops():
    meter = Meter(lambda value: value == 1)

    def outside(value):
        return value

    sys.setprofile(meter)
    outside(1)
    sys.setprofile(None)
    assert meter.stops == []
