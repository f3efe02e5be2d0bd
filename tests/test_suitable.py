"""What hides its operators or its numbers is refused before anything runs, with what to do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from slimnet.capture.suitable import refuse_unsuitable
from slimnet.errors import InputError


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
        refuse_unsuitable(model)
    except InputError as refused:
        return str(refused)
    return None


def test_ordinary_networks_pass():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.LSTM(4, 4), nn.Dropout())
    model[0].weight = Decorated(torch.randn(4, 4))
    model.register_buffer("mask", torch.full((4, 4), -torch.inf))
    assert refusal(model) is None


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
def test_a_scripted_part_is_named():
    model = nn.Sequential(nn.ReLU(), torch.jit.script(nn.Linear(4, 4)))
    assert refusal(model) == (
        "1 is TorchScript, which hides its operators: prune the module that it was made of"
    )


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
