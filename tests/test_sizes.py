"""Integers that remember where they came from compute like integers."""

from __future__ import annotations

import copy
import operator
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimnet.capture.sizes import (
    Amount,
    AttributeOf,
    Combined,
    Shape,
    ShapeOf,
    Size,
    evaluate,
    leaves,
    shape_of,
)

OPERATORS = {
    name: getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "mod", "truediv")
}
DIVIDING = ("floordiv", "mod", "truediv")
quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)
numbers = st.integers(-50, 50)


def size(value: int, axis: int = 0) -> Size:
    return Size(value, ShapeOf(7, axis, value))


@quick
@given(st.sampled_from(sorted(OPERATORS)), numbers, numbers, st.sampled_from(["l", "r", "both"]))
def test_arithmetic_is_that_of_int_and_is_remembered(symbol, left, right, where):
    if symbol in DIVIDING and right == 0:
        right = 1
    a = size(left, 0) if where != "r" else left
    b = size(right, 1) if where != "l" else right
    result = OPERATORS[symbol](a, b)
    assert result == OPERATORS[symbol](left, right)
    assert isinstance(result, Amount if symbol == "truediv" else Size)
    assert result.source == Combined(
        symbol, a.source if isinstance(a, Size) else a, b.source if isinstance(b, Size) else b
    )


LEAVES = st.builds(size, st.integers(1, 30), st.integers(0, 5))
FORMULAS = st.recursive(
    LEAVES | st.integers(1, 9),
    lambda inner: st.tuples(st.sampled_from(sorted(OPERATORS)), inner, inner),
    max_leaves=8,
)


def computed(formula):
    if not isinstance(formula, tuple):
        return formula
    symbol, left, right = formula
    left, right = computed(left), computed(right)
    if symbol in DIVIDING and right == 0:
        return left
    return OPERATORS[symbol](left, right)


@quick
@given(FORMULAS)
def test_a_formula_evaluates_to_its_value_when_its_leaves_are_as_they_were(formula):
    result = computed(formula)
    if isinstance(result, (Size, Amount)):
        assert evaluate(result.source, lambda leaf: leaf.length) == result


@quick
@given(st.integers(1, 30), st.integers(1, 30))
def test_a_formula_evaluates_anew_when_a_leaf_changes(old, new):
    result = (size(old) * 4 + 2) // 2 % 7
    assert evaluate(result.source, lambda leaf: new) == (new * 4 + 2) // 2 % 7


@pytest.mark.parametrize("symbol", DIVIDING)
def test_a_division_by_nothing_is_no_length(symbol):
    source = Combined(symbol, 8, ShapeOf(0, 1, 4))
    assert evaluate(source, lambda leaf: 0) == -1


def test_leaves_are_all_that_a_source_was_computed_from():
    head, width = AttributeOf("block", "heads", 4), ShapeOf(3, 1, 32)
    total = Size(4, head) * (Size(32, width) // 8) + 1
    assert list(leaves(total.source)) == [head, width]
    assert list(leaves(5)) == []


def test_negation_and_floats():
    negative = -size(5)
    assert negative == -5 and evaluate(negative.source, lambda leaf: 9) == -9
    half = size(4) * 0.5
    assert half == 2.0 and type(half) is Amount and evaluate(half.source, lambda leaf: 9) == 4.5
    assert size(4) / 2 == 2.0 and type(size(4) / 2) is Amount
    assert [1, 2] * size(2) == [1, 2, 1, 2]


def test_a_size_works_wherever_an_integer_does():
    assert list(range(size(3))) == [0, 1, 2]
    assert [10, 11, 12][size(1)] == 11
    assert {4: "four"}[size(4)] == "four"
    assert f"{size(4):03d}" == "004" and isinstance(size(4), int)
    assert size(3) < size(4) and size(4) == 4 and hash(size(4)) == hash(4)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_copy_is_a_plain_integer(copied):
    assert copied(size(4)) == 4
    assert type(copied(size(4))) is int


def test_a_shape_is_a_tuple_whose_entries_know_their_axis():
    shape = shape_of(3, (2, 8, 5))
    assert shape == (2, 8, 5) and shape.numel() == 80 and len(shape) == 3
    assert [s.source for s in shape] == [ShapeOf(3, d, n) for d, n in enumerate((2, 8, 5))]
    assert isinstance(shape[1:], Shape) and shape[1:][0].source == ShapeOf(3, 1, 8)
    assert shape[-1].source == ShapeOf(3, 2, 5)
    batch, *rest = shape
    assert batch == 2 and rest == [8, 5]
    assert evaluate(shape.numel().source, lambda leaf: leaf.length) == 80
