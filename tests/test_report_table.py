"""The terminal's table and the words and numbers of both reports."""

import dataclasses
import io

import pytest
from rich.console import Console

from slimnet.proof.certificate import Certificate
from slimnet.report import columns, table, words
from slimnet.study import Cell, CellResult, Facts, LatencyFacts, Results, Study
from slimnet.study.budget import ratios
from slimnet.study.cells import Cut
from slimnet.train import Schedule

DATA = {
    "name": "digits",
    "train": 1198,
    "test": 599,
    "image": [1, 8, 8],
    "classes": 10,
    "normalize": "none",
    "augmented": False,
}
STUDY = Study(
    ratios(0.3, 0.5), ("bn-scale",), ("finetune", "scratch-b"), (0, 1, 2), Schedule(epochs=4)
)
RIGHT = {"accuracy": 97.8}
LATENCY = LatencyFacts(0.41, 0.4, 0.45, 1.0)


def results(latency=LATENCY, data=DATA):
    whole = Facts(1_812_480, 94_410, 0.0, latency)
    dense = CellResult(Cell(None, None, 0, "x"), whole, RIGHT, RIGHT, 0, 0, 0.0)
    faster = latency and dataclasses.replace(latency, median_ms=0.2, speedup=2.05)
    slim = [
        CellResult(
            cell=Cell(Cut("bn-scale", *ratios(ratio)), regime, seed, "x"),
            facts=Facts(453_120, 47_205, ratio - 0.02, faster),
            cut={"accuracy": 31.2},
            metrics={"accuracy": 96.0 + seed},
            epochs=4,
            samples=4792,
            seconds=1.0,
        )
        for ratio in (0.3, 0.5)
        for regime in STUDY.regimes
        for seed in STUDY.seeds
    ]
    return Results(STUDY, data, (dense, *slim))


def printed(shown, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(shown)
    return console.file.getvalue()


def test_the_table_fits_a_terminal_of_80_characters_uncut():
    text = printed(table(results()))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_a_row_says_what_was_cut_what_is_left_and_how_it_went():
    rows = printed(table(results())).splitlines()
    dense = next(row for row in rows if row.startswith("dense"))
    assert " ".join(dense.split()) == "dense 0 % 1.81 M 94.4 k 0.410 1.00× – – 97.8 –"
    slim = next(row for row in rows if row.startswith("bn-scale 0.5"))
    expected = "bn-scale 0.5 48 % 25 % 50 % 0.200 2.05× 31.2 finetune 97.0±1.0 −0.8"
    assert " ".join(slim.split()) == expected


def test_what_belongs_to_the_network_is_said_once():
    text = printed(table(results()))
    assert text.count("bn-scale 0.3") == 1
    assert text.count("31.2") == 2
    assert text.count("97.0±1.0") == 4


def test_the_caption_explains_regimes_counts_and_spread():
    text = " ".join(printed(table(results())).split())
    assert "599 test images, mean ± standard deviation over 3 seeds, of the last epoch" in text
    assert "MACs: multiply-adds of one image" in text
    assert "scratch-b: fresh weights, as many MACs of training as the dense network" in text
    one = dataclasses.replace(results(), study=dataclasses.replace(STUDY, seeds=(0,)))
    assert "one seed" in columns.caption(one)


def test_latency_has_columns_only_where_it_was_measured():
    assert "speed" in printed(table(results()))
    assert "speed" not in printed(table(results(latency=None)))


def test_more_test_images_earn_a_second_digit():
    large = results(data={**DATA, "test": 10_000})
    assert "97.00±1.00" in printed(table(large))


def test_a_dense_network_that_is_retrained_stands_under_the_dense_one():
    whole = results()
    again = dataclasses.replace(
        whole.records[1],
        cell=Cell(None, "finetune", 0, "x"),
        metrics={"accuracy": 98.2},
        facts=whole.records[0].facts,
    )
    mixed = dataclasses.replace(whole, records=(whole.records[0], again, *whole.records[1:]))
    rows = printed(table(mixed)).splitlines()
    after = rows[rows.index(next(row for row in rows if row.startswith("dense"))) + 1]
    assert after.split() == ["finetune", "98.2", "+0.4"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (999, "999"),
        (1000, "1.00 k"),
        (94_410, "94.4 k"),
        (999_999, "1.00 M"),
        (1_812_480, "1.81 M"),
        (125_490_000, "125 M"),
        (4.1e9, "4.10 G"),
        (2.5e15, "2.50 P"),
    ],
)
def test_amounts_have_three_digits_and_a_unit(value, text):
    assert words.amount(value) == text


@pytest.mark.parametrize(
    ("low", "speedup", "high", "verdict"),
    [
        (0.7, 0.78, 0.9, "Slower than"),
        (0.9, 1.1, 1.2, "Not measurably faster than"),
        (1.7, 1.87, 1.9, "Faster than the dense network: 1.87× its speed (1.70× to 1.90×"),
    ],
)
def test_the_verdict_on_speed_follows_the_spread(low, speedup, high, verdict):
    latency = LatencyFacts(1.0, speedup=speedup, speedup_low=low, speedup_high=high)
    assert words.speed_sentence(latency).startswith(verdict)


def test_a_speed_that_was_not_measured_is_not_claimed():
    assert words.speed_sentence(None) == "Latency was not measured."


def test_a_certificate_prints_its_error_and_says_what_is_approximate():
    certificate = Certificate(3.14e-15, 1e-9, (), ())
    approximate = dataclasses.replace(certificate, approximate=({"layers": [], "reasons": []},))
    sentence = words.certificate_sentence(certificate)
    assert "error 3.1e-15, tolerance 1e-09 (float64)" in sentence
    assert "survivors" not in sentence
    assert "survivors only" in words.certificate_sentence(approximate)
    assert "Not verified" in words.certificate_sentence(None)


def test_the_limits_know_the_noise_of_the_test_set():
    few, *_ = words.limits(results())
    assert "599 test images: one of them is 0.17 points" in few
    assert "±1.2 points" in few  # 1.96 sqrt(.978 * .022 / 599)
    many, *_ = words.limits(results(data={**DATA, "test": 60_000}))
    assert "±0.1 points" in many


def test_the_limits_say_where_compute_or_spread_is_unknown():
    assert any("unknown" in sentence for sentence in words.limits(results()))
    known = dataclasses.replace(STUDY, dense_compute=1.0, seeds=(0,))
    sentences = words.limits(dataclasses.replace(results(), study=known))
    assert not any("is unknown" in sentence for sentence in sentences)
    assert any(sentence.startswith("One seed") for sentence in sentences)


def renamed(cell, criterion):
    return dataclasses.replace(cell, cut=dataclasses.replace(cell.cut, criterion=criterion))


def test_the_limits_say_why_a_row_is_missing():
    whole = results()
    study = dataclasses.replace(STUDY, criteria=("unstructured",), regimes=("repair", "finetune"))
    records = [
        dataclasses.replace(r, cell=renamed(r.cell, "unstructured")) for r in whole.records[1:]
    ]
    masked = dataclasses.replace(whole, study=study, records=(whole.records[0], *records))
    said = "Nothing is cut by unstructured: no row of theirs starts with a repair."
    assert said in words.limits(masked)
    assert said not in words.limits(whole)


def test_rows_from_scratch_that_are_one_training_are_explained():
    whole = results()
    twins = [
        dataclasses.replace(record, cell=renamed(record.cell, "l1")) for record in whole.records[1:]
    ]
    doubled = dataclasses.replace(whole, records=whole.records + tuple(twins))
    said = "where two criteria leave the same widths"
    assert any(said in sentence for sentence in words.limits(doubled))
    assert not any(said in sentence for sentence in words.limits(whole))
