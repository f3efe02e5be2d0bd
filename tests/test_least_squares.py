"""Sums over rows give the solution that all rows at once would."""

from __future__ import annotations

import pytest
import torch

from slimnet.reconstruction import least_squares
from slimnet.reconstruction.least_squares import Moments, fit_of


def problem(rows=400, groups=2, inputs=5, outputs=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, groups, inputs, generator=generator, dtype=torch.float64) + 0.7
    truth = torch.randn(groups, outputs, inputs, generator=generator, dtype=torch.float64)
    y = torch.einsum("ngd,god->ngo", x, truth) + 0.3
    return x, y + 0.1 * torch.randn(y.shape, generator=generator, dtype=torch.float64)


def fitted(x, y, weights=None, constants=None):
    shape = (x.shape[1], y.shape[2], x.shape[2])
    none = torch.zeros(shape).double(), torch.zeros(shape[:2]).double()
    fit = fit_of(
        none[0] if weights is None else weights, none[1] if constants is None else constants
    )
    for part in range(0, len(x), 150):
        fit.add(x[part : part + 150], y[part : part + 150].flatten(1))
    return fit


@pytest.fixture(params=["double", "single", "rows"])
def kind(request, monkeypatch):
    """Small, large and very large numbers of inputs."""
    monkeypatch.setattr(least_squares, "LARGE", 1024 if request.param == "double" else 1)
    monkeypatch.setattr(least_squares, "WIDE", 1 if request.param == "rows" else 8192)
    return request.param


@pytest.mark.parametrize("inputs", [3, 8, 11])
def test_moments_are_those_of_all_rows_however_they_are_cut(inputs, monkeypatch):
    monkeypatch.setattr(least_squares, "PIECE", 1)
    monkeypatch.setattr(least_squares, "LEAST_PIECE", 7)
    monkeypatch.setattr(least_squares, "_STRIP", 2)
    monkeypatch.setattr(least_squares, "_STRIPS", 4)
    x = torch.randn(2, 30, inputs, dtype=torch.float64) + 1
    moments = Moments(2, inputs)
    moments.add(x[:, :19])
    moments.add(x[:, 19:])
    torch.testing.assert_close(moments.second(), x.mT @ x / 30)
    centred = x - x.mean(1, keepdim=True)
    torch.testing.assert_close(moments.covariance(), centred.mT @ centred / 30)


def test_a_fit_is_the_same_however_its_rows_are_cut(kind, monkeypatch):
    x, y = problem()
    whole = fitted(x, y).solve(constant=True)
    monkeypatch.setattr(least_squares, "PIECE", 1)
    monkeypatch.setattr(least_squares, "LEAST_PIECE", 7)
    cut = fitted(x, y)
    assert cut.rows == len(x)
    for one, other in zip(whole, cut.solve(constant=True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("constant", [True, False])
def test_the_solution_is_that_of_all_rows(constant, kind):
    x, y = problem()
    ridge = 1e-9 if kind == "rows" else 0.0  # there are more rows than inputs here
    weights, constants = fitted(x, y).solve(constant=constant, ridge=ridge)
    for g in range(2):
        rows = torch.cat([x[:, g], torch.ones(len(x), 1)], 1) if constant else x[:, g]
        expected = torch.linalg.lstsq(rows, y[:, g]).solution.T
        tolerance = {} if kind == "double" else {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(weights[g], expected[:, :5].double(), **tolerance)
        if constant:
            torch.testing.assert_close(constants[g], expected[:, 5].double(), **tolerance)


def test_the_error_is_the_mean_square_over_the_variance(kind):
    x, y = problem()
    weights, constants = torch.randn(2, 3, 5).double(), torch.randn(2, 3).double()
    made = torch.einsum("ngd,god->ngo", x, weights) + constants
    expected = (made - y).square().mean(0).sum() / y.var(0, correction=0).sum()
    assert fitted(x, y).error(weights, constants) == pytest.approx(float(expected), rel=1e-6)
    assert fitted(x, y, weights, constants).error() == pytest.approx(float(expected), rel=1e-6)


def test_both_ways_give_the_same_change(monkeypatch):
    """The ridge is the same number of mean variances in both."""
    x, y = problem(rows=4, inputs=9)
    summed = fitted(x, y).solve(constant=True)
    monkeypatch.setattr(least_squares, "WIDE", 1)
    for one, other in zip(summed, fitted(x, y).solve(constant=True), strict=True):
        torch.testing.assert_close(one, other)


def test_a_change_is_of_the_map_as_it_is():
    x, y = problem()
    start = torch.randn(2, 3, 5).double(), torch.randn(2, 3).double()
    change, more = fitted(x, y, *start).solve(constant=True, ridge=0.0)
    whole = fitted(x, y).solve(constant=True, ridge=0.0)
    torch.testing.assert_close(start[0] + change, whole[0])
    torch.testing.assert_close(start[1] + more, whole[1])


def test_what_the_data_says_nothing_about_does_not_change():
    x, y = problem()
    x[:, :, 4] = 0
    change, _ = fitted(x, y).solve(constant=True)
    assert not change[:, :, 4].any()
    assert change[:, :, :4].abs().min() > 1e-3


def test_a_layer_without_any_signal_is_left_alone():
    fit = fitted(torch.zeros(10, 1, 3), torch.zeros(10, 1, 2))
    change, constants = fit.solve(constant=True)
    assert not change.any()
    assert not constants.any()
    assert fit.error() == fit.error(change, constants) == 0.0


def test_a_change_is_confirmed_as_far_as_other_rows_want_it(kind):
    x, y = problem()
    fit = fitted(x, y)
    change, constants = fit.solve(constant=True)
    half = fit.confirmed(2 * change, 2 * constants, [(x, y.flatten(1))])
    torch.testing.assert_close(half, torch.full_like(half, 0.5), rtol=1e-2, atol=1e-2)
    whole = fit.confirmed(0.5 * change, 0.5 * constants, [(x, y.flatten(1))])
    assert torch.equal(whole, torch.ones_like(whole))
    none = fit.confirmed(-change, -constants, [(x, y.flatten(1))])
    assert torch.equal(none, torch.zeros_like(none))
    assert fit.certain
    assert not fitted(x[:30], y[:30]).certain
