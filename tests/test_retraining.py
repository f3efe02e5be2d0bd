"""A slim network trained on: better than it was, the same after a kill, and still proven."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import slimnet
from slimnet import retraining
from slimnet.cli import app, main
from slimnet.errors import InputError
from slimnet.files.access import open_network
from slimnet.files.slim_file import read_slim
from slimnet.models import MODELS
from slimnet.retraining import NoTime, Recipe, retrain
from slimnet.task import LoaderTask
from slimnet.tasks.data import load_data
from slimnet.train import Callback, Schedule, train
from slimnet.train.distillation import Distilled, divergence
from slimnet.train.execution import Execution, Trial

BASE = Schedule(epochs=2, lr=0.05, batch=32, shape="cosine")


@pytest.fixture(scope="module")
def data():
    return load_data("digits").limited(train=300, test=200)


@pytest.fixture(scope="module")
def dense(data):
    torch.manual_seed(0)
    model = MODELS["digits_resnet"].make()
    train(model, data, replace(BASE, epochs=4), seed=0, device="cpu")
    return model.eval()


@pytest.fixture(scope="module")
def files(dense, tmp_path_factory):
    """A folder with the dense network, and the slim one."""
    folder = tmp_path_factory.mktemp("retraining")
    torch.save(dense.state_dict(), folder / "dense.pt")
    pruned = slimnet.prune(dense, (torch.zeros(1, 1, 8, 8),), ratio=0.6)
    slimnet.save(pruned, folder / "slim.pt", "slimnet:digits_resnet")
    return folder


def recipe(**options):
    return Recipe(**{"schedule": BASE, **options})


def test_a_slim_network_gets_better_and_keeps_plan_and_proof(files, data, dense):
    artifact = read_slim(files / "slim.pt")
    done = retrain(artifact, data, recipe(), device="cpu")
    assert done.history.accuracy > done.before["accuracy"] + 20
    assert done.artifact.trained and done.artifact.plan == artifact.plan
    certificate = slimnet.verify(done.artifact, dense)
    assert certificate.changed
    assert slimnet.cost(done.model, (torch.zeros(1, 1, 8, 8),)).to_json() == artifact.plan.after


def test_the_dense_network_teaches(files, data, dense):
    artifact = read_slim(files / "slim.pt")
    before = {name: t.clone() for name, t in dense.state_dict().items()}
    alone, taught = (
        retrain(artifact, data, recipe(distill=distill), against=dense, device="cpu")
        for distill in (False, True)
    )
    hinted = retrain(
        artifact, data, recipe(distill=True, features=1.0), against=dense, device="cpu"
    )
    apart = [answers_apart(done.model, dense, data) for done in (alone, taught, hinted)]
    assert apart[1] < apart[0] and apart[2] < apart[0] and apart[2] != apart[1]
    assert all(torch.equal(t, before[name]) for name, t in dense.state_dict().items())
    assert all(p.requires_grad for p in dense.parameters())
    with pytest.raises(InputError, match="give the network that the slim one was cut from"):
        retrain(artifact, data, recipe(distill=True), device="cpu")


def answers_apart(one, other, data):
    images = data.normalize(data.x_test)
    with torch.no_grad():
        return float(divergence(one(images), other(images), 1.0))


class Heads(nn.Module):
    """Scores, and boxes."""

    def __init__(self):
        super().__init__()
        self.scores, self.boxes = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x):
        return {"scores": self.scores(x), "boxes": (self.boxes(x)[:, None], "no tensor")}


def test_a_training_with_other_labels_starts_anew(files, data, tmp_path, caplog):
    options = {"checkpoint": tmp_path / "t.training", "device": "cpu", "execution": Execution()}
    with pytest.raises(Stopped):
        retrain(files / "slim.pt", data, recipe(), callbacks=[AfterAnEpoch()], **options)
    smoothed = replace(data, smoothing=0.1)
    assert retrain(files / "slim.pt", smoothed, recipe(), **options).resumed == 0
    assert "is of a training with other data" in caplog.text


def test_any_outputs_are_distilled():
    torch.manual_seed(0)
    student, teacher, x = Heads(), Heads(), torch.randn(16, 4)
    own = lambda outputs, batch: outputs["scores"].square().mean()  # noqa: E731
    task = LoaderTask([x], [x], own)
    loss = Distilled(task, teacher, weight=0.5, temperature=2.0).loss(student, x)
    a, b = student(x), teacher(x)
    boxes = (a["boxes"][0] - b["boxes"][0]).square().mean() / b["boxes"][0].var()
    wanted = 0.5 * own(a, x) + 0.25 * (divergence(a["scores"], b["scores"], 2.0) + boxes)
    torch.testing.assert_close(loss, wanted)


def test_outputs_that_nobody_reads_are_not_distilled():
    torch.manual_seed(0)
    student, teacher, x = Heads(), Heads(), torch.randn(16, 4)
    student.scores = copy.deepcopy(teacher.scores)
    task = LoaderTask([x], [x], lambda outputs, batch: outputs["scores"].sum())
    losses = {
        read: float(Distilled(task, teacher, weight=1.0, read=read).loss(student, x).detach())
        for read in ((), ("scores",), ("boxes",))
    }
    assert losses["scores",] == pytest.approx(0, abs=1e-6)
    assert losses["boxes",] == pytest.approx(2 * losses[()]) and losses[()] > 0.01


def test_a_tasks_own_teacher_loss_counts():
    task = LoaderTask([torch.ones(2, 4)], loss_of=lambda outputs, batch: outputs["scores"].sum())
    object.__setattr__(task, "teacher_loss", lambda outputs, targets: torch.tensor(7.0))
    loss = Distilled(task, Heads(), weight=1.0).loss(Heads(), torch.ones(2, 4))
    assert float(loss.detach()) == 7


def test_the_divergence_is_that_of_its_definition():
    torch.manual_seed(0)
    scores, targets = torch.randn(5, 4).double(), torch.randn(5, 4).double()
    p, q = (targets / 3).softmax(1), (scores / 3).softmax(1)
    assert float(divergence(scores, targets, 3.0)) == pytest.approx(
        float(9 * (p * (p / q).log()).sum(1).mean())
    )


def test_what_prune_gave_is_trained_saved_and_trained_again(dense, data, tmp_path):
    pruned = slimnet.prune(dense, (torch.zeros(1, 1, 8, 8),), ratio=0.6)
    before = {name: t.clone() for name, t in pruned.model.state_dict().items()}
    once = slimnet.retrain(pruned, data, recipe(), device="cpu")
    assert all(torch.equal(t, before[name]) for name, t in pruned.model.state_dict().items())
    twice = slimnet.retrain(once, data, recipe(), device="cpu")
    assert twice.history.losses[0] < once.history.losses[0]
    slimnet.save(twice, tmp_path / "tuned.pt")
    assert slimnet.verify(tmp_path / "tuned.pt", dense).changed
    again = slimnet.prune(twice.model, (torch.zeros(1, 1, 8, 8),), ratio=0.2)
    assert again.trained and again.whole()[0].before == pruned.plan.before


def test_images_of_one_class_teach_nothing_with_a_teacher_either(files, data, dense):
    alike = replace(data, y_train=torch.full_like(data.y_train, 3))
    for distill in (False, True):
        with pytest.raises(InputError, match="all 300 training images are of class 3"):
            options = {"against": dense, "device": "cpu"}
            retrain(files / "slim.pt", alike, recipe(distill=distill), **options)


def test_the_callers_random_state_stays_as_it_was(files):
    images = torch.randn(64, 1, 8, 8)
    loader = DataLoader(TensorDataset(images, torch.arange(64) % 10), 16, shuffle=True)

    def loss(outputs, batch):
        return nn.functional.cross_entropy(nn.functional.dropout(outputs, 0.1), batch[1])

    state = torch.get_rng_state()
    retrain(files / "slim.pt", LoaderTask(loader, loader, loss), recipe(), device="cpu")
    assert torch.equal(torch.get_rng_state(), state)


class Stopped(Exception):
    """In place of a kill."""


class AfterAnEpoch(Callback):
    def on_epoch_end(self, moment):
        if moment.epoch == 1:
            raise Stopped


def test_a_training_with_another_teacher_or_another_precision_starts_anew(
    files, data, dense, tmp_path, caplog
):
    other = copy.deepcopy(dense)
    with torch.no_grad():
        next(other.parameters()).mul_(0.5)
    file, taught = tmp_path / "t.training", recipe(distill=True)
    options = {"checkpoint": file, "device": "cpu", "execution": Execution()}
    for changes in ({"against": other}, {"execution": Execution(channels_last=True)}):
        with pytest.raises(Stopped):
            stopping = {"against": dense, "callbacks": [AfterAnEpoch()], **options}
            retrain(files / "slim.pt", data, taught, **stopping)
        assert file.exists()
        done = retrain(files / "slim.pt", data, taught, **{"against": dense, **options, **changes})
        assert done.resumed == 0
        assert "is of a training with other" in caplog.text
        caplog.clear()
        file.unlink()


def test_less_time_than_an_epoch_takes_is_refused(files, data):
    with pytest.raises(NoTime, match=r"an epoch takes about .* minutes here, more than there are"):
        retrain(read_slim(files / "slim.pt"), data, recipe(minutes=1e-6), device="cpu")


def test_minutes_become_epochs(files, data, monkeypatch):
    """Of ten batches each, and as long as the network was measured before."""
    way, clock = Execution(), iter([0.0, 19.0])
    trial = Trial({way: 0.1}, way)
    monkeypatch.setattr(retraining, "fastest", lambda *_, **__: trial)
    monkeypatch.setattr(retraining, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    done = retrain(files / "slim.pt", data, recipe(minutes=1.1), device="cpu")
    assert done.history.epochs == 3


def test_a_regime_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="unknown regime 'tune'"):
        recipe(regime="tune")


def test_a_training_that_was_killed_ends_in_the_same_weights(files, tmp_path):
    """By kill -9, in the middle of an epoch too."""
    command = [sys.executable, "-m", "slimnet", "retrain", str(files / "slim.pt")]
    command += ["--data", "digits", "--epochs", "6", "--threads", "1", "--precision", "float32"]
    whole, killed = tmp_path / "whole.pt", tmp_path / "killed.pt"
    subprocess.run([*command, "-o", str(whole)], check=True, capture_output=True)
    checkpoint, kills = tmp_path / "killed.pt.training", 0
    while not killed.exists():
        stamp = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = subprocess.Popen([*command, "-o", str(killed)], stderr=subprocess.DEVNULL)
        while process.poll() is None and kills < 3:
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns != stamp:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.01)
        process.wait()
    assert kills == 3 and not checkpoint.exists()
    one, other = (read_slim(path).tensors for path in (whole, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_command_line(files, tmp_path):
    tuned = tmp_path / "tuned.pt"
    given = ["retrain", str(files / "slim.pt"), "--data", "digits", "--against"]
    given += [str(files / "dense.pt"), "--distill", "--epochs", "2", "--train-images", "300"]
    result = CliRunner().invoke(app, [*given, "-o", str(tuned), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["history"]["accuracy"] > told["before"]["accuracy"]
    assert told["history"]["epochs"] == 2
    opened = open_network(tuned)
    assert opened.artifact.trained and opened.trains
    result = CliRunner().invoke(app, [*given, "-o", str(tmp_path / "more.pt")])
    shown = result.stdout
    assert "accuracy" in shown and "2 epochs in" in shown and "trained in" in shown
    assert "training: finetune: epoch 1/2, loss " in result.stderr


OWN = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError
from slimnet.task import LoaderTask, Measured

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.head = nn.Linear(32, 1)

    def forward(self, x):
        return self.head(self.body(x)).squeeze(1)

def make_model():
    torch.manual_seed(0)
    return Net()

def make_task():
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    data = TensorDataset(x, x.square().sum(1) - 8)
    loss = lambda outputs, batch: nn.functional.mse_loss(outputs, batch[1])
    loaders = DataLoader(data, 32, shuffle=True), DataLoader(data, 64)
    return LoaderTask(*loaders, loss, {"mse": Measured(MeanSquaredError)}, name="squares")
"""


def test_an_own_network_with_an_own_task_from_cut_to_tuned(tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN)
    own = str(tmp_path / "own.py")
    sys.path.insert(0, str(tmp_path))
    import own as module

    torch.save(module.make_model().state_dict(), tmp_path / "dense.pt")
    sys.path.remove(str(tmp_path))
    slim, tuned = str(tmp_path / "slim.pt"), str(tmp_path / "tuned.pt")
    arch = ["--arch", f"{own}:make_model"]
    dense = str(tmp_path / "dense.pt")
    run(["prune", dense, *arch, "--input", "1,8", "--ratio", "0.5", "-o", slim])
    data = ["--data", f"{own}:make_task"]
    scored = str(tmp_path / "scored.pt")
    for criterion in ("taylor", "thinet"):
        options = ["--ratio", "0.5", "--criterion", criterion, "--samples", "64", "--repair"]
        run(["prune", dense, *arch, *data, "--input", "1,8", *options, "-o", scored])
    repaired = str(tmp_path / "repaired.pt")
    run(["repair", slim, *arch, *data, "--against", dense, "-o", repaired])
    assert read_slim(repaired).trained
    page = str(tmp_path / "page.html")
    run(["sensitivity", dense, *arch, *data, "--input", "1,8", "--points", "2", "-o", page])
    capsys.readouterr()
    run(["retrain", slim, *arch, *data, "--optimizer", "adamw", "--lr", "0.01", "-o", tuned])
    said = capsys.readouterr().out
    before, after = [float(x) for x in said.split("mse")[1].split()[:2]]
    assert after < before / 2
    assert read_slim(tuned).trained


def run(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--distill"], "to distil, give the network that it was cut from: --against model.pt"),
        (["--regime", "repair"], "does not train: slimnet repair does what it does"),
        (["--precision", "int8"], "unknown precision 'int8': the known ones are float32, bfloat16"),
        (["--optimizer", "lion"], "unknown optimizer 'lion'"),
        (["--distill-features", "1"], "features are compared with those of a teacher"),
        (["--lr", "0"], "the learning rate must be greater than 0, not 0"),
        (["--minutes", "0"], "the minutes to train must be more than 0"),
    ],
)
def test_bad_options_are_one_sentence(files, options, sentence, tmp_path, capsys):
    given = ["retrain", str(files / "slim.pt"), "--data", "digits", "-o", str(tmp_path / "out.pt")]
    with pytest.raises(SystemExit) as stopped:
        main([*given, *options])
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err.replace("\n", " ")
    assert not Path(tmp_path / "out.pt").exists()


def test_a_frozen_network_cannot_be_trained(dense, data):
    frozen = copy.deepcopy(dense).requires_grad_(False)
    pruned = slimnet.prune(frozen, (torch.zeros(1, 1, 8, 8),), ratio=0.5)
    with pytest.raises(InputError, match="no parameter to train: every one is frozen"):
        retrain(pruned, data, recipe(), device="cpu")


def test_a_program_cannot_be_trained(tmp_path, data):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    pruned = slimnet.prune(model, (torch.zeros(1, 1, 8, 8),), ratio=0.5)
    slimnet.save(pruned, tmp_path / "own.pt")
    with pytest.raises(InputError, match="an exported program, which cannot be trained"):
        retrain(read_slim(tmp_path / "own.pt"), data, recipe(), device="cpu")
    done = retrain(
        read_slim(tmp_path / "own.pt"),
        data,
        recipe(),
        against=model,
        device="cpu",
        execution=Execution(),
    )
    assert done.history.accuracy > 30
