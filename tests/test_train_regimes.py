"""The arithmetic of schedules and regimes: how long, how fast, from which weights."""

import json

import pytest
import torch
from torch import nn

from slimnet.errors import InputError, UnknownNameError
from slimnet.train import REGIMES, STARTS, Schedule, budget, start

BASE = Schedule()


def rates(schedule):
    return [schedule.lr_at(epoch) for epoch in range(schedule.epochs)]


def test_the_base_protocol_divides_the_rate_at_80_and_120_of_160_epochs():
    assert rates(BASE) == pytest.approx([0.1] * 80 + [0.01] * 40 + [0.001] * 40)


@pytest.mark.parametrize(
    ("regime", "ratio", "epochs", "lr"),
    [
        ("finetune", 2.0, 40, 0.01),
        ("repair-finetune", 2.0, 40, 0.01),
        ("scratch-e", 2.0, 160, 0.1),
        ("scratch-b", 2.0, 320, 0.1),
        ("scratch-b", 1.0, 160, 0.1),
        ("scratch-b", 1.516, 243, 0.1),
        ("scratch-b", 10.0, 1600, 0.1),  # no cap
    ],
)
def test_each_regime_has_the_budget_of_the_protocol(regime, ratio, epochs, lr):
    schedule = budget(REGIMES[regime], BASE, ratio)
    assert (schedule.epochs, schedule.lr) == (epochs, pytest.approx(lr))


def test_a_stretched_schedule_stretches_its_milestones():
    stretched = budget(REGIMES["scratch-b"], BASE, 2.0)
    assert rates(stretched) == pytest.approx([0.1] * 160 + [0.01] * 80 + [0.001] * 80)


def test_equal_compute_means_equal_macs():
    dense, slim = 125.5, 60.7
    schedule = budget(REGIMES["scratch-b"], BASE, dense / slim)
    assert schedule.epochs * slim == pytest.approx(BASE.epochs * dense, rel=0.5 / BASE.epochs)


def test_fine_tuning_ends_slower_than_it_starts_and_starts_above_a_hundredth_of_the_base():
    schedule = budget(REGIMES["finetune"], BASE, 2.0)
    assert schedule.lr_at(0) == pytest.approx(0.01)
    assert schedule.lr_at(schedule.epochs - 1) == pytest.approx(1e-4)


def test_no_regime_is_shorter_than_an_epoch():
    assert budget(REGIMES["finetune"], Schedule(epochs=1), 2.0).epochs == 1


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(InputError, match="greater than 0"):
        budget(REGIMES["scratch-b"], BASE, ratio)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"lr": 0.0}, "learning rate"),
        ({"lr": float("nan")}, "learning rate"),
        ({"milestones": (80, 120)}, "fractions"),
    ],
)
def test_a_schedule_that_cannot_train_is_refused(fields, sentence):
    with pytest.raises(InputError, match=sentence):
        Schedule(**fields)


def test_a_schedule_survives_json():
    schedule = Schedule(epochs=7, milestones=(0.4,), nesterov=True)
    assert Schedule.from_json(json.loads(json.dumps(schedule.to_json()))) == schedule


def test_an_unknown_regime_lists_the_known_ones():
    known = "finetune, repair, repair-finetune, scratch-b, scratch-e"
    with pytest.raises(UnknownNameError, match=known):
        REGIMES["distil"]


def test_surviving_weights_stay_and_fresh_ones_follow_the_seed():
    model = nn.Linear(8, 4)
    before = model.weight.detach().clone()
    start(REGIMES["finetune"], model, 0)
    assert torch.equal(model.weight, before)
    start(REGIMES["scratch-e"], model, 0)
    fresh = model.weight.detach().clone()
    assert not torch.equal(fresh, before)
    start(REGIMES["scratch-b"], model, 0)
    assert torch.equal(model.weight, fresh)


def test_repaired_weights_come_from_the_repairer_and_its_seed():
    model = nn.Linear(8, 4)
    for name in ("repair", "repair-finetune"):
        start(REGIMES[name], model, 3, lambda slim, seed: nn.init.constant_(slim.weight, seed))
        assert torch.equal(model.weight, torch.full((4, 8), 3.0))
        with pytest.raises(InputError, match="nothing was cut from it"):
            start(REGIMES[name], model, 0)


@pytest.mark.parametrize("name", list(REGIMES))
def test_every_regime_starts_from_a_known_place(name):
    assert REGIMES[name].start in STARTS
    assert REGIMES[name].title
    assert REGIMES[name].meaning
