"""Fresh weights: their distribution, what they leave alone, and what they refuse."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from slimnet.errors import InputError
from slimnet.train import reinitialise


def fresh(model, seed=0):
    reinitialise(model, seed)
    return model


def test_convolutions_follow_he_fan_out_of_their_own_width():
    conv = fresh(nn.Conv2d(3, 100, 5))
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (100 * 25)), rel=0.05)
    assert conv.bias.abs().max() == 0
    slim = fresh(nn.Conv2d(3, 25, 5))
    assert slim.weight.std().item() == pytest.approx(math.sqrt(2 / (25 * 25)), rel=0.05)


def test_linear_layers_and_batch_norms_follow_the_protocol():
    linear = fresh(nn.Linear(300, 100))
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert linear.bias.abs().max() == 0
    norm = nn.BatchNorm2d(6)
    norm(torch.randn(4, 6, 3, 3) + 5)
    nn.init.constant_(norm.weight, 0.3)
    fresh(norm)
    assert norm.weight.tolist() == [1] * 6
    assert norm.running_mean.tolist() == [0] * 6
    assert norm.num_batches_tracked == 0


def test_statistics_without_scales_are_reset_too():
    norm = nn.BatchNorm1d(3, affine=False)
    norm(torch.randn(8, 3) + 5)
    assert fresh(norm).running_mean.tolist() == [0] * 3


def test_every_learnt_weight_changes_and_the_seed_alone_decides():
    def net():
        return nn.Sequential(
            nn.ConvTranspose2d(2, 4, 3), nn.GroupNorm(2, 4), nn.PReLU(4), nn.Conv1d(4, 4, 1)
        ).append(nn.MultiheadAttention(4, 2))

    one, two = net(), net()
    for model in (one, two):
        for parameter in model.parameters():
            nn.init.constant_(parameter, 7.0)
    state = torch.get_rng_state()
    fresh(one, 5)
    assert torch.equal(torch.get_rng_state(), state)
    fresh(two, 5)
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        assert not (a == 7).all(), name
        assert torch.equal(a, b), name
    assert not torch.equal(fresh(two, 6)[0].weight, one[0].weight)


def test_frozen_layers_stay():
    shift = nn.Conv2d(3, 3, 1).requires_grad_(False)
    before = shift.weight.clone()
    fresh(nn.Sequential(shift, nn.Conv2d(3, 8, 3)))
    assert torch.equal(shift.weight, before)


def test_a_weight_behind_a_parametrisation_is_reached():
    conv = parametrizations.weight_norm(nn.Conv2d(3, 64, 3))
    nn.init.constant_(conv.parametrizations.weight.original0, 9.0)
    fresh(conv)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.1)


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))


def test_a_raw_parameter_is_refused_by_name():
    with pytest.raises(InputError, match=r"cannot start 0\.gain afresh: Scale has no reset_param"):
        reinitialise(nn.Sequential(Scale()), 0)


def test_a_raw_parameter_with_its_own_way_to_start_is_welcome():
    Scale.reset_parameters = lambda self: nn.init.constant_(self.gain, 2.0)
    try:
        assert fresh(Scale()).gain.tolist() == [2, 2, 2]
    finally:
        del Scale.reset_parameters
