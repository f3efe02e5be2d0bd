"""Hidden features of slim and dense networks, channel by channel as the plan says."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import slimnet
from slimnet.errors import InputError
from slimnet.models import MODELS
from slimnet.plan.plan import Plan
from slimnet.task import LoaderTask
from slimnet.train.distillation import Distilled
from slimnet.train.features import Features

IMAGE = (torch.zeros(1, 1, 8, 8),)


def apart(plan, slim, dense, x):
    features = Features.of(plan, slim, dense)
    with torch.no_grad(), features.watched(slim) as own, features.watched(dense) as theirs:
        slim(x), dense(x)
    return float(features.apart(own, theirs)), features


@pytest.fixture(scope="module")
def residual():
    """A residual network, the one that is cut from it, and the original with zeros."""
    torch.manual_seed(0)
    dense = MODELS["digits_resnet"].make().eval()
    with torch.no_grad():
        for module in dense.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
    pruned = slimnet.prune(dense, IMAGE, ratio=0.5, criterion="random")
    zeroed = copy.deepcopy(dense)
    with torch.no_grad():
        for name, tensor in zeroed.state_dict().items():
            pruned.plan.of(name).zero_(tensor)
    return pruned, zeroed, torch.randn(16, 1, 8, 8)


def test_equal_networks_have_no_features_apart(residual):
    _, dense, x = residual
    assert apart(Plan({}), copy.deepcopy(dense), dense, x)[0] == 0


def test_a_slim_channel_is_the_dense_one_that_survived(residual):
    pruned, zeroed, x = residual
    error, features = apart(pruned.plan, pruned.model, zeroed, x)
    assert error < 1e-9
    assert set(features.kept) == {
        name for name, m in pruned.model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))
    }


def test_other_channels_are_apart(residual):
    pruned, zeroed, x = residual
    features = Features.of(pruned.plan, pruned.model, zeroed)
    name = "layer2.0.conv2"
    wrong = replace(features, kept={**features.kept, name: features.kept[name].flip(0)})
    with torch.no_grad(), wrong.watched(pruned.model) as own, wrong.watched(zeroed) as theirs:
        pruned.model(x), zeroed(x)
    assert float(wrong.apart(own, theirs)) > 0.01


def test_the_error_is_in_parts_of_the_dense_networks_variance():
    torch.manual_seed(0)
    dense, slim, x = nn.Linear(4, 6), nn.Linear(4, 3), torch.randn(5, 4)
    dense, slim = nn.Sequential(dense), nn.Sequential(slim)
    plan = Plan({"0.weight": {0: (0, 2, 5)}, "0.bias": {0: (0, 2, 5)}})
    own, kept = slim(x).detach(), dense(x)[:, [1, 3, 4]].detach()
    wanted = (own - kept).square().mean() / kept.var()
    assert apart(plan, slim, dense, x)[0] == pytest.approx(float(wanted), rel=1e-6)


def test_layers_whose_outputs_are_scaled_are_left_out():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(16, 32) for _ in range(3))

        def forward(self, x):
            q, k, v = (
                each(x).unflatten(-1, (2, -1)).transpose(1, 2) for each in (self.q, self.k, self.v)
            )
            return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.out = Attention(), nn.Linear(32, 8)

        def forward(self, x):
            return self.out(self.attention(x))

    torch.manual_seed(0)
    model = Block().eval()
    pruned = slimnet.prune(model, (torch.randn(2, 5, 16),), ratio=0.5)
    assert pruned.plan.scaled
    features = Features.of(pruned.plan, pruned.model, model)
    scaled = {name.rsplit(".", 1)[0] for name in pruned.plan.scaled}
    assert scaled and not scaled & set(features.kept) and "out" in features.kept


def test_the_loss_of_a_distilled_task_has_them():
    torch.manual_seed(0)
    dense, slim = (nn.Sequential(nn.Linear(4, 6)) for _ in range(2))
    x = torch.randn(5, 4)
    task = LoaderTask([x], [x], lambda outputs, batch: outputs.square().mean())
    features = Features.of(Plan({}), slim, dense)
    without = Distilled(task, dense).loss(slim, x)
    with_them = Distilled(task, dense, features=features, hint=0.5).loss(slim, x)
    error = (slim(x) - dense(x)).square().mean() / dense(x).var()
    torch.testing.assert_close(with_them, without + 0.5 * error)
    assert not dense[0]._forward_hooks and not slim[0]._forward_hooks


def test_networks_without_such_layers_are_refused():
    norm = nn.BatchNorm1d(4)
    with pytest.raises(InputError, match="no convolution or linear layer to compare"):
        Features.of(Plan({}), norm, norm)
