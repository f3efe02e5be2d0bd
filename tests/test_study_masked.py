"""Single weights zeroed, in a study: smaller on paper, and the zeros stay while retraining."""

import pytest
import torch

from slimnet.models import MODELS
from slimnet.network import Network
from slimnet.study.masked import Masked, cutting, masked_candidate
from slimnet.tasks.data import load_data
from slimnet.train import REGIMES, Schedule, Sources, start, train
from slimnet.train.masks import single_weights


def dense():
    torch.manual_seed(0)
    return MODELS["digits_vgg"].make()


@pytest.fixture
def made():
    return masked_candidate(dense(), Masked(dense(), "large-final", 0.75), macs=100)


def zeros(model):
    return {name: weight.eq(0) for name, weight in single_weights(Network.of(model))}


def test_it_counts_what_is_left_and_all_macs(made):
    parameters = sum(p.numel() for p in made.model.parameters())
    gone = sum(int(zero.sum()) for zero in zeros(made.model).values())
    weights = sum(zero.numel() for zero in zeros(made.model).values())
    assert gone == round(0.75 * weights)
    assert (made.facts.macs, made.facts.params) == (100, parameters - gone)
    assert made.facts.certificate is None and made.facts.channels_removed is None
    assert made.facts.remarks == [f"{gone:,} single weights are zero"]


@pytest.mark.parametrize("regime", ["finetune", "scratch-e"])
def test_the_zeros_stay_where_they_were_cut_in_every_regime(made, regime):
    before, model = zeros(made.model), made.model
    held = Masked(dense(), "large-final", made.masked).held()
    start(REGIMES[regime], model, Sources(1))
    data = load_data("digits").limited(train=64, test=20)
    schedule = Schedule(epochs=1, batch=16)
    train(model, data, schedule, seed=0, device="cpu", callbacks=(held,))
    assert all(torch.equal(before[name], zero) for name, zero in zeros(model).items())


def test_the_other_criteria_are_those_that_cut():
    names = ("l1", "unstructured", "l2", "unstructured-movement")
    assert cutting(names) == ("l1", "l2")
