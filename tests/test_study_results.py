"""Means, spread, ratios and compute of the summary rows."""

import dataclasses
import statistics

import pytest

from slimnet.errors import InputError
from slimnet.study import Cell, CellResult, Facts, LatencyFacts, Results, Study
from slimnet.study.budget import ratios
from slimnet.study.cells import Cut
from slimnet.train import Schedule

STUDY = Study(
    ratios(0.5), ("l1",), ("finetune", "scratch-e"), (0, 1, 2), Schedule(), dense_compute=1e6
)
RIGHT = {"accuracy": 90.0}
DENSE = CellResult(Cell(None, None, 0, "x"), Facts(400, 200, 0.0), RIGHT, RIGHT, 0, 0, 0.0)


def record(regime, seed, accuracy):
    return CellResult(
        cell=Cell(Cut("l1", *ratios(0.5)), regime, seed, "x"),
        facts=Facts(100, 60, 0.48, LatencyFacts(2.0, speedup=1.5)),
        cut={"accuracy": 40.0},
        metrics={"accuracy": accuracy},
        epochs=4,
        samples=4000,
        seconds=1.0 + seed,
    )


def results(*records, study=STUDY):
    return Results(study, {"name": "digits"}, (DENSE, *records))


ACCURACIES = (88.0, 91.0, 90.4)
RUNS = tuple(record("finetune", seed, accuracy) for seed, accuracy in enumerate(ACCURACIES))


def test_a_row_is_the_mean_and_the_sample_deviation_of_its_seeds():
    row = results(*RUNS).summary()[1]
    assert row.n == 3
    assert row.first.mean == pytest.approx(sum(ACCURACIES) / 3)
    spread = sum((accuracy - row.first.mean) ** 2 for accuracy in ACCURACIES)
    assert row.first.std == pytest.approx((spread / 2) ** 0.5)
    assert row.first.std == pytest.approx(statistics.stdev(ACCURACIES))
    assert row.first.difference == pytest.approx(row.first.mean - 90.0)
    assert row.seconds == pytest.approx(2.0)


def test_one_run_has_no_spread():
    assert results(RUNS[0]).summary()[1].first.std is None


def test_ratios_are_what_remains_of_the_dense_network():
    dense, slim = results(*RUNS).summary()
    assert (dense.macs_ratio, dense.params_ratio, dense.first.difference) == (1, 1, 0)
    assert (slim.macs_ratio, slim.params_ratio) == (0.25, 0.3)
    assert (slim.latency_ms, slim.speedup) == (2.0, 1.5)


def test_compute_counts_the_dense_training_where_its_weights_are_used():
    rows = results(RUNS[0], record("scratch-e", 0, 89.0)).summary()
    assert [row.compute for row in rows] == [0, 4e5, 4e5]
    assert [row.total_compute for row in rows] == [1e6, 1.4e6, 4e5]


def test_an_unknown_dense_training_is_not_counted_as_nothing():
    study = dataclasses.replace(STUDY, dense_compute=None)
    rows = results(RUNS[0], record("scratch-e", 0, 89.0), study=study).summary()
    assert [row.total_compute for row in rows] == [None, None, 4e5]


def test_rows_keep_the_order_of_the_cells_and_mix_nothing():
    rows = results(record("scratch-e", 0, 80.0), *RUNS).summary()
    assert [(row.regime, row.n) for row in rows] == [(None, 1), ("scratch-e", 1), ("finetune", 3)]
    assert rows[1].first.mean == 80


def test_results_survive_json():
    whole = results(*RUNS)
    assert Results.from_json(whole.to_json()) == whole


def test_results_without_the_dense_network_are_refused():
    with pytest.raises(InputError, match="lack the dense network"):
        Results(STUDY, {}, RUNS).summary()
