"""The dense network's weights on their way: kept, found again, and a kill costs nothing."""

import json

import pytest
import torch

from slimnet import cli
from slimnet.errors import InputError
from slimnet.models import MODELS
from slimnet.rewinding import Rewinds, train_dense
from slimnet.tasks.data import load_data
from slimnet.train import Callback, Schedule, train

SCHEDULE = Schedule(epochs=3, lr=0.05, batch=32)


@pytest.fixture(scope="module")
def data():
    return load_data("digits").limited(train=64, test=32)


def small():
    torch.manual_seed(0)
    return MODELS["digits_vgg"].make().eval()


def same(one, two):
    states = zip(one.items(), two.items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in states)


def test_the_kept_weights_are_those_of_shorter_trainings_to_the_bit(data, tmp_path):
    model, rewinds = small(), Rewinds(tmp_path / "way")
    made = train_dense(
        model, data, SCHEDULE, rewinds=rewinds, epochs=(0, 1, 3), macs=7, device="cpu"
    )
    assert sorted(Rewinds(rewinds.folder).files) == [0, 1, 3]
    again = small()
    assert same(Rewinds(rewinds.folder).state(0), again.state_dict())
    one = Schedule(epochs=1, lr=0.05, batch=32, milestones=())
    train(again, data, one, seed=0, device="cpu")
    assert same(Rewinds(rewinds.folder).state(1), again.state_dict())
    assert same(Rewinds(rewinds.folder).state(3), made.model.state_dict())
    trained = Rewinds(rewinds.folder).trained
    assert (trained.schedule, trained.samples, trained.compute) == (SCHEDULE, 192, 192 * 7)
    assert trained.metrics == made.history.metrics


class Stop(Callback):
    def on_epoch_end(self, moment):
        if moment.epoch == 1:
            raise KeyboardInterrupt


def test_stopped_and_taken_up_it_keeps_and_ends_the_same(data, tmp_path):
    def run(name, *callbacks):
        return train_dense(
            *(small(), data, SCHEDULE),
            rewinds=Rewinds(tmp_path / name),
            epochs=(0, 2, 3),
            checkpoint=tmp_path / f"{name}.training",
            device="cpu",
            callbacks=callbacks,
        )

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", Stop())
    again = run("stopped")
    assert again.resumed == 1
    assert same(whole.model.state_dict(), again.model.state_dict())
    for epoch in (0, 2, 3):
        assert Rewinds(tmp_path / "whole").stamp(epoch) == Rewinds(tmp_path / "stopped").stamp(
            epoch
        )


def test_a_folder_of_a_users_own_checkpoints_will_do(tmp_path):
    model = small()
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 20}, tmp_path / "vgg16_checkpoint-20.pth")
    (tmp_path / "log-3.txt").write_text("nothing")
    rewinds, other = Rewinds(tmp_path), MODELS["digits_vgg"].make()
    assert list(rewinds.files) == [20] and rewinds.trained is None
    rewinds.write_into(other, 20)
    assert same(other.state_dict(), model.state_dict())


def test_what_is_not_there_is_said(data, tmp_path):
    torch.save(small().state_dict(), tmp_path / "a-5.pt")
    with pytest.raises(InputError, match="no weights of epoch 4: it has those of 5"):
        Rewinds(tmp_path).state(4)
    with pytest.raises(InputError, match=r"a-5\.pt is of another network"):
        Rewinds(tmp_path).write_into(MODELS["digits_resnet"].make(), 5)
    torch.save(small().state_dict(), tmp_path / "b5.pt")
    with pytest.raises(InputError, match="are both of epoch 5"):
        Rewinds(tmp_path).state(5)
    with pytest.raises(InputError, match="is no folder"):
        Rewinds(tmp_path / "none").state(5)
    with pytest.raises(InputError, match="no epoch 9 to keep"):
        train_dense(small(), data, SCHEDULE, epochs=(9,))
    (tmp_path / "history.json").write_text("{}")
    with pytest.raises(InputError, match="is damaged"):
        _ = Rewinds(tmp_path).trained


@pytest.fixture
def slimnet(tmp_path, capsys, monkeypatch):
    """Run a command in a folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(command):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main(command.split())
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return call


QUICK = "--data digits --train-images 64 --test-images 32 --epochs 2 --threads 1"


def test_a_dense_network_from_nothing_to_a_file_and_its_history(slimnet, tmp_path):
    code, out, _ = slimnet(f"train slimnet:digits_vgg {QUICK} --snapshots 0-1 -o net.pt --json")
    assert code == 0
    said = json.loads(out)
    assert (said["output"], said["history"]["epochs"]) == ("net.pt", 2)
    rewinds = Rewinds(tmp_path / "net.pt.history")
    assert sorted(rewinds.files) == [0, 1]
    assert not (tmp_path / "net.pt.training").exists()
    code, out, _ = slimnet(f"train net.pt {QUICK} -o more.pt --history way")
    assert code == 0 and "more.pt" in out
    state = torch.load(tmp_path / "net.pt", weights_only=True)
    assert same(Rewinds(tmp_path / "way").state(0), state)
    code, out, _ = slimnet(f"train net.pt --fresh {QUICK} -o fresh.pt --json")
    assert code == 0
    assert not same(Rewinds(tmp_path / "fresh.pt.history").state(0), state)


def test_a_protocol_is_the_schedule_and_what_is_typed_changes_it(slimnet, tmp_path):
    command = (
        "train slimnet:digits_vgg --data digits --train-images 64 --test-images 32 --threads 1"
    )
    assert slimnet(f"{command} --protocol renda-cifar --epochs 1 --lr 0.01 -o a.pt --json")[0] == 0
    made = Rewinds(tmp_path / "a.pt.history").trained.schedule
    assert (made.epochs, made.lr, made.batch, made.weight_decay) == (1, 0.01, 128, 2e-4)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("train slimnet:digits_vgg --data digits --snapshots x", "are no epochs"),
        ("train nothing.pt --data digits", "nothing.pt"),
        ("train slimnet:nothing --data digits", "nothing"),
        ("train slimnet:digits_vgg --data digits --protocol nobody", "unknown protocol 'nobody'"),
        (f"train slimnet:digits_vgg {QUICK} --snapshots 9", "no epoch 9 to keep"),
    ],
)
def test_what_cannot_be_is_one_sentence(slimnet, tmp_path, command, sentence):
    code, _, err = slimnet(command)
    assert code == 2 and sentence in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []
