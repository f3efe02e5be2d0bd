"""The arithmetic of schedules and regimes: how long, how fast, from which weights."""

import json

import pytest
import torch
from torch import nn

from slimnet.errors import InputError, UnknownNameError
from slimnet.train import REGIMES, STARTS, Schedule, Sources, budget, start

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
    known = "finetune, lr-rewind, repair, repair-finetune, scratch-b, scratch-e"
    with pytest.raises(UnknownNameError, match=known):
        REGIMES["distil"]


def test_surviving_weights_stay_and_fresh_ones_follow_the_seed():
    model = nn.Linear(8, 4)
    before = model.weight.detach().clone()
    start(REGIMES["finetune"], model, Sources(0))
    assert torch.equal(model.weight, before)
    start(REGIMES["scratch-e"], model, Sources(0))
    fresh = model.weight.detach().clone()
    assert not torch.equal(fresh, before)
    start(REGIMES["scratch-b"], model, Sources(0))
    assert torch.equal(model.weight, fresh)


def test_repaired_weights_come_from_the_repairer_and_its_seed():
    model = nn.Linear(8, 4)
    for name in ("repair", "repair-finetune"):
        repair = lambda slim, seed: nn.init.constant_(slim.weight, seed)  # noqa: E731
        start(REGIMES[name], model, Sources(3, repair))
        assert torch.equal(model.weight, torch.full((4, 8), 3.0))
        with pytest.raises(InputError, match="nothing was cut from it"):
            start(REGIMES[name], model, Sources(0))


@pytest.mark.parametrize("name", list(REGIMES))
def test_every_regime_starts_from_a_known_place(name):
    assert REGIMES[name].start in STARTS
    assert REGIMES[name].title
    assert REGIMES[name].meaning


@pytest.mark.parametrize(
    ("regime", "epoch", "left"),
    [
        ("lr-rewind", 0, [0.1] * 80 + [0.01] * 40 + [0.001] * 40),
        ("lr-rewind@100", 100, [0.01] * 20 + [0.001] * 40),
        ("weight-rewind@10", 10, [0.1] * 70 + [0.01] * 40 + [0.001] * 40),
        ("ticket", 0, [0.1] * 80 + [0.01] * 40 + [0.001] * 40),
        ("ticket-signs@159", 159, [0.001]),
    ],
)
def test_one_that_rewinds_trains_by_what_is_left_of_the_schedule(regime, epoch, left):
    assert rates(budget(REGIMES[regime], BASE, 2.0)) == pytest.approx(left)
    assert REGIMES[regime].rewind == epoch


def test_what_is_left_of_a_cosine_with_a_warm_up_is_its_end():
    whole = Schedule(epochs=10, lr=0.4, shape="cosine", warmup=4)
    for epoch in (2, 7):
        assert rates(whole.rest(epoch)) == pytest.approx(rates(whole)[epoch:])
    assert whole.rest(2).rest(5) == whole.rest(7)


@pytest.mark.parametrize("epoch", [-1, 160, 200])
def test_an_epoch_that_the_schedule_does_not_come_to_is_refused(epoch):
    with pytest.raises(InputError, match=f"going back to epoch {epoch} of a schedule of 160"):
        BASE.rest(epoch)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("finetune@3", "finetune goes back to no epoch: leave out @3"),
        ("ticket@", "after @ stands an epoch"),
        ("weight-rewind@-1", "after @ stands an epoch"),
        ("weight-rewind@1.5", "after @ stands an epoch"),
    ],
)
def test_an_epoch_that_is_none_is_refused(name, sentence):
    with pytest.raises(InputError, match=sentence):
        REGIMES[name]


def earlier(model, epoch):
    """Weights that say of which epoch they are, of both signs."""
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -3.0], [-1.0, 3.0]]) * (epoch + 1))


def started(regime, seed=0):
    model = nn.Linear(2, 2)
    start(REGIMES[regime], model, Sources(seed, earlier=earlier))
    return model.weight.detach()


def test_weights_come_back_from_their_epoch():
    assert started("ticket").tolist() == [[1, -3], [-1, 3]]
    assert started("weight-rewind@4").tolist() == [[5, -15], [-5, 15]]
    assert started("supermask@1").tolist() == [[2, -6], [-2, 6]]
    with pytest.raises(InputError, match="weights of epoch 4 are needed"):
        start(REGIMES["weight-rewind@4"], nn.Linear(2, 2), Sources(0))


def test_of_a_ticket_the_signs_alone_or_the_distribution_alone_may_stay():
    signs = started("ticket-signs")
    magnitude = 5**0.5  # the deviation of 1, -3, -1, 3
    assert signs.flatten().tolist() == pytest.approx([magnitude, -magnitude, -magnitude, magnitude])
    fresh = [started("ticket-fresh-signs", seed) for seed in (0, 1)]
    assert [x.sign().tolist() for x in fresh] == [[[1, -1], [-1, 1]]] * 2
    assert not torch.equal(*fresh)
    orders = {tuple(started("ticket-shuffled", seed).flatten().tolist()) for seed in range(8)}
    assert {tuple(sorted(order)) for order in orders} == {(-3, -1, 1, 3)}
    assert len(orders) > 1


def test_only_what_starts_from_earlier_weights_reads_them():
    reads = {name for name in REGIMES if REGIMES[name].goes_back}
    own = {name for name in REGIMES if name.startswith(("ticket", "supermask"))}
    assert reads == own | {"weight-rewind"}
