"""The rungs of a group: multiples, from the least to what is there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimnet.coupling.groups import Group
from slimnet.planning.budget import Limits, alignment
from slimnet.planning.ladder import ladder

quick = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def rungs_of(width, per_atom=1, limits=None, most=None):
    group = Group(
        0, np.arange(width // per_atom), (), np.full(width // per_atom, per_atom), ("a",), ()
    )
    return ladder(group, limits or Limits(), group.size if most is None else most)


def climbed(rungs):
    """Every rung, from the bottom up."""
    found = [rungs.least]
    while (up := rungs.up(found[-1])) is not None:
        found.append(up)
    return found


@pytest.mark.parametrize(
    ("width", "per_atom", "limits", "expected"),
    [
        (48, 1, Limits(), list(range(4, 49, 4))),
        (150, 1, Limits(), [*range(16, 150, 16), 150]),
        (12, 1, Limits(), list(range(1, 13))),
        (40, 1, Limits(min_channels=30), [32, 36, 40]),
        (40, 1, Limits(min_channels=99), [40]),
        (192, 6, Limits(), [8, 16, 24, 32]),  # atoms of six channels: eight of them are 48
        (24, 1, Limits(align=100), list(range(1, 25))),
    ],
)
def test_the_rungs_are_multiples_and_the_whole(width, per_atom, limits, expected):
    assert climbed(rungs_of(width, per_atom, limits)) == expected


@quick
@given(
    st.integers(8, 300),
    st.sampled_from(["auto", None, 4, 16]),
    st.sampled_from([None, 1, 5, 30]),
    st.floats(0, 1),
)
def test_up_and_down_undo_one_another_and_rounding_ends_on_a_rung(width, align, least, share):
    rungs = rungs_of(width, limits=Limits(align=align, min_channels=least))
    every = climbed(rungs)
    assert every == sorted(set(every)) and every[-1] == width
    assert all(rungs.down(above) == below for below, above in zip(every, every[1:]))  # noqa: B905, RUF007
    assert rungs.down(every[0]) is None
    nearest = rungs.nearest(share * width)
    assert nearest in every
    multiples = [rung for rung in every if rung % alignment(width, align) == 0] or every
    assert abs(nearest - share * width) <= min(abs(rung - share * width) for rung in multiples)


def test_what_has_gone_is_no_rung():
    rungs = rungs_of(64, limits=Limits(align=16), most=32)
    assert climbed(rungs) == [16, 32]
    assert rungs.nearest(60) == 32
