"""What layers read, as moments, and the variance that an error of theirs is measured in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.reconstruction.lockstep import Stop
from slimnet.statistics import moments
from slimnet.statistics.moments import input_moments, rows_grid


class Stream(nn.Module):
    """A convolution, a residual branch with a norm, and a head."""

    def __init__(self):
        super().__init__()
        self.first, self.branch = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x):
        x = self.first(x)
        x = (self.norm(self.branch(x)) + x).relu()
        return self.head(x.mean((2, 3)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = Stream().eval()
    with torch.no_grad():
        model.norm.weight.copy_(torch.rand(4) + 0.5)
        model.norm.running_var.copy_(torch.rand(4) + 0.5)
    return model


def test_a_head_reads_the_second_moments_of_its_inputs(network):
    images = torch.randn(20, 3, 6, 6)
    seen = []
    network.head.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    network(images)
    (x,) = seen
    moments = input_moments(Network.of(network), images)["head.weight"].sums
    torch.testing.assert_close(moments.second()[0], (x.mT @ x / 20).double())


def variance(y):
    return float(y.double().var((0, *range(2, y.dim())), correction=0).sum())


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_an_error_is_measured_in_the_variance_of_what_it_becomes_part_of(network, kind):
    network, images = network.to(kind), torch.randn(20, 3, 6, 6, dtype=kind) + 2
    found = input_moments(Network.of(network), images)
    with torch.no_grad():
        first = network.first(images)
        total = network.norm(network.branch(first)) + first
        head = network(images)
    expected = {"first.weight": first, "branch.weight": total, "head.weight": head}
    for name, y in expected.items():
        assert found[name].spread == pytest.approx(variance(y), rel=1e-5), name


def test_a_normed_output_counts_as_the_norm_scales_it(network):
    model = nn.Sequential(network.first, network.norm, nn.ReLU()).eval()
    images = torch.randn(20, 3, 6, 6)
    (layer,) = input_moments(Network.of(model), images).values()
    assert layer.spread == pytest.approx(variance(model[:2](images).detach()), rel=1e-5)


def test_batches_do_not_change_what_is_read(network, monkeypatch):
    images = torch.randn(20, 3, 6, 6)
    whole = input_moments(Network.of(network), images)
    monkeypatch.setattr(moments, "_PIXELS", 3 * 36)
    monkeypatch.setattr(moments, "_PART", 1)
    near = {"rtol": 1e-5, "atol": 1e-6}
    for name, layer in input_moments(Network.of(network), images).items():
        assert layer.spread == pytest.approx(whole[name].spread, rel=1e-5)
        torch.testing.assert_close(layer.sums.second(), whole[name].sums.second(), **near)


def test_images_that_do_not_fit_are_refused_in_a_sentence(network):
    with pytest.raises(InputError, match="Stream does not run on the calibration images of 2x6x6"):
        input_moments(Network.of(network), torch.randn(4, 2, 6, 6))


@pytest.mark.parametrize(
    ("unknowns", "least", "rows"),
    [(100, 4000, 4000), (500, 4000, 16000), (9000, 4000, 4096), (10**4 - 2000, 0, 4 * 90 * 90)],
)
def test_places_are_as_many_as_unknowns_want(unknowns, least, rows):
    """Thirty-two rows for each, as many as are kept of very many, or all that there are."""
    stops = [Stop(None, (), torch.zeros(2, 1, 90, 90), {}) for _ in range(2)]
    places = rows_grid(stops, unknowns, torch.Generator().manual_seed(0), least=least)(stops[0])
    found = 4 * (90 * 90 if places is None else len(places[0]) * len(places[1]))
    assert found == pytest.approx(rows, rel=0.05)
