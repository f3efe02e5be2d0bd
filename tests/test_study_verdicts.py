"""Verdicts: who meets whom, what is concluded, and in which words."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimnet.study import (
    Cell,
    CellResult,
    Facts,
    Results,
    Study,
    conclude,
    read_results,
    write_results,
)
from slimnet.study.budget import ratios
from slimnet.study.cells import Cut
from slimnet.study.paired import paired
from slimnet.task import Metric
from slimnet.train import Schedule

DENSE = 90.0
ERROR = Metric("error", "", "lowest")
SIX = (0.3, 0.5, 0.4, 0.2, 0.6, 0.4)


def result(cell, value, metric="accuracy", **changes):
    values = {metric: value}
    made = CellResult(cell, Facts(100, 60), values, values, epochs=4, samples=40, seconds=1.0)
    return dataclasses.replace(made, **changes)


def cut_of(name):
    """``l1`` or ``l1 global``: half of the channels."""
    criterion, _, scope = (name or "").partition(" ")
    return Cut(criterion, *ratios(0.5), scope or None) if criterion else None


def study_of(rows, metric=None, tested=1000, dense=DENSE, **changes):
    """``rows``: values by seed of (criterion, regime)."""
    metric = metric or Metric("accuracy", "%")
    criteria = dict.fromkeys(name.split()[0] for name, _ in rows if name)
    regimes = dict.fromkeys(regime for _, regime in rows)
    longest = max(len(values) for values in rows.values())
    study = Study(
        ratios(0.5), tuple(criteria) or ("l1",), tuple(regimes), tuple(range(longest)), Schedule()
    )
    records = [result(Cell(None, None, 0, "x"), dense, metric.name)]
    for (criterion, regime), values in rows.items():
        cells = [Cell(cut_of(criterion), regime, seed, "y") for seed in range(len(values))]
        records += [
            result(cell, value, metric.name, **changes.get(regime.replace("-", "_"), {}))
            for cell, value in zip(cells, values, strict=True)
            if value is not None
        ]
    return Results(study, {"name": "digits", "test": tested}, tuple(records), (metric,))


def above(values, base=DENSE):
    return [base + value for value in values]


def said(results, rival):
    return [one.sentence() for one in conclude(results) if one.rival == rival]


SCRATCH = "training from scratch, same epochs"


def test_six_seeds_of_one_sign_decide():
    results = study_of({("l1", "finetune"): above(SIX), ("l1", "scratch-e"): above([0.0] * 6)})
    (one,) = [x for x in conclude(results) if x.rival == SCRATCH]
    assert (one.outcome, one.p, one.comparisons) == ("better", 2 / 64, 1)
    low, high = paired([SIX])[0].low, paired([SIX])[0].high
    start = "l1, ratio 0.5, fine-tuned: inherited weights helped by 0.4 points"
    assert one.sentence() == f"{start} ({low:.1f} to {high:.1f}) against {SCRATCH}"


def test_the_other_sign_is_said_from_the_rivals_side():
    results = study_of({("l1", "finetune"): above([0.0] * 6), ("l1", "scratch-e"): above(SIX)})
    (sentence,) = said(results, SCRATCH)
    assert sentence.startswith(
        f"l1, ratio 0.5, fine-tuned: {SCRATCH}, did better by 0.4 points (0."
    )


def test_three_seeds_can_never_decide_and_the_verdict_says_how_many_could():
    results = study_of(
        {("l1", "finetune"): above([9, 9.5, 8]), ("l1", "scratch-e"): above([0] * 3)}
    )
    (one,) = [x for x in conclude(results) if x.rival == SCRATCH]
    assert (one.outcome, one.p, one.needed) == ("open", 0.25, 6)
    assert one.sentence() == (
        "l1, ratio 0.5, fine-tuned: cannot tell from 3 seeds whether inherited weights help "
        f"against {SCRATCH}: accuracy +8.8 points (8.0 to 9.3); 6 seeds at least could tell"
    )


def test_comparisons_are_corrected_for_within_their_question():
    rows = {("l1", "finetune"): above(SIX), ("l1", "scratch-e"): above([0.0] * 6)}

    def asked(other):
        verdicts = conclude(study_of({**rows, ("l1", "scratch-b"): above(other)}))
        return [
            (x.paired.p, x.p, x.outcome, x.comparisons)
            for x in verdicts
            if x.rival.startswith("training")
        ]

    clear = (2 / 64, 2 / 64, "better", 2)
    assert asked([0.1] * 6) == [clear] * 2
    assert asked([*SIX[:5], 0.5]) == [(2 / 64, 4 / 64, "open", 2), (1, 1, "open", 2)]
    assert asked(SIX) == [(2 / 64, 2 / 64, "better", 1), (1, 1, "same", 1)]  # one and the same


def test_one_seed_says_nothing_but_the_difference():
    results = study_of({("l1", "finetune"): [91.0], ("l1", "scratch-e"): [90.0]})
    (sentence,) = said(results, SCRATCH)
    assert sentence.endswith("accuracy +1.0 points; 6 seeds at least could tell")
    assert "cannot tell from 1 seed whether" in sentence


def test_alike_in_every_seed():
    results = study_of({("l1", "finetune"): [91.0] * 3, ("random", "finetune"): [91.0] * 3})
    assert said(results, "random") == [
        "l1, ratio 0.5, fine-tuned: the same as random in each of 3 seeds"
    ]


def test_a_constant_difference_has_no_interval():
    results = study_of({("l1", "finetune"): [91.0] * 6})
    assert said(results, "the dense network") == [
        "l1, ratio 0.5, fine-tuned: better than the dense network by 1.0 points"
    ]


def test_unequal_seeds_are_paired_on_the_common_ones():
    results = study_of({("l1", "finetune"): [1, None, 3, 9], ("l1", "scratch-e"): [0, 5, 1]})
    (one,) = [x for x in conclude(results) if x.rival == SCRATCH]
    assert one.comparison.differences == {0: 1, 2: 2}
    assert "from 2 seeds" in one.sentence()
    apart = study_of({("l1", "finetune"): [None, 3], ("l1", "scratch-e"): [0]})
    assert said(apart, SCRATCH) == []


def test_of_an_error_less_is_better():
    rows = {("l1", "finetune"): [3 - x for x in SIX], ("l1", "scratch-e"): [3.0] * 6}
    results = study_of(rows, metric=ERROR, dense=2.0)
    (one,) = [x for x in conclude(results) if x.rival == SCRATCH]
    assert one.outcome == "better" and one.paired.mean == pytest.approx(-0.4)
    assert "inherited weights helped by 0.400 (0." in one.sentence()
    few = study_of({key: row[:2] for key, row in rows.items()}, metric=ERROR, dense=2.0)
    assert "error −0.400 (−0.500 to −0.300)" in said(few, SCRATCH)[0]


def test_who_meets_whom():
    names = [("random", "finetune"), ("l1", "finetune"), ("bn-scale", "finetune")]
    names += [("l1", "repair-finetune"), ("l1", "scratch-e"), (None, "finetune")]
    names += [("unstructured", "finetune"), ("unstructured-random", "finetune")]
    names += [("l1", "supermask")]
    met = {(x.row, x.rival) for x in conclude(study_of({name: [90.0, 91.0] for name in names}))}
    tuned = "{}, ratio 0.5, fine-tuned".format
    repaired = "l1, ratio 0.5, repaired, then fine-tuned"
    slim = [tuned("random"), tuned("l1"), tuned("bn-scale")]
    slim += [tuned("unstructured"), tuned("unstructured-random")]
    assert met == {
        (tuned("l1"), SCRATCH),
        (repaired, SCRATCH),
        *((row, "the dense network") for row in slim),
        *((row, "the dense network, fine-tuned") for row in slim),
        (repaired, "the dense network"),
        ("l1, ratio 0.5, from scratch, same epochs", "the dense network"),
        ("dense, fine-tuned", "the dense network"),
        (tuned("l1"), "random"),
        (tuned("bn-scale"), "random"),
        (tuned("bn-scale"), "l1"),
        (tuned("unstructured"), "unstructured-random"),
        (repaired, "fine-tuned"),
    }


def test_tickets_meet_the_schedule_of_their_own():
    names = ["lr-rewind", "weight-rewind@0", "ticket", "ticket-shuffled", "scratch-e"]
    rows = {("l1", name): [90.0, 91.0 + number] for number, name in enumerate(names)}
    met = [(x.row.split("0.5, ")[1], x.rival) for x in conclude(study_of(rows))]
    earlier = ("weights rewound to epoch 0", "learning rate rewound")
    assert earlier in met and ("lottery ticket", "learning rate rewound") in met
    assert ("ticket, shuffled", "lottery ticket") in met
    assert ("lottery ticket", "weights rewound to epoch 0") not in met  # the same training
    shuffled = next(x for x in conclude(study_of(rows)) if "shuffled" in x.row)
    assert "these weights help against training from scratch" in shuffled.sentence()


def test_two_criteria_that_leave_the_same_widths_are_one_training_from_scratch():
    rows = {("l1", "scratch-e"): [90.0, 91.0], ("random", "scratch-e"): [90.0, 91.0]}
    results = study_of(rows)
    assert said(results, "random") == []
    other = [
        dataclasses.replace(record, facts=Facts(90, 60))
        if record.cell.criterion == "l1"
        else record
        for record in results.records
    ]
    assert len(said(dataclasses.replace(results, records=tuple(other)), "random")) == 1


def test_who_was_tuned_less_is_said():
    rows = {("l1", "finetune"): above(SIX), ("l1", "scratch-e"): above([0.0] * 6)}
    (sentence,) = said(study_of(rows, finetune={"rates": 5}), SCRATCH)
    assert sentence.endswith(f"; {SCRATCH} was tuned less: 1 learning rate tried against 5")
    (sentence,) = said(study_of(rows, scratch_e={"rates": 3}), SCRATCH)
    assert sentence.endswith("; it was tuned less: 1 learning rate tried against 3")


VALUES = st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=1, max_size=7)


@given(VALUES, VALUES)
@settings(max_examples=30, deadline=None)
def test_swapping_the_rows_swaps_the_verdict(one, other):
    rows = [("l1", "finetune"), ("random", "finetune")]
    there, back = (
        next(
            x
            for x in conclude(study_of(dict(zip(rows, map(above, values), strict=True))))
            if x.rival == "random"
        )
        for values in ((one, other), (other, one))
    )
    assert there.paired.mean == -back.paired.mean
    assert there.p == back.p
    swapped = {"better": "worse", "worse": "better"}
    assert swapped.get(there.outcome, there.outcome) == back.outcome


def test_only_the_last_epoch_counts():
    rows = {("l1", "finetune"): above([0.0] * 6), ("l1", "scratch-e"): above([0.0] * 6)}
    results = study_of(rows, finetune={"best": 99.0, "curve": (99.0, 90.0)})
    assert said(results, SCRATCH)[0].endswith(f"the same as {SCRATCH} in each of 6 seeds")
    assert results.summary()[1].best == 99.0


def test_the_file_holds_the_sentences_and_what_older_ones_lack_is_read(tmp_path):
    results = study_of({("l1", "finetune"): above(SIX), ("l1", "scratch-e"): above([0.0] * 6)})
    path = write_results(results, tmp_path)
    written = json.loads(path.read_text())
    assert [x["sentence"] for x in written["verdicts"]] == [x.sentence() for x in conclude(results)]
    assert written["verdicts"][0]["seeds_needed"] == 6
    assert conclude(read_results(path)) == conclude(results)
    fields = results.records[1].to_json()
    for name in ("losses", "curve", "best", "rates"):
        del fields[name]
    assert CellResult.from_json(fields) == results.records[1]


def test_found_widths_meet_the_same_share_everywhere():
    found = study_of(
        {
            ("l1 local", "finetune"): above([0.0, 0.1, -0.1, 0.0, 0.1, -0.1]),
            ("l1 global", "finetune"): above([1.0, 1.3, 0.9, 1.2, 1.3, 0.9]),
        }
    )
    (sentence,) = said(found, "the same share everywhere")
    beginning = "l1, ratio 0.5, global, fine-tuned: better than the same share everywhere by 1.1"
    assert sentence.startswith(beginning)
