"""What happens to sizes is noted, and every way to compute one is remembered."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import slimnet
from slimnet.capture.conversions import Integer, length, remembering_conversions
from slimnet.capture.journal import Journal, keeping
from slimnet.capture.sites import Site
from slimnet.capture.sizes import Amount, Combined, Shape, ShapeOf, Size, evaluate

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
        (lambda n: int(n), 20),
        (lambda n: int(n * 0.5), 10),
        (lambda n: int(n / 4), 5),
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
        (lambda n: int(n * 0.5) * 2 // 4, 5),
        (lambda n: sum([int(m) for m in (n, 3)]), 23),
        (lambda n: next(map(int, (n, 3))), 20),
        (lambda n: math.prod((2, n)), 40),
        (lambda n: sum((n, n)), 40),
        (lambda n: n - math.floor(n * 0.5) - int(n * 0.25), 5),
    ],
)
def test_every_way_to_compute_a_size_is_remembered(notes, compute, of_20):
    with remembering_conversions([globals()]):
        found = compute(Size(32, WIDTH))
    assert isinstance(found, Size) and found == value(found, 32)
    assert value(found, 20) == of_20


def test_the_product_of_a_shape_is_remembered_by_numpy_too(notes):
    found = np.prod(Shape((Size(32, WIDTH), Size(2, ShapeOf(7, 0, 2)))))
    assert found == 64 and isinstance(found, Size)


def test_whose_code_converts_a_size_is_noted(notes):
    assert type(int(Size(32, WIDTH))) is int
    assert notes.converting == [globals()]


def test_outside_of_a_recording_nothing_is_noted():
    assert type(int(Size(32, WIDTH))) is int
    assert Size(32, WIDTH) == 32 and hash(Size(32, WIDTH)) == hash(32)


def test_whose_code_hashes_a_size_is_noted(notes):
    assert {32: "wide"}[Size(32, WIDTH)] == "wide"
    assert notes.hashing == {test_whose_code_hashes_a_size_is_noted.__code__}


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
        lambda m, y: int(m.dim * 0.5) * 2,
        lambda m, y: int(int(y.shape[1]) / 4) * 4,
    ],
)
def test_a_network_whose_code_computes_a_size_is_cut(size):
    model = Net(size, dim=32, one=1.0).eval()
    slim = slimnet.prune(model, (torch.randn(2, 3, 4, 4),), ratio=0.5, align=None).model
    assert slim.p.out_channels == 16


def test_what_stands_for_int_passes_for_it():
    assert isinstance(3, Integer) and not isinstance(3.0, Integer) and issubclass(bool, Integer)
    kind = int
    assert kind == Integer and {int: "known"}[Integer] == "known"
    assert Integer("11", base=2) == 3 and Integer(3.7) == 3 and type(Integer(3.7)) is int
    assert Integer() == 0 and Integer.from_bytes(b"\x02", "big") == 2
    assert length([1, 2]) == 2 and length(torch.zeros(4, 2)) == 4


def test_the_names_are_put_back():
    names, own = {"a": 1}, {"int": str}
    with remembering_conversions([names, own]):
        assert names["int"] is Integer and own == {"int": str}
    assert names == {"a": 1} and own == {"int": str} and "int" not in globals()


class Particular(Net):
    """Code that wants Python's own ``int``."""

    def forward(self, x):
        y = self.p(x)
        if type(int(y.shape[1])) is not int or torch.zeros(1, dtype=int).dtype != torch.int64:
            raise TypeError("no integer")
        return self.l(y.reshape(x.shape[0], self.dim, -1).transpose(1, 2))


def test_code_that_wants_pythons_own_int_is_recorded_with_it():
    model = Particular(None, dim=32).eval()
    slim = slimnet.prune(model, (torch.randn(2, 3, 4, 4),), ratio=0.5, align=None).model
    assert slim.p.out_channels == slim.dim == 16 and "int" not in globals()
