"""Training sparse from a file to a file: a kill costs nothing, and prune takes what is written."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from slimnet import cli
from slimnet.files.access import open_network
from slimnet.models import MODELS
from slimnet.sparsity import SPARSIFIERS
from slimnet.sparsity.training import Recipe, sparsify
from slimnet.tasks.data import load_data
from slimnet.train import Schedule
from slimnet.train.checkpoint import checkpoint_of, write_state

EXAMPLE = (torch.zeros(1, 1, 8, 8),)
RECIPE = Recipe("slimming", 0.05, Schedule(epochs=2, lr=0.05, batch=32))


@pytest.fixture(scope="module")
def data():
    return load_data("digits").limited(train=64, test=32)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelf")
    torch.manual_seed(0)
    for name in ("digits_vgg", "digits_resnet"):
        torch.save(MODELS[name].make().state_dict(), folder / f"{name}.pt")
    return folder


@pytest.fixture
def slimnet(shelf, capsys, monkeypatch):
    """Run a command in the folder: exit code, stdout, stderr."""
    monkeypatch.chdir(shelf)

    def call(command):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main(command.split())
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return call


def small():
    torch.manual_seed(0)
    return MODELS["digits_vgg"].make().eval()


def same(one, two):
    states = zip(one.items(), two.items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in states)


def test_the_users_network_stays_and_a_sparser_one_comes_back(data):
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = Recipe("soft-filters", 0.5, RECIPE.schedule)
    sparse = sparsify(model, EXAMPLE, data, recipe, device="cpu")
    assert same(model.state_dict(), before)
    assert not same(sparse.model.state_dict(), before)
    assert list(sparse.model.state_dict()) == list(before)
    assert (sparse.before.filters.some, sparse.after.filters.some) == (0, 448 // 2)
    record = json.loads(json.dumps(sparse.to_json()))
    assert record["recipe"]["rate"] == 0.5
    assert record["cut"] == "--criterion l2"
    assert record["metrics"]["after"].keys() == {"accuracy"}


def test_any_task_is_trained_sparse(tmp_path, capsys, monkeypatch):
    """By its own loss; its metrics are what is printed."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(48, 1, 8, 8)).astype(np.float32)
    np.savez(
        "sums.npz",
        x_train=x[:32],
        y_train=x[:32].sum((1, 2, 3)),
        x_test=x[32:],
        y_test=x[32:].sum((1, 2, 3)),
    )
    Path("own.py").write_text(
        "from torch import nn\n"
        "def make_model():\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),\n"
        "                         nn.Linear(288, 1))\n"
    )
    scope = {}
    exec(Path("own.py").read_text(), scope)
    torch.save(scope["make_model"]().state_dict(), "own.pt")
    command = "sparsify own.pt --arch own.py:make_model --data task:regression:sums.npz --lr 0.01"
    with pytest.raises(SystemExit) as stopped:
        cli.main(f"{command} --epochs 1 --train-batch 8 -o sparse.pt".split())
    out = capsys.readouterr().out
    assert stopped.value.code == 0, out
    assert re.search(r"mse +[\d.]+ +[\d.]+\n", out) and re.search(r"mae +[\d.]+ +[\d.]+\n", out)
    assert "accuracy" not in out


class Killed(BaseException):
    pass


def kill_after(part):
    def progress(done):
        if done > part:
            raise Killed

    return progress


def test_a_checkpoint_of_the_same_training_is_taken_up_and_any_other_is_not(data, tmp_path):
    file = tmp_path / "sparse.pt.training"
    with pytest.raises(Killed):
        sparsify(
            small(), EXAMPLE, data, RECIPE, checkpoint=file, device="cpu", progress=kill_after(0.5)
        )
    assert file.is_file()
    kept = file.read_bytes()
    whole = sparsify(small(), EXAMPLE, data, RECIPE, device="cpu")
    resumed = sparsify(small(), EXAMPLE, data, RECIPE, checkpoint=file, device="cpu")
    assert (whole.resumed, resumed.resumed) == (0, 1)
    assert same(whole.model.state_dict(), resumed.model.state_dict())
    file.write_bytes(kept)
    other = Recipe("slimming", 0.06, RECIPE.schedule)
    assert sparsify(small(), EXAMPLE, data, other, checkpoint=file, device="cpu").resumed == 0
    file.write_bytes(kept[: len(kept) // 2])
    again = sparsify(small(), EXAMPLE, data, RECIPE, checkpoint=file, device="cpu")
    assert again.resumed == 0 and same(whole.model.state_dict(), again.model.state_dict())


def test_what_is_written_is_a_plain_state_dict_and_the_checkpoint_is_gone(tmp_path):
    output = tmp_path / "sparse.pt"
    checkpoint_of(output).write_text("a training")
    write_state(small(), output)
    assert [path.name for path in tmp_path.iterdir()] == ["sparse.pt"]
    assert same(torch.load(output, weights_only=True), small().state_dict())
    assert str(open_network(output).arch).startswith("slimnet:digits_vgg")


SPARSIFY = "sparsify digits_resnet.pt --data digits --train-images 64 --test-images 32"


@pytest.mark.parametrize("method", SPARSIFIERS)
def test_every_method_goes_from_a_file_to_a_file_that_prune_takes(method, slimnet, shelf):
    code, out, _ = slimnet(f"{SPARSIFY} --epochs 1 --method {method} -o {method}.pt")
    assert code == 0
    assert re.search(r"accuracy +\d+\.\d\d% +\d+\.\d\d%", out)
    assert f"{method}.pt written" in out
    assert not list(shelf.glob("*.training"))
    advice = re.search("to cut it: slimnet prune with (.*)", out)
    options = advice[1] if advice else "--criterion l1"
    assert advice or "MACs and latency are those of the dense network" in out
    assert slimnet(f"prune {method}.pt --ratio 0.5 {options} -o cut.pt")[0] == 0


def test_the_same_as_data(slimnet):
    command = f"{SPARSIFY} --epochs 1 --method unstructured --rate 0.75 --json -o u.pt"
    code, out, err = slimnet(command)
    assert (code, err) == (0, "")
    record = json.loads(out)
    weights = record["sparseness"]["after"]["weights"]
    assert weights["some"] == round(0.75 * weights["all"])
    assert record["output"] == "u.pt" and record["cut"] == ""
    assert record["recipe"]["rate"] == 0.75


def test_a_killed_training_goes_on_where_it_was_to_the_same_file(slimnet, shelf):
    command = f"{SPARSIFY} --epochs 30 --method block-scales --strength 1 --threads 1 --device cpu"
    kept = shelf / "killed.pt.training"
    process = subprocess.Popen(
        [sys.executable, "-m", "slimnet", *command.split(), "-o", "killed.pt"],
        cwd=shelf,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    while process.poll() is None and not kept.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (shelf / "killed.pt").exists()
    assert slimnet(f"{command} -o whole.pt")[0] == 0
    code, out, _ = slimnet(f"{command} -o killed.pt")
    assert code == 0
    assert re.search(r"taken up after \d+ epochs? of an earlier run", out)
    whole, killed = (torch.load(shelf / f"{n}.pt", weights_only=True) for n in ("whole", "killed"))
    assert same(whole, killed)


CASES = {
    f"{SPARSIFY} --method foo": "unknown method 'foo': the known ones are block-scales",
    f"{SPARSIFY} --rate 0.5": "slimming has no rate",
    f"{SPARSIFY} --strength 0": "strength of slimming must be greater than 0",
    f"{SPARSIFY} --method soft-filters --rate 1.5": "must lie between 0 and 1",
    f"{SPARSIFY} --epochs 0": "epochs must be at least 1",
    f"{SPARSIFY} -o missing/sparse.pt": "there is no folder missing",
    "sparsify digits_vgg.pt --data digits --method block-scales": "this network has none",
    "sparsify slim.pt --data digits": "is a slim network, .* sparsify the dense network",
    "sparsify digits_vgg.pt": "Missing option '--data'",
}


@pytest.mark.parametrize("command", CASES)
def test_bad_input_is_one_sentence(command, slimnet, shelf):
    if not (shelf / "slim.pt").exists():
        assert slimnet("prune digits_vgg.pt --ratio 0.5 -o slim.pt")[0] == 0
    before = sorted(path.name for path in Path().iterdir())
    code, out, err = slimnet(command)
    assert (code, out) == (2, "")
    assert re.fullmatch(f"slimnet: .*({CASES[command]}).*\n", err), err
    assert sorted(path.name for path in Path().iterdir()) == before
