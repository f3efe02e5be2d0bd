"""The training loop: it learns, repeats itself to the bit, and says when it cannot go on."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from slimnet.errors import InputError
from slimnet.tasks.data import load_data
from slimnet.train import Callback, Schedule, evaluate, train

SHORT = Schedule(epochs=2, lr=0.05, batch=32)


@pytest.fixture(scope="module")
def data():
    return load_data("digits").limited(train=300, test=200)


def net(seed=0, dropout=0.0, classes=10):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(144, classes),
    )


def trained(data, model=None, seed=1, schedule=SHORT, **options):
    model = net() if model is None else model
    history = train(model, data, schedule, seed=seed, device="cpu", **options)
    return model, history


def equal(one, two):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )


def test_training_learns(data):
    before = evaluate(net(), data, "cpu")
    _, history = trained(data, schedule=Schedule(epochs=5, lr=0.05, batch=32))
    assert before < 30 < 80 < history.accuracy
    assert history.losses[-1] < history.losses[0]
    assert (history.epochs, history.samples, len(history.losses)) == (5, 1500, 5)


def test_the_same_seed_gives_the_same_weights_to_the_bit(data):
    options = {"schedule": SHORT}
    one, first = trained(data, net(dropout=0.3), **options)
    torch.rand(7)
    two, second = trained(data, net(dropout=0.3), **options)
    assert equal(one, two)
    assert first.losses == second.losses
    other, _ = trained(data, net(dropout=0.3), seed=2, **options)
    assert not equal(one, other)


def test_augmentation_follows_the_seed_too():
    data = load_data("digits", augment="standard").limited(train=100, test=20)
    one, two = trained(data)[0], trained(data)[0]
    plain, _ = trained(load_data("digits").limited(train=100, test=20))
    assert equal(one, two)
    assert not equal(one, plain)


def test_the_callers_random_state_stays_as_it_was(data):
    model = net()
    state = torch.get_rng_state()
    trained(data, model)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_accuracy_is_the_last_epochs_and_the_model_ends_in_eval_mode(data):
    model, history = trained(data)
    assert not model.training
    assert history.accuracy == evaluate(model, data, "cpu")


def test_evaluation_is_a_percentage_and_does_not_depend_on_the_batch(data):
    always_three = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(always_three[1].weight)
    always_three[1].bias.data = torch.eye(10)[3]
    share = 100 * (data.y_test == 3).float().mean().item()
    assert evaluate(always_three, data, "cpu") == pytest.approx(share)
    assert evaluate(always_three, data, "cpu", batch=7) == pytest.approx(share)


class Recorder(Callback):
    def __init__(self):
        self.events = []
        self.rates = []

    def on_start(self, moment):
        self.events.append("start")

    def on_gradients(self, moment):
        self.events.append("gradients")
        self.rates.append(moment.optimizer.param_groups[0]["lr"])

    def on_step_end(self, moment):
        self.events.append("step")

    def on_epoch_end(self, moment):
        self.events.append(("epoch", moment.epoch, moment.step))

    def on_end(self, moment):
        self.events.append("end")


def test_callbacks_see_every_step_and_epoch_in_order(data):
    recorder = Recorder()
    schedule = Schedule(epochs=2, lr=0.05, batch=100, milestones=(0.5,))
    trained(data, callbacks=[recorder], schedule=schedule)
    epoch = ["gradients", "step"] * 3
    epochs = [*epoch, ("epoch", 0, 2), *epoch, ("epoch", 1, 5)]
    assert recorder.events == ["start", *epochs, "end"]
    assert recorder.rates == pytest.approx([0.05] * 3 + [0.005] * 3)


class NoGradients(Callback):
    def on_gradients(self, moment):
        for parameter in moment.model.parameters():
            parameter.grad.zero_()


def test_a_callback_may_change_gradients(data):
    model = net()
    before = copy.deepcopy(model)
    schedule = Schedule(epochs=1, lr=0.05, weight_decay=0.0)
    trained(data, model, callbacks=[NoGradients()], schedule=schedule)
    assert torch.equal(model[0].weight, before[0].weight)


def test_progress_rises_to_one(data):
    seen = []
    trained(data, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert len(seen) == 20


def test_frozen_parameters_stay_frozen(data):
    model = net()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    trained(data, model)
    assert torch.equal(model[0].weight, before)
    with pytest.raises(InputError, match="every one is frozen"):
        trained(data, net().requires_grad_(False))


def test_a_diverged_training_is_refused_with_its_epoch_and_rate(data):
    with pytest.raises(InputError, match=r"diverged: the loss is nan in epoch 1 of 2 .* rate 1e\+"):
        trained(data, schedule=Schedule(epochs=2, lr=1e30))


@pytest.mark.parametrize(
    ("kind", "numbers", "sentence"),
    [
        (
            torch.float32,
            {"lr": 1e300},
            "the learning rate 1e[+]300 is more than torch.float32 holds",
        ),
        (torch.float16, {"lr": 1e5}, "the learning rate 100000 is more than torch.float16 holds"),
        (torch.float32, {"weight_decay": 1e39}, "the weight decay 1e[+]39 is more than"),
    ],
)
def test_a_number_that_the_networks_type_cannot_hold_is_refused(data, kind, numbers, sentence):
    with pytest.raises(InputError, match=sentence):
        trained(data, net().to(kind), schedule=Schedule(epochs=1, **numbers))


def test_a_last_batch_of_one_image_does_not_break_batch_norm():
    data = load_data("digits").limited(train=33, test=20)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
    _, history = trained(data, model)
    assert history.epochs == 2


def test_batches_of_one_image_beside_batch_norm_are_refused(data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
    with pytest.raises(InputError, match=r"does not run on inputs of shape \[1, 1, 8, 8\]"):
        trained(data, model, schedule=Schedule(epochs=1, batch=1))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_network_in_half_is_trained(data, kind):
    _, history = trained(data, net().to(kind))
    assert history.losses[-1] < history.losses[0]


def test_images_of_one_class_teach_nothing(data):
    with pytest.raises(InputError, match="all 300 training images are of class 3"):
        trained(replace(data, y_train=torch.full_like(data.y_train, 3)))


class WithAuxiliary(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, x):
        return (self.body(x), None) if self.training else self.body(x)


def test_the_first_output_counts_where_training_gives_several(data):
    one, _ = trained(data, WithAuxiliary())
    two, _ = trained(data, net())
    assert equal(one, two)


def test_a_network_in_float64_is_fed_float64(data):
    _, history = trained(data, net().double())
    assert history.accuracy > 30


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (nn.Conv2d(1, 10, 3), "one score per class"),
        (net(classes=5), "10 classes and the network 5 outputs"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(100, 10)),
            r"does not run on inputs of shape \[32, 1",
        ),
    ],
)
def test_a_network_that_does_not_fit_is_refused(data, model, sentence):
    with pytest.raises(InputError, match=sentence):
        trained(data, model)


def test_a_training_goes_on_from_every_place_also_after_the_last_batch_of_an_epoch(data):
    """To the same bits."""
    snapshots = []
    whole = net(dropout=0.2)
    options = {"seed": 1, "device": "cpu"}
    schedule = replace(SHORT, epochs=2)
    train(
        whole,
        data,
        schedule,
        keep=lambda snapshot: snapshots.append(copy.deepcopy(snapshot)),
        interval=-1.0,  # after every batch
        **options,
    )
    places = [0 if one.place is None else one.place["steps"] for one in snapshots]
    assert max(places) == len(data.batches("train", schedule.batch))
    for number in (0, places.index(max(places)), len(places) - 1):
        model = net(dropout=0.2)
        train(model, data, schedule, resume=snapshots[number], **options)
        assert equal(model, whole)
