"""How far outputs are from the targets of the original: a law for each kind of output."""

from __future__ import annotations

import math

import pytest
import torch

from slimnet.errors import InputError
from slimnet.repairs.output_error import check_targets, output_error

TARGETS = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double() + 100
OFF = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)).double()


def test_it_is_the_mean_square_over_the_variance_of_each_number_over_the_images():
    """An offset that all images share says nothing, and is no measure."""
    expected = OFF.square().mean() / TARGETS.var(0, correction=0).mean()
    assert output_error(TARGETS, TARGETS + OFF) == pytest.approx(float(expected))
    shifted = torch.tensor([-50.0, 0.0, 7.0, 1e3])
    assert output_error(TARGETS + shifted, TARGETS + shifted + OFF) == pytest.approx(
        float(expected)
    )
    assert output_error(TARGETS, TARGETS) == 0.0


def test_one_image_is_measured_by_how_its_numbers_vary_and_one_number_by_itself():
    expected = OFF[0].square().mean() / TARGETS[0].var()
    assert output_error(TARGETS[:1], TARGETS[:1] + OFF[:1]) == pytest.approx(float(expected))
    assert output_error(torch.tensor([[4.0]]), torch.tensor([[5.0]])) == pytest.approx(1 / 16)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_no_number_is_farthest_off(broken):
    assert output_error(TARGETS, torch.full_like(TARGETS, broken)) == math.inf


def test_of_whole_numbers_those_count_that_differ():
    targets = torch.tensor([[0], [3], [9], [1]])
    assert output_error(targets, torch.tensor([[0], [9], [9], [0]])) == 0.5
    assert output_error(targets > 1, targets > 1) == 0.0


def test_answers_of_another_size_cannot_be_compared():
    with pytest.raises(InputError, match="3 numbers for an image and the original 4"):
        output_error(TARGETS, TARGETS[:, :3])


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_answers_that_vary_by_rounding_alone_measure_nothing(kind):
    check_targets((TARGETS - 95).to(kind), "Net")
    alike = TARGETS[:1].repeat(9, 1).to(kind)
    alike[3:] = alike[3:] * (1 + torch.finfo(kind).eps)
    with pytest.raises(InputError, match="Net gives the same outputs for all 9 images"):
        check_targets(alike, "Net")
    check_targets(torch.ones(9, 1).long(), "Net")  # a class may be the same


def test_answers_that_are_no_numbers_measure_nothing():
    with pytest.raises(InputError, match="Net gives NaN or infinite outputs"):
        check_targets(TARGETS.masked_fill(TARGETS > 101, math.nan), "Net")
