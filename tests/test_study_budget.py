"""Budgets of a study: how each kind is asked for, said, written and read."""

import json

import pytest

from slimnet.errors import InputError
from slimnet.study.budget import KINDS, Budget, listed
from slimnet.study.cells import Cell, Cut

ROWS = [  # kind, typed, options of prune, words, label
    ("ratio", "0.3", {"ratio": 0.3}, "ratio 0.3", "0.3"),
    ("macs", "0.5", {"macs": 0.5}, "MACs 0.5", "MACs 0.5"),
    ("params", "0.25", {"params": 0.25}, "parameters 0.25", "parameters 0.25"),
    ("compression", "4", {"params": 0.25}, "4x compression", "4x compression"),
    ("bytes", "5MB", {"bytes": 5e6}, "5MB", "5MB"),
    ("latency", " 0.50X", {"latency": "0.5x"}, "time 0.5x", "time 0.5x"),
]


@pytest.mark.parametrize(("kind", "typed", "options", "words", "label"), ROWS)
def test_each_kind_is_asked_for_and_said(kind, typed, options, words, label):
    (budget,) = listed(kind, typed)
    assert (budget.options, str(budget), budget.label) == (options, words, label)
    assert Budget.from_json(json.loads(json.dumps(budget.to_json()))) == budget


def test_every_kind_is_asked_here():
    assert {row[0] for row in ROWS} == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "typed", "sentence"),
    [
        ("ratio", "1.0", r"ratio must lie in \[0, 1\)"),
        ("ratio", "half", "--ratio 'half' is no number"),
        ("ratio", "nan", "ratio"),
        ("macs", "0", "macs"),
        ("compression", "0.5", "1 or more: 0.5"),
        ("compression", "nan", "1 or more: nan"),
        ("compression", "inf", "params"),
        ("bytes", "many", "no number of bytes"),
        ("latency", "soon", "is no time"),
        ("energy", "0.5", "unknown budget 'energy'"),
    ],
)
def test_what_no_cut_can_be_asked_for_is_refused(kind, typed, sentence):
    with pytest.raises(InputError, match=sentence):
        listed(kind, typed)


def test_a_mask_takes_a_share_of_weights_or_what_brings_all_parameters_down():
    assert Budget("ratio", 0.9).masked(80, 100) == 0.9
    assert Budget("params", 0.6).masked(80, 100) == pytest.approx(0.5)  # 40 of 80 weights
    assert Budget("compression", 2.0).masked(80, 100) == pytest.approx(0.625)
    with pytest.raises(InputError, match="8x compression is more than masks can do here: 80 of"):
        Budget("compression", 8.0).masked(80, 100)
    with pytest.raises(InputError, match=r"masked weights save nothing that MACs 0\.5 counts"):
        Budget("macs", 0.5).masked(80, 100)


@pytest.mark.parametrize(
    "cut",
    [None, Cut("l1", Budget("ratio", 0.5)), Cut("l1", Budget("latency", "4ms"), "global")],
)
def test_cells_of_any_cut_survive_json(cut):
    cell = Cell(cut, "finetune", 3, "context")
    again = Cell.from_json(json.loads(json.dumps(cell.to_json())))
    assert again == cell and again.id == cell.id


def test_a_ratio_is_written_as_the_first_studies_wrote_it():
    fields = Cell(Cut("l1", Budget("ratio", 0.5)), None, 0, "x").to_json()
    assert (fields["criterion"], fields["ratio"]) == ("l1", 0.5)
    assert not {"budget", "scope", "cut"} & fields.keys()
