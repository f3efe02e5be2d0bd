"""A training that says where it stands, and stays what it is without."""

from __future__ import annotations

import sys
from functools import partial

import pytest
from test_train_loop import equal, net

from slimnet.errors import InputError
from slimnet.tasks.data import load_data
from slimnet.train import Callback, Schedule, evaluate, reporting, train
from slimnet.train.reporting import Reporting, duration, tensorboard

SHORT = Schedule(epochs=2, lr=0.05, batch=32)


@pytest.fixture(scope="module")
def data():
    return load_data("digits").limited(train=300, test=200)


class Board:
    def __init__(self):
        self.points = []

    def __call__(self, epoch, numbers):
        self.points.append((epoch, numbers))


class Scores(Callback):
    def __init__(self, data):
        self.data, self.scores = data, []

    def on_epoch_end(self, moment):
        self.scores.append(evaluate(moment.model, self.data, "cpu"))


def test_a_training_says_epoch_loss_metric_and_time_left(data, monkeypatch):
    monkeypatch.setattr(reporting, "SECONDS", -1)
    texts, parts, board, scores = [], [], Board(), Scores(data)

    def watch(text, part):
        texts.append(text)
        parts.append(part)

    history = train(
        *(net(), data, SHORT),
        seed=1,
        device="cpu",
        callbacks=[Reporting(data, "training", watch, board), scores],
    )
    assert texts[0].startswith("training: epoch 1/2, loss ") and "accuracy" not in texts[0]
    assert texts[1].endswith("left") and f", accuracy {scores.scores[0]:.4g}%, 0:0" in texts[12]
    assert parts == sorted(parts) and parts[0] == 1 / 20 and parts[-1] == 1
    assert [epoch for epoch, _ in board.points] == [1, 2]
    assert [p["loss"] for _, p in board.points] == pytest.approx(history.losses)
    assert [p["accuracy"] for _, p in board.points] == scores.scores
    assert history.accuracy == scores.scores[-1]
    assert board.points[0][1]["learning rate"] == pytest.approx(0.05)


def test_a_watched_training_ends_in_the_same_weights(data):
    alone, watched = net(dropout=0.3), net(dropout=0.3)
    train(alone, data, SHORT, seed=1, device="cpu")
    train(watched, data, SHORT, seed=1, device="cpu", callbacks=[Reporting(data, "training")])
    assert equal(alone, watched)


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (130, "2:10"), (3730, "1:02:10")])
def test_durations(seconds, text):
    assert duration(seconds) == text


class Writer:
    def __init__(self, made, folder, purge_step):
        self.points = []
        made.append((folder, purge_step, self))

    def add_scalar(self, name, value, step):
        self.points.append((name, value, step))

    def flush(self):
        self.points.append("flush")


def test_curves_are_written_epoch_by_epoch_from_the_one_that_is_taken_up(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(reporting, "_writer_class", lambda: partial(Writer, made))
    write = tensorboard(tmp_path / "curves")
    write(4, {"loss": 0.5, "accuracy": 90.0})
    write(5, {"loss": 0.4})
    ((folder, first, writer),) = made
    assert (folder, first) == (str(tmp_path / "curves"), 4)
    points = [("loss", 0.5, 4), ("accuracy", 90.0, 4), "flush", ("loss", 0.4, 5), "flush"]
    assert writer.points == points


def test_without_a_writer_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'slimnet\[tensorboard\]'"):
        tensorboard(tmp_path / "curves")
    assert not (tmp_path / "curves").exists()


def test_the_files_are_those_of_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    write = tensorboard(tmp_path)
    for epoch, loss in enumerate((0.5, 0.25), 1):
        write(epoch, {"loss": loss})
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("events.out.tfevents") and b"loss" in file.read_bytes()
