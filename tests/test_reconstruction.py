"""ThiNet, LASSO and optimal brain surgeon against what they mean, on explicit samples."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import nn

import slimnet
from slimnet.capture.passes import capture_passes
from slimnet.criteria import reconstruction, score
from slimnet.criteria.reconstruction import Problem, lasso, surgeon, thinet
from slimnet.inspection import analyse
from slimnet.network import Network
from slimnet.reconstruction.least_squares import RIDGE
from slimnet.repairs import repair
from slimnet.statistics.moments import input_moments
from slimnet.statistics.statistics import Statistics

ATOMS, KERNEL, OUTPUTS, ROWS = 5, 2, 3, 300


def samples(seed=0):
    """Rows [n, D] whose channels are alike, weights [O, D], the atom of each column."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(ATOMS * KERNEL, ATOMS * KERNEL, generator=generator).double()
    rows = torch.randn(ROWS, ATOMS * KERNEL, generator=generator).double() @ mixed
    weights = torch.randn(OUTPUTS, ATOMS * KERNEL, generator=generator).double()
    return rows, weights, torch.arange(ATOMS).repeat_interleave(KERNEL)


def problem(seed=0):
    rows, weights, columns = samples(seed)
    return Problem(rows.T @ rows / len(rows), weights, columns)


def contribution(atoms, seed=0):
    """[n, O]: what these atoms add to the output."""
    rows, weights, columns = samples(seed)
    chosen = torch.isin(columns, torch.tensor(atoms))
    return rows[:, chosen] @ weights[:, chosen].T


@pytest.mark.parametrize("seed", range(4))
def test_thinet_is_the_greedy_search_over_samples(seed):
    order, errors = thinet([problem(seed)], ATOMS)
    gone: list[int] = []
    for atom, error in zip(order, errors, strict=True):
        energies = {
            a: float(contribution([*gone, a], seed).square().sum(1).mean())
            for a in range(ATOMS)
            if a not in gone
        }
        assert atom == min(energies, key=energies.get)
        gone.append(atom)
        assert error >= energies[atom] * (1 - 1e-9)
    assert errors[0] == pytest.approx(float(contribution(order[:1], seed).square().sum(1).mean()))


@pytest.mark.parametrize("seed", range(4))
def test_a_gate_of_the_lasso_closes_where_scikit_learn_closes_it(seed):
    order, errors = lasso([problem(seed)], ATOMS)
    closes = np.diff(errors, prepend=0.0)
    gates = [contribution([a], seed).flatten().numpy() for a in range(ATOMS)]
    target = contribution(list(range(ATOMS)), seed).flatten().numpy()
    for at, atom in zip(closes, order, strict=True):
        for penalty, is_open in ((at * 0.98, True), (at * 1.02, False)):
            # scikit-learn halves the mean over n·O; ours is the mean over n of the sum over O
            model = Lasso(penalty / OUTPUTS, fit_intercept=False, tol=1e-12, max_iter=100_000)
            model.fit(np.stack(gates, 1), target)
            if closes[order.index(atom)] == closes.max() or is_open:
                assert (abs(model.coef_[atom]) > 1e-9) == is_open


def least_error(gone, seed):
    """Of solving for all other columns, with the same ridge towards the weights as they are."""
    rows, weights, columns = samples(seed)
    second = rows.T @ rows / len(rows)
    second = second + RIDGE * second.diagonal().mean() * torch.eye(len(second))
    left = ~torch.isin(columns, torch.tensor(gone))
    missing = weights[:, ~left]
    # min over V of tr((W - V) H (W - V)ᵀ) with V zero on what has gone
    cross, own = second[~left][:, left], second[~left][:, ~left]
    own = own - cross @ torch.linalg.solve(second[left][:, left], cross.T)
    return float((missing @ own * missing).sum())


@pytest.mark.parametrize("seed", range(4))
def test_the_surgeons_errors_are_those_of_least_squares(seed):
    order, errors = surgeon([problem(seed)], ATOMS)
    first = {a: least_error([a], seed) for a in range(ATOMS)}
    assert order[0] == min(first, key=first.get)
    for number in range(1, ATOMS):
        assert errors[number - 1] == pytest.approx(least_error(order[:number], seed), rel=1e-6)
    best = min(least_error(list(pair), seed) for pair in combinations(range(ATOMS), 2))
    assert errors[1] >= best * (1 - 1e-9)


def test_atoms_that_leave_together_add_what_they_do_together(monkeypatch):
    monkeypatch.setattr(reconstruction, "_AT_ONCE", 2)
    order, errors = surgeon([problem(0)], ATOMS)
    assert sorted(order) == list(range(ATOMS))
    assert errors == sorted(errors)
    together = ATOMS // 2
    assert errors[together - 1] == pytest.approx(least_error(order[:together], 0), rel=1e-6)


def test_two_readers_add_their_errors_up():
    both = surgeon([problem(0), problem(1)], ATOMS)
    order = both[0]
    total = least_error(order[:2], 0) + least_error(order[:2], 1)
    assert both[1][1] == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("criterion", ["obs", "thinet", "lasso"])
def test_a_channel_that_is_a_copy_of_another_goes_first(criterion):
    """To be reproduced from what is left, or not to be missed: not a matter of its size."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    with torch.no_grad():
        if criterion == "obs":  # a large copy: the surgeon moves its weight to the other one
            model[0].weight[5] = model[0].weight[9]
            model[0].bias[5] = model[0].bias[9]
            model[0].weight[[5, 9]] *= 3
            gone = {5, 9}
        else:  # large, but nobody listens
            model[0].weight[5] *= 10
            model[2].weight[:, 5] = 0
            gone = {5}
    images = torch.randn(32, 3, 12, 12)
    pruned = slimnet.prune(
        model, (images[:1],), ratio=1 / 16, criterion=criterion, data=images, align=None
    )
    (removed,) = pruned.plan.removed["0.weight"][0]
    assert removed in gone


@pytest.mark.parametrize("criterion", ["obs", "thinet", "lasso"])
def test_of_very_many_inputs_gates_are_chosen(criterion, monkeypatch):
    """One weight an atom: what nobody listens to still goes first."""
    monkeypatch.setattr(slimnet.reconstruction.least_squares, "WIDE", 8)
    monkeypatch.setattr(slimnet.statistics.moments, "WIDE", 8)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1600, 9)).eval()
    with torch.no_grad():
        model[3].weight.view(9, 16, 100)[:, 5] = 0
    images = torch.randn(64, 3, 12, 12)
    pruned = slimnet.prune(
        model, (images[:1],), ratio=1 / 16, criterion=criterion, data=images, align=None
    )
    assert pruned.plan.removed["0.weight"][0] == (5,)
    _, done = repair(Network.of(model), Network.of(pruned.model), pruned.plan, images)
    assert done.after < 1e-6


@pytest.mark.parametrize("criterion", ["obs", "thinet", "lasso"])
def test_grouped_and_flattened_readers_are_read(criterion):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3, groups=2),
        nn.Flatten(),
        nn.Linear(8 * 36, 5),
    ).eval()
    images = torch.randn(16, 3, 12, 12)
    pruned = slimnet.prune(
        model, (images[:1],), ratio=0.5, criterion=criterion, data=images, align=None
    )
    assert pruned.model[0].out_channels == 8
    assert pruned.certificate.error < 1e-9


@pytest.mark.parametrize(("criterion", "times"), [("obs", 3.0), ("thinet", 1.0), ("lasso", 1.0)])
def test_an_error_late_in_the_network_counts_more_where_others_are_solved_anew(criterion, times):
    """Three times as much in the last layer as in the first, in which later ones make up for it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    images = torch.randn(16, 3, 12, 12)
    analysis = analyse(Network.of(model), capture_passes(Network.of(model), (images[:1],)), ())
    moments = input_moments(Network.of(model), images)["2.weight"]
    scores = [
        score(
            analysis.groups,
            Network.of(model).tensors,
            criterion,
            statistics=Statistics(inputs={"2.weight": replace(moments, depth=depth)}),
        )
        for depth in (0.0, 0.5, 1.0)
    ]
    first, middle, last = (next(iter(found.values())).sum() for found in scores)
    assert last / first == pytest.approx(times, rel=1e-6)
    assert middle / first == pytest.approx((1 + times) / 2, rel=1e-6)


def test_the_first_layer_is_at_depth_0_and_the_last_at_1():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)).eval()
    found = input_moments(Network.of(model), torch.randn(32, 4))
    assert [moments.depth for moments in found.values()] == [0.0, 0.5, 1.0]


def scores_of(model, images, criterion):
    """[channels] of the one group that can leave, by what reads it."""
    analysis = analyse(Network.of(model), capture_passes(Network.of(model), (images[:1],)), ())
    (group,) = (g for g in analysis.groups if "a" in g.layers)
    found = score(
        [group],
        Network.of(model).tensors,
        criterion,
        statistics=Statistics(inputs=input_moments(Network.of(model), images)),
    )
    return found[group.number]


class Read(nn.Module):
    """Sixteen channels, and what reads them."""

    def __init__(self, *readers):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.readers = nn.Conv2d(3, 16, 3), nn.ModuleList(readers)

    def forward(self, x):
        x = self.a(x).relu()
        return [reader(x).relu() for reader in self.readers]


READ = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("bias", "first"), [(True, True), (False, False)])
def test_a_constant_channel_costs_nothing_where_a_constant_makes_up_for_it(bias, first):
    model = Read(nn.Conv2d(16, 8, 3, bias=bias)).eval()
    with torch.no_grad():
        model.a.weight[5], model.a.bias[5] = 0.0, 10.0
    assert (scores_of(model, READ, "obs").argmin() == 5) == first
    assert scores_of(model, READ, "thinet").argmin() != 5  # the energy of what is missing


@pytest.mark.parametrize("criterion", ["obs", "thinet", "lasso"])
def test_an_error_counts_as_the_norm_after_it_scales_it(criterion):
    """What only outputs hear that the norm multiplies with zero costs nothing."""
    model = Read(nn.Sequential(nn.Conv2d(16, 8, 3, bias=False), nn.BatchNorm2d(8))).eval()
    with torch.no_grad():
        convolution, norm = model.readers[0]
        norm.weight[:4] = 0.0
        convolution.weight[:4, 5], convolution.weight[4:, 5] = 10.0, 0.0
    assert scores_of(model, READ, criterion).argmin() == 5


@pytest.mark.parametrize("criterion", ["obs", "thinet", "lasso"])
def test_each_reader_counts_by_the_variance_of_its_own_answer(criterion):
    """One that speaks a hundred times as loud is heard no more than the other."""
    model = Read(nn.Conv2d(16, 8, 3), nn.Conv2d(16, 8, 1)).eval()
    before = scores_of(model, READ, criterion)
    with torch.no_grad():
        for tensor in (model.readers[1].weight, model.readers[1].bias):
            tensor *= 100
    np.testing.assert_allclose(scores_of(model, READ, criterion), before, rtol=1e-3)
