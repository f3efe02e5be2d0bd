"""What is cut with a network: its averages, other checkpoints, the optimiser that trains it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import slimnet
from slimnet.errors import InputError
from slimnet.models import MODELS
from slimnet.plan.companions import cut_optimizer, cut_state

IMAGE = (torch.zeros(2, 1, 8, 8),)


def network(seed=0):
    torch.manual_seed(seed)
    return MODELS["digits_resnet"].make().train()


def step(model, optimizer, x):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), torch.arange(len(x)) % 10).backward()
    optimizer.step()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_momenta_are_cut_with_the_weights_and_training_goes_on(name):
    model, x = network(), torch.randn(16, 1, 8, 8)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = OPTIMIZERS[name]([{"params": decayed}, {"params": others, "weight_decay": 0.0}])
    for _ in range(3):
        step(model, optimizer, x)
    before = copy.deepcopy(optimizer.state_dict())
    pruned = slimnet.prune(model, IMAGE, ratio=0.5)
    slim = pruned.model.train()
    new = cut_optimizer(optimizer, pruned.plan, model, slim)
    names = {id(p): name for name, p in slim.named_parameters()}
    dense = dict(model.named_parameters())
    for parameter, state in new.state.items():
        full = optimizer.state[dense[names[id(parameter)]]]
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.dim():
                removal = pruned.plan.of(names[id(parameter)])
                assert torch.equal(value, removal.select(full[key])), key
                assert value.shape == parameter.shape
            else:
                assert value == full[key]
    assert [len(g["params"]) for g in new.param_groups] == [len(decayed), len(others)]
    assert new.param_groups[1]["weight_decay"] == 0.0
    weights = next(iter(slim.parameters())).detach().clone()
    step(slim, new, x)
    assert not torch.equal(weights, next(iter(slim.parameters())))
    after = optimizer.state_dict()
    assert str(before) == str(after)  # the dense network's is as it was


def test_parameters_of_another_model_are_refused():
    model = network()
    pruned = slimnet.prune(model, IMAGE, ratio=0.5)
    other = torch.optim.SGD(network().parameters(), 0.1)
    with pytest.raises(InputError, match="parameters that are none of the model's"):
        cut_optimizer(other, pruned.plan, model, pruned.model)


def test_a_moving_average_is_cut_as_the_network_is():
    model = network()
    average = AveragedModel(model, use_buffers=True)
    for parameter in average.parameters():
        parameter.data.mul_(0.5)
    pruned = slimnet.prune(model, IMAGE, ratio=0.5)
    state = cut_state(average.state_dict(), pruned.plan)
    assert int(state["n_averaged"]) == 0
    small = AveragedModel(pruned.model, use_buffers=True)
    small.load_state_dict(state)
    for name, parameter in small.module.named_parameters():
        assert torch.equal(parameter, 0.5 * pruned.model.get_parameter(name))


def test_another_checkpoint_is_cut_where_the_plan_says():
    pruned = slimnet.prune(network(), IMAGE, ratio=0.5)
    other = network(seed=7)
    state = cut_state(other.state_dict(), pruned.plan)
    applied = slimnet.apply(pruned, other)
    assert all(torch.equal(value, state[name]) for name, value in applied.state_dict().items())
    applied.eval()(*IMAGE)
    assert slimnet.cost(applied, IMAGE).to_json() == pruned.plan.after


def test_a_plan_in_a_file_is_applied(tmp_path):
    model = network()
    pruned = slimnet.prune(model, IMAGE, ratio=0.5)
    slimnet.save(pruned, tmp_path / "slim.pt")
    applied = slimnet.apply(tmp_path / "slim.pt", model)
    assert all(
        torch.equal(value, pruned.model.state_dict()[name])
        for name, value in applied.state_dict().items()
    )
    certificate = slimnet.verify(tmp_path / "slim.pt", model)
    assert certificate.error < 1e-9


def test_what_does_not_fit_is_refused():
    pruned = slimnet.prune(network(), IMAGE, ratio=0.5)
    with pytest.raises(InputError, match="which this state dict does not have"):
        cut_state({"a": torch.ones(3)}, pruned.plan)
    state = network().state_dict()
    name = next(iter(pruned.plan.removed))
    state[name] = torch.ones(1)
    with pytest.raises(InputError, match=f"the plan does not fit {name} of shape"):
        cut_state(state, pruned.plan)
    with pytest.raises(InputError, match="the plan"):
        slimnet.apply(pruned, nn.Linear(3, 3))
