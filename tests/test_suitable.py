"""What hides its operators or its numbers is refused before anything runs, with what to do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import slimnet
from slimnet.capture.suitable import refuse_unsuitable
from slimnet.errors import InputError
from slimnet.network import Network


class Answering(Tensor):
    """A tensor that decides what torch's functions do with it."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return super().__torch_function__(func, types, args, kwargs or {})


class Decorated(nn.Parameter):
    """A parameter that only carries a note."""


def with_weight(weight: Tensor) -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(weight)
    return nn.Sequential(layer)


def refusal(model: nn.Module) -> str | None:
    try:
        refuse_unsuitable(Network.of(model))
    except InputError as refused:
        return str(refused)
    return None


def test_ordinary_networks_pass():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.LSTM(4, 4), nn.Dropout())
    model[0].weight = Decorated(torch.randn(4, 4))
    model.register_buffer("mask", torch.full((4, 4), -torch.inf))
    assert refusal(model) is None


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_scripted_part_is_named():
    model = nn.Sequential(nn.ReLU(), torch.jit.script(nn.Linear(4, 4)))
    assert refusal(model) == (
        "1 is TorchScript, which hides its operators: prune the module that it was made of"
    )


class Scripted(nn.Module):
    """A layer, and a scripted part that may run."""

    def __init__(self, part, runs):
        super().__init__()
        self.a, self.b, self.part, self.runs = nn.Linear(4, 16), nn.Linear(16, 4), part, runs

    def forward(self, x):
        y = self.b(self.a(x).relu())
        return self.part(y) if self.runs else y


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(1, 4))])
def test_a_scripted_part_that_never_runs_is_left_as_it_is(make):
    part, example = make(nn.Sequential(nn.Linear(4, 4), nn.ReLU())), (torch.ones(2, 4),)
    model = Scripted(part, False)
    slim = slimnet.prune(model, example, ratio=0.5, align=None).model
    assert slim.a.out_features == 8 and slim.part is not part and part.training
    torch.testing.assert_close(slim.part(*example), part(*example))
    assert slimnet.inspect(model, example).layers[0].prunable == 16
    with pytest.raises(InputError, match="part is TorchScript, which hides its operators"):
        slimnet.prune(Scripted(part, True), example, ratio=0.5)


def test_a_tensor_that_answers_for_torch_is_named():
    model = with_weight(torch.randn(4, 4).as_subclass(Answering))
    assert refusal(model) == (
        "0.weight is of Answering, a class that answers in torch's place: prune the network while "
        "its weights are plain tensors"
    )


def test_a_sparse_weight_is_named():
    assert refusal(with_weight(torch.eye(4).to_sparse())) == (
        "0.weight is a quantised or sparse tensor, not a dense one: prune the network before its "
        "weights are converted"
    )


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_broken_weight_is_named(number):
    weight = torch.eye(4)
    weight[1, 2] = number
    refused = refusal(with_weight(weight))
    assert refused is not None
    assert refused.startswith("0.weight holds NaN or infinite numbers")


def test_numbers_that_are_large_but_finite_pass():
    assert refusal(with_weight(torch.full((4, 4), 3e38))) is None


class Noted(Tensor):
    """A plain subclass: what is computed with it is of its class."""


def test_a_plain_subclass_as_a_buffer_is_named():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].register_buffer("shift", torch.ones(4).as_subclass(Noted))
    assert refusal(model) == (
        "0.shift is of Noted, a class that answers in torch's place: prune the network while its "
        "weights are plain tensors"
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(1, 4))])
def test_scripted_and_traced_networks_are_named(make):
    with pytest.raises(InputError, match="the model is TorchScript, which hides its operators"):
        slimnet.prune(make(nn.Sequential(nn.Linear(4, 4))), (torch.ones(1, 4),), ratio=0.5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # of torch 2.11's own code
def test_a_compiled_wrapper_is_named():
    with pytest.raises(
        InputError, match=r"the model is compiled: prune the module before torch\.c"
    ):
        slimnet.prune(torch.compile(nn.Linear(4, 4)), (torch.ones(1, 4),), ratio=0.5)


class DistributedDataParallel(nn.Module):
    """Stands for torch's, which wants processes."""

    def __init__(self, module):
        super().__init__()
        self.module = module


class FSDPModule(nn.Linear):
    """As ``fully_shard`` changes a module's class."""


@pytest.mark.parametrize("model", [DistributedDataParallel(nn.Linear(4, 4)), FSDPModule(4, 4)])
def test_distributed_networks_are_named(model):
    name = type(model).__name__
    assert refusal(model) == (
        f"the model is wrapped in {name}: prune the module inside it, in one process, and wrap the "
        "slim network anew"
    )


def test_data_parallel_is_cut():
    model = nn.DataParallel(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)))
    pruned = slimnet.prune(model.eval(), (torch.randn(2, 4),), ratio=0.5)
    assert pruned.model.module[0].out_features == 8


@pytest.mark.parametrize("kind", [Noted, Answering])
def test_a_subclass_as_an_input_is_taken_as_plain(kind):
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 2, 1)).eval()
    x = torch.randn(1, 3, 8, 8)
    pruned = slimnet.prune(model, (x.as_subclass(kind),), ratio=0.5)
    assert type(pruned.example[0]) is Tensor
    assert pruned.model(x).shape == (1, 2, 8, 8)
    named = slimnet.prune(model, {"input": x.as_subclass(kind)}, ratio=0.5)
    assert type(named.example[0]) is Tensor


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
def test_a_nested_tensor_as_an_input_is_named():
    x = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)])
    with pytest.raises(InputError, match="the example holds a nested tensor, and a network is"):
        slimnet.prune(nn.Linear(4, 4), (x,), ratio=0.5)
