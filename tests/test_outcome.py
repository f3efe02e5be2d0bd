"""What was asked for and achieved, in sentences."""

from __future__ import annotations

import pytest

from slimnet.plan.outcome import GroupCut, Outcome
from slimnet.plan.plan import Plan
from slimnet.planning.outcome import MANY, asked_and_achieved, rows

HALF = GroupCut(("conv",), 10, 5)


def sentences(asked, after=50, groups=(HALF,), notes=()):
    before = dict.fromkeys(("macs", "params", "bytes"), 100)
    left = dict.fromkeys(before, after)
    outcome = Outcome(groups=groups, asked=asked, before=before, after=left, notes=notes)
    return list(asked_and_achieved(Plan({}, outcome=outcome)))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"ratio": 0.5}, "asked for: 50% of the channels removed; achieved: 50.0%"),
        ({"macs": 0.5}, "asked for: 50% of the MACs left; achieved: 50.0%"),
        ({"params": 0.125}, "asked for: 12.5% of the parameters left; achieved: 50.0%"),
        ({"bytes": 5e6}, "asked for: at most 5,000,000 bytes; achieved: 50"),
    ],
)
def test_every_budget_is_set_against_what_came_out(asked, sentence):
    assert sentences({**asked, "align": None}) == [sentence]
    assert sentences({**asked, "align": None}, notes=("a note",)) == [sentence, "a note"]


def test_alignment_is_said_where_it_is_the_default():
    assert "--align off" in sentences({"macs": 0.5, "align": "auto"})[1]
    assert len(sentences({"macs": 0.5, "align": 16})) == 1


def test_the_groups_say_why_a_ratio_was_missed():
    groups = (
        GroupCut(("a",), 64, 32, (), 0.4, "a multiple of 16"),
        GroupCut(("b",), 64, 32, (), 0.4, "a multiple of 16"),
        GroupCut(("c",), 64, 64, (), 0.0, "kept by name"),
    )
    assert sentences({"ratio": 0.4}, groups=groups)[1] == (
        "they differ because not every group could lose what was asked of it (2 groups: a multiple "
        "of 16; 1 group: kept by name)"
    )
    assert sentences({"ratio": 0.4})[1].endswith(
        "whole channels leave, some of them several at a time"
    )


def test_few_groups_are_told_one_by_one_and_many_together():
    cut = GroupCut(("a",), 64, 32)
    assert rows([cut] * MANY) == [[cut]] * MANY
    assert rows([cut] * (MANY + 1)) == [[cut] * (MANY + 1)]
