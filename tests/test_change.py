"""How far answers are from the original's: a law for each kind of answer."""

from __future__ import annotations

import math

import pytest
import torch

from slimnet.errors import InputError
from slimnet.repairs.change import change, check_answers

SAID = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double() + 100
OFF = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)).double()


def test_it_is_the_mean_square_over_the_variance_of_each_number_over_the_images():
    """An offset that all images share says nothing, and is no measure."""
    expected = OFF.square().mean() / SAID.var(0, correction=0).mean()
    assert change(SAID, SAID + OFF) == pytest.approx(float(expected))
    shifted = torch.tensor([-50.0, 0.0, 7.0, 1e3])
    assert change(SAID + shifted, SAID + shifted + OFF) == pytest.approx(float(expected))
    assert change(SAID, SAID) == 0.0


def test_one_image_is_measured_by_how_its_numbers_vary_and_one_number_by_itself():
    expected = OFF[0].square().mean() / SAID[0].var()
    assert change(SAID[:1], SAID[:1] + OFF[:1]) == pytest.approx(float(expected))
    assert change(torch.tensor([[4.0]]), torch.tensor([[5.0]])) == pytest.approx(1 / 16)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_no_number_is_farthest_off(broken):
    assert change(SAID, torch.full_like(SAID, broken)) == math.inf


def test_of_whole_numbers_those_count_that_differ():
    said = torch.tensor([[0], [3], [9], [1]])
    assert change(said, torch.tensor([[0], [9], [9], [0]])) == 0.5
    assert change(said > 1, said > 1) == 0.0


def test_answers_of_another_size_cannot_be_compared():
    with pytest.raises(InputError, match="3 numbers for an image and the original 4"):
        change(SAID, SAID[:, :3])


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_answers_that_vary_by_rounding_alone_measure_nothing(kind):
    check_answers((SAID - 95).to(kind), "Net")
    alike = SAID[:1].repeat(9, 1).to(kind)
    alike[3:] = alike[3:] * (1 + torch.finfo(kind).eps)
    with pytest.raises(InputError, match="Net gives the same outputs for all 9 images"):
        check_answers(alike, "Net")
    check_answers(torch.ones(9, 1).long(), "Net")  # a class may be the same


def test_answers_that_are_no_numbers_measure_nothing():
    with pytest.raises(InputError, match="Net gives NaN or infinite outputs"):
        check_answers(SAID.masked_fill(SAID > 101, math.nan), "Net")
