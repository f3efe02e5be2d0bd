"""An exception of the slim network's forward says which line objects, and to what."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import slimnet
from slimnet.proof.raised import Raised

IMAGE = (torch.randn(1, 3, 8, 8),)


def caught(function):
    try:
        function()
    except Exception as error:
        return Raised.of(error)
    return None


def test_an_assertion_without_a_message_is_told_by_its_line():
    def fails():
        raise AssertionError  # pytest gives an assert of the tests' own a message

    raised = caught(fails)
    line = fails.__code__.co_firstlineno + 1
    assert raised.own
    told = f"AssertionError at test_raised.py:{line}: raise AssertionError"
    assert raised.text.startswith(told)


def test_a_message_is_told_with_the_line():
    def fails():
        raise ValueError("too few\nand more")

    line = fails.__code__.co_firstlineno + 1
    assert caught(fails).text == f"too few at test_raised.py:{line}"


def test_what_the_line_had_at_hand_is_known_by_its_shape():
    def fails(x, other):
        raise RuntimeError

    raised = caught(lambda: fails(torch.zeros(2, 5), "no tensor"))
    assert raised.shapes == {(2, 5)}


def test_what_torch_raises_is_not_the_users():
    raised = caught(lambda: nn.Linear(3, 4)(torch.zeros(2, 5)))
    assert not raised.own and "shapes cannot be multiplied" in raised.text and not raised.shapes


class Checked(nn.Module):
    """The second of three layers keeps what it gets for a check at the end of the pass."""

    def __init__(self, when):
        super().__init__()
        self.when = when
        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 24, 1)
        self.c, self.d = nn.Conv2d(24, 32, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x):
        if self.when == "first" and self.a.weight.shape[0] != 16:
            raise ValueError("sixteen")
        y = self.b(self.a(x))
        z = self.c(y)
        if self.when == "late":
            self.check(y)
        return self.d(z)

    def check(self, y):
        if str(y.shape[1]) != "24":
            raise ValueError


@pytest.mark.parametrize(
    ("when", "widths"), [("never", (8, 12, 16)), ("late", (8, 24, 16)), ("first", (16, 12, 16))]
)
def test_only_what_the_line_objects_to_stays(when, widths):
    pruned = slimnet.prune(Checked(when).eval(), IMAGE, ratio=0.5, align=None)
    slim = pruned.model
    assert (slim.a.out_channels, slim.b.out_channels, slim.c.out_channels) == widths
    assert ("gives what the code refuses" in str(pruned.inspection)) == (when != "never")
