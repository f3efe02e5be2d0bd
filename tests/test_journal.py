"""Plain integers that were made of sizes are known again, in the call that made them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import slimnet
from slimnet.capture.journal import Journal, keeping
from slimnet.capture.sites import Site
from slimnet.capture.sizes import Amount, Combined, ShapeOf, Size, evaluate, recalled

SITE = Site("net.py", 3, "forward", "")
WIDTH = ShapeOf(7, 1, 32)


@pytest.fixture
def notes():
    journal = Journal()
    journal.site = lambda: SITE
    with keeping(journal):
        yield journal


def value(number, width):
    """What a number is when the axis has another length."""
    return evaluate(number.source, lambda leaf: width)


@pytest.mark.parametrize(
    ("compute", "of_20"),
    [
        (lambda n: recalled(int(n)), 20),
        (lambda n: recalled(int(n * 0.5)), 10),
        (lambda n: recalled(int(n / 4)), 5),
        (lambda n: round(n), 20),
        (lambda n: round(n * 0.3), 6),
        (lambda n: round(n, -1), 20),
        (lambda n: math.floor(n * 0.26), 5),
        (lambda n: math.ceil(n / 3), 7),
        (lambda n: math.trunc(n / 3), 6),
        (lambda n: n << 1, 40),
        (lambda n: n >> 1, 10),
        (lambda n: n**1, 20),
        (lambda n: 2 ** (n // 8), 4),
        (lambda n: divmod(n, 6)[0], 3),
        (lambda n: divmod(100, n)[1], 0),
        (lambda n: max(n, 4), 20),
        (lambda n: abs(-n), 20),
        (lambda n: n & ~3, 20),
        (lambda n: n + int(n * 0.5), 30),
        (lambda n: int(n * 0.5) + n, 30),
        (lambda n: math.prod((2, n)), 40),
        (lambda n: sum((n, n)), 40),
        (lambda n: n - math.floor(n * 0.5) - int(n * 0.25), 5),
    ],
)
def test_every_way_to_compute_a_size_is_remembered(notes, compute, of_20):
    found = compute(Size(32, WIDTH))
    assert isinstance(found, Size) and found == value(found, 32)
    assert value(found, 20) == of_20


def test_the_product_of_a_shape_is_remembered_by_numpy_too(notes):
    from slimnet.capture.sizes import Shape

    found = np.prod(Shape((Size(32, WIDTH), Size(2, ShapeOf(7, 0, 2)))))
    assert found == 64 and isinstance(found, Size)


def test_a_literal_of_that_value_elsewhere_is_a_literal(notes):
    def converts(n):
        return int(n)

    def other():
        return recalled(8)

    assert other() == 8 and type(other()) is int
    kept = [converts(Size(8, WIDTH))]
    assert type(recalled(kept[0])) is Size  # made by a function that this one has called

    def outer():
        return converts(Size(9, WIDTH))

    outer()
    assert type(recalled(9)) is int  # made for a function that has returned


def test_a_large_integer_is_known_by_itself(notes):
    made = int(Size(1000, WIDTH))
    other = int("1000")
    assert type(recalled(made)) is Size and type(recalled(other)) is int


def test_outside_of_a_recording_nothing_is_noted():
    assert type(int(Size(32, WIDTH))) is int
    assert Size(32, WIDTH) == 32 and hash(Size(32, WIDTH)) == hash(32)
    assert type(recalled(32)) is int


def test_what_was_found_equal_is_noted_once_with_its_line(notes):
    n = Size(32, WIDTH)
    assert n == 32 and (n != 32) is False and n != 5 and n == 32 and n < 40
    assert Amount(16.0, Combined("truediv", WIDTH, 2)) == 16
    (first, second) = notes.equalities.values()
    assert first.source == Combined("eq", WIDTH, 32) and first.site is SITE
    assert evaluate(first.source, lambda leaf: 32) == 1 and not evaluate(first.source, lambda _: 5)
    assert second.source.left == Combined("truediv", WIDTH, 2)


class Net(nn.Module):
    def __init__(self, size, **given):
        super().__init__()
        self.size = size
        self.p, self.l = nn.Conv2d(3, 32, 1), nn.Linear(32, 5)
        vars(self).update(given)

    def forward(self, x):
        y = self.p(x)
        return self.l(y.reshape(x.shape[0], self.size(self, y), -1).transpose(1, 2))


@pytest.mark.parametrize(
    "size",
    [
        lambda m, y: int(y.size(1)),
        lambda m, y: int(y.size(1) * 1.0),
        lambda m, y: int(y.size(1) / 1),
        lambda m, y: round(y.size(1)),
        lambda m, y: y.shape[1] << 0,
        lambda m, y: y.shape[1] ** 1,
        lambda m, y: math.floor(y.shape[1] * 1.0),
        lambda m, y: divmod(y.shape[1], 1)[0],
        lambda m, y: max(y.shape[1], 3),
        lambda m, y: np.prod(y.shape[1:2]),
        lambda m, y: int(m.dim),
        lambda m, y: int(m.dim * m.one),
        lambda m, y: len(m.l.weight[0]),
    ],
)
def test_a_network_whose_code_computes_a_size_is_cut(size):
    model = Net(size, dim=32, one=1.0).eval()
    slim = slimnet.prune(model, (torch.randn(2, 3, 4, 4),), ratio=0.5, align=None).model
    assert slim.p.out_channels == 16
