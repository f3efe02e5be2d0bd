"""What a schedule may ask for, and a training taken up in the middle of an epoch."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_train_loop import equal, net
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from slimnet.errors import InputError
from slimnet.example import map_tensors
from slimnet.retraining import Recipe
from slimnet.task import LoaderTask
from slimnet.tasks.data import load_data
from slimnet.train import Callback, Schedule, Snapshot, train
from slimnet.train.execution import WAYS, Execution, Trial, fastest

BASE = Schedule(epochs=2, lr=0.05, batch=32)


@pytest.fixture(scope="module")
def data():
    return load_data("digits", augment="standard").limited(train=300, test=100)


class Stopped(Exception):
    """In place of a kill."""


def kept(at):
    """What keeps every snapshot, and stops the training after so many."""
    snapshots = []

    def keep(snapshot):
        payload = map_tensors(torch.Tensor.clone, snapshot.to_payload())
        snapshots.append(Snapshot.from_payload(copy.deepcopy(payload)))
        if len(snapshots) == at:
            raise Stopped

    return snapshots, keep


@pytest.mark.parametrize("extra", [{}, {"accumulate": 3}, {"ema": 0.9, "optimizer": "adamw"}])
@pytest.mark.parametrize("at", [1, 4, 10, 13, 20])
def test_taken_up_in_the_middle_of_an_epoch_it_ends_in_the_same_weights(data, at, extra):
    schedule = replace(BASE, **extra)
    whole, stopped, resumed = net(dropout=0.3), net(dropout=0.3), net(dropout=0.3)
    history = train(whole, data, schedule, seed=1, device="cpu")
    snapshots, keep = kept(at)
    with pytest.raises(Stopped):
        train(stopped, data, schedule, seed=1, device="cpu", keep=keep, interval=-1)
    again = train(resumed, data, schedule, seed=1, device="cpu", resume=snapshots[-1])
    assert equal(whole, resumed)
    assert (again.losses, again.samples) == (history.losses, history.samples)


def test_snapshots_come_within_an_epoch_and_after_it(data):
    snapshots, keep = kept(at=0)
    train(net(), data, BASE, seed=1, device="cpu", keep=keep, interval=-1)
    places = [None if s.place is None else s.place["steps"] for s in snapshots]
    assert places == [*range(1, 11), None] * 2


def test_gradients_of_several_batches_are_those_of_one_large_one(data):
    plain = load_data("digits").limited(train=256, test=100)
    one, many = (net().double() for _ in range(2))
    for model in (one, many):
        model[1] = torch.nn.Identity()  # statistics of a batch depend on its size
    train(one, plain, replace(BASE, batch=64), seed=1, device="cpu")
    train(many, plain, replace(BASE, batch=16, accumulate=4), seed=1, device="cpu")
    for x, y in zip(one.parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


class Norms(Callback):
    def __init__(self):
        self.norms = []

    def on_step_end(self, moment):
        squares = [p.grad.square().sum() for p in moment.model.parameters()]
        self.norms.append(float(sum(squares)) ** 0.5)


def test_gradients_are_clipped_to_a_norm(data):
    free, clipped = Norms(), Norms()
    train(net(), data, BASE, seed=1, device="cpu", callbacks=[free])
    train(net(), data, replace(BASE, clip=0.5), seed=1, device="cpu", callbacks=[clipped])
    assert max(free.norms) > 1 and max(clipped.norms) <= 0.5 * (1 + 1e-5)


class Weights(Callback):
    def __init__(self):
        self.weights = []

    def on_step_end(self, moment):
        self.weights.append(moment.model[5].weight.detach().clone())


def test_the_network_ends_with_the_moving_average(data):
    seen, model = Weights(), net()
    average = model[5].weight.detach().clone()
    train(model, data, replace(BASE, ema=0.8), seed=1, device="cpu", callbacks=[seen])
    for number, weight in enumerate(seen.weights, 1):
        stays = min(0.8, (1 + number) / (10 + number))
        average = stays * average + (1 - stays) * weight
    torch.testing.assert_close(model[5].weight, average)
    assert not torch.equal(model[5].weight, seen.weights[-1])


def test_learning_rates():
    cosine = Schedule(epochs=10, lr=1.0, shape="cosine", warmup=2)
    assert cosine.lr_at(0) == pytest.approx(0.005)
    assert cosine.lr_at(1) == pytest.approx(0.5 * (1 + math.cos(0.1 * math.pi)) / 2)
    assert cosine.lr_at(5) == pytest.approx(0.5)
    assert cosine.lr_at(10) == pytest.approx(0)
    step = Schedule(epochs=10, lr=1.0)
    assert [round(step.lr_at(e), 6) for e in (0, 4.9, 5, 7.4, 8)] == [1, 1, 0.1, 0.1, 0.01]
    assert Schedule(epochs=9, lr=0.3, shape="constant").lr_at(8.5) == 0.3


def test_a_schedule_of_old_reads_and_writes_as_it_did():
    old = Schedule(epochs=3).to_json()
    assert sorted(old) == sorted(
        ["epochs", "lr", "milestones", "factor", "batch", "weight_decay", "momentum", "nesterov"]
    )
    new = Schedule(epochs=3, shape="cosine", ema=0.9)
    assert Schedule.from_json(new.to_json()) == new
    assert Schedule.from_json(old) == Schedule(epochs=3)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"optimizer": "adam"}, "unknown optimizer 'adam': the known ones are sgd, adamw"),
        ({"shape": "linear"}, "unknown shape 'linear': the known ones are step, cosine, constant"),
        ({"accumulate": 0}, "accumulate must be at least 1, not 0"),
        ({"ema": 1.0}, "ema is a share that stays, between 0 and 1"),
        ({"clip": 0.0}, "clip must be greater than 0"),
    ],
)
def test_a_schedule_that_cannot_train_is_refused(fields, sentence):
    with pytest.raises(InputError, match=sentence):
        Schedule(**fields)


def test_every_way_to_compute_learns_and_gives_plain_weights_back(data):
    for way in WAYS:
        model = net()
        history = train(model, data, replace(BASE, epochs=8), seed=1, device="cpu", execution=way)
        assert history.accuracy > 50, way
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert model[0].weight.is_contiguous()


def test_the_fastest_way_is_one_of_those_tried_and_the_network_stays(data):
    model = net()
    before = copy.deepcopy(model)
    trial = fastest(model, data, 32, torch.device("cpu"), rounds=1)
    assert trial.taken in trial.seconds and set(trial.seconds) <= set(WAYS)
    assert trial.seconds[trial.taken] <= trial.seconds[Execution()]
    assert equal(model, before) and model[0].weight.grad is None
    told = fastest(model, data, 32, torch.device("cpu"), Execution(True), rounds=1)
    assert list(told.seconds) == [Execution(True)] and "as told" in str(told)
    halved = fastest(net().half(), data, 32, torch.device("cpu"), rounds=1)
    assert list(halved.seconds) == [Execution()]


def test_compiling_is_tried_where_it_is_asked_for_and_taken_where_it_pays(
    data, monkeypatch, caplog
):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model: asked.append(model) or model)
    device, first = torch.device("cpu"), Execution(True)
    trial = fastest(net(), data, 32, device, first, rounds=1, compiled=True)
    assert list(trial.seconds) == [first, replace(first, compiled=True)] and len(asked) == 1
    quick = {first: 2.0, replace(first, compiled=True): 1.0}
    assert "float32, channels last, compiled: 2.00 times" in str(Trial(quick, [*quick][1]))

    def broken(model):
        raise OSError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    trial = fastest(net(), data, 32, device, first, rounds=1, compiled=True)
    assert trial.taken == first and list(trial.seconds) == [first]
    assert "the training is not compiled: OSError: no compiler" in caplog.text
    with pytest.raises(InputError, match="which a compiled network has not"):
        Recipe(BASE, distill=True, features=0.5, compile=True)


class Jitter(LoaderTask):
    """Draws from NumPy's and Python's generators, as others' augmentations do."""

    def loss(self, model, batch):
        factor = 1 + 0.1 * np.random.rand() + 0.1 * random.random()
        return factor * super().loss(model, batch)


def test_what_numpy_and_python_draw_is_the_same_after_a_stop(data):
    images, labels = data.normalize(data.x_train), data.y_train
    loader = DataLoader(TensorDataset(images, labels), 32, shuffle=True)
    task = Jitter(loader, loader, lambda scores, batch: cross_entropy(scores, batch[1]))
    whole, stopped, resumed = net(), net(), net()
    train(whole, task, BASE, seed=1, device="cpu")
    snapshots, keep = kept(7)
    with pytest.raises(Stopped):
        train(stopped, task, BASE, seed=1, device="cpu", keep=keep, interval=-1)
    random.seed(5)
    np.random.seed(5)
    train(resumed, task, BASE, seed=1, device="cpu", resume=snapshots[-1])
    assert equal(whole, resumed)


def test_a_watcher_may_come_and_go(data):
    whole, stopped, resumed = net(), net(), net()
    schedule = replace(BASE, ema=0.9)
    train(whole, data, schedule, seed=1, device="cpu")
    snapshots, keep = kept(3)
    with pytest.raises(Stopped):
        train(
            *(stopped, data, schedule),
            seed=1,
            device="cpu",
            keep=keep,
            interval=-1,
            callbacks=[Callback()],
        )
    train(resumed, data, schedule, seed=1, device="cpu", resume=snapshots[-1])
    assert equal(whole, resumed)
