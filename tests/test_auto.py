"""The whole way: every step once, its files, its stops and how it goes on."""

import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import slimnet
from slimnet import cli
from slimnet.auto.journal import Done, Journal
from slimnet.auto.pieces import Way
from slimnet.auto.request import AutoRequest, Spelled
from slimnet.auto.steps import FILES, STEPS
from slimnet.auto.way import run_auto
from slimnet.cli.commands import COMMANDS
from slimnet.cli.typed import signature
from slimnet.errors import InputError
from slimnet.files.access import Opened
from slimnet.planning.request import CutRequest
from slimnet.task import LoaderTask
from slimnet.tasks.data import load_data
from slimnet.train.execution import AS_IT_IS

CPU = torch.device("cpu")
IMAGE = (torch.zeros(1, 1, 8, 8),)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 1)

    def forward(self, x):
        x = self.second(self.norm(self.first(x)).relu()).relu()
        return self.head(x.mean((2, 3)))


def task(count=96, size=16):
    """The mean of noise, which a network of any width learns."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, 8, 8, generator=generator)
    pairs = list(zip(x.split(size), x.mean((2, 3)).split(size), strict=True))
    return LoaderTask(pairs, pairs[:3], lambda out, batch: (out - batch[1]).square().mean())


def request(**options):
    usual = {"samples": 48, "epochs": 1, "batch": 16, "execution": AS_IT_IS, "threads": 1}
    spelled = Spelled("net.pt", "mine.py:make_task")
    budget = CutRequest(macs=0.5, align=None)
    return AutoRequest(**{"cut": budget, "spelled": spelled, **usual, **options})


@pytest.fixture(scope="module")
def opened():
    torch.manual_seed(0)
    return Opened(Net().eval(), None)


def go(opened, folder, asked, data=None, example=IMAGE, **more):
    how = {"title": "net", "command": "slimnet auto …", "device": CPU, **more}
    return run_auto(opened, example, data or task(), asked, folder, **how)


@pytest.fixture(scope="module")
def made(opened, tmp_path_factory):
    folder = tmp_path_factory.mktemp("way") / "out"
    folder.mkdir()
    (folder / "dense.onnx").write_text("of another network")
    return folder, go(opened, folder, request())


def test_each_step_leaves_its_file_and_the_last_runs(made, opened):
    folder, steps = made
    assert list(steps) == list(STEPS)
    names = {file for step in steps.values() for file in step.files}
    assert names == set(FILES) - {"tuned.pt.training"}
    for name in ("cut", "repaired", "tuned"):
        slim = slimnet.load(folder / f"{name}.pt", into=opened.model)
        assert slimnet.verify(folder / f"{name}.pt", opened.model).error < 1e-9
    x = torch.randn(1, 1, 8, 8)
    of = steps["export"].record["of"]
    slim = slimnet.load(folder / of, into=opened.model)
    session = onnxruntime.InferenceSession(folder / "slim.onnx")
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.allclose(out, slim(x).detach(), atol=1e-5)
    plan = steps["prune"].record["plan"]
    assert plan["after"]["macs"] <= 0.5 * plan["before"]["macs"]
    dense, cut, repaired = (steps[x].metrics["loss"] for x in ("inspect", "prune", "repair"))
    assert abs(repaired - dense) < abs(cut - dense)
    assert steps["latency"].record["speedups"][0]["median"] > 0
    assert {"first", "head"} <= steps["latency"].record["layers"]["slim"].keys()


def test_the_better_of_both_networks_is_exported(made):
    steps = made[1]
    better = min(("repair", "retrain"), key=lambda name: steps[name].metrics["loss"])
    assert steps["export"].record["of"] == {"repair": "repaired.pt", "retrain": "tuned.pt"}[better]


def test_the_page_says_what_was_done_and_how_to_repeat_it(made):
    folder, steps = made
    page = (folder / "report.html").read_text()
    names = re.sub("http-equiv|http://www.w3.org/2000/svg", "", page)  # a namespace is no request
    assert len(page) < 2_000_000 and "http" not in names
    for step in steps.values():
        assert step.command.replace("'", "&#39;") in page
    assert "of the MACs and" in page and "slimnet auto …" in page
    for words in ("prune net.pt --macs 0.5 --criterion obs --scope harm", "retrain", "--distill"):
        assert words in page


def test_what_is_done_is_not_done_again(made, opened):
    folder, steps = made
    told = []
    again = go(opened, folder, request(), tell=lambda what, done, earlier: told.append(earlier))
    assert again == steps and told == [True] * len(STEPS)
    (folder / "slim.onnx").unlink()
    told.clear()
    go(opened, folder, request(), tell=lambda what, done, earlier: told.append(earlier))
    assert told == [name not in ("export", "latency") for name in STEPS]


def test_a_kill_before_the_last_page_leaves_none_that_is_not_true(made, opened):
    page = made[0] / "report.html"
    page.write_text("Not at its end yet")
    go(opened, made[0], request())
    assert "of the MACs and" in page.read_text() and "Not at its end" not in page.read_text()


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 1)
        self.other = nn.Linear(16, 7)

    def forward(self, x):
        x = self.attention(x, x, x, need_weights=False)[0].mean(1)
        return {"out": self.head(x), "other": self.other(x)}


@pytest.mark.parametrize("heads", [False, True])
def test_what_the_task_reads_and_whole_heads_count_from_the_first_step_on(tmp_path, heads):
    x = torch.randn(32, 5, 16, generator=torch.Generator().manual_seed(0))
    pairs = list(zip(x.split(16), x.mean((1, 2)).split(16), strict=True))
    loss = lambda out, batch: (out["out"][:, 0] - batch[1]).square().mean()  # noqa: E731
    data = LoaderTask(pairs, pairs, loss, outputs=("out",))
    model, asked = Attending().eval(), request(cut=CutRequest(bytes=100.0, heads=heads))
    with pytest.raises(InputError, match=r"^prune: "):
        go(Opened(model, None), tmp_path, asked, data, (x[:1],))
    step = json.loads((tmp_path / "auto.json").read_text())["steps"]["inspect"]
    found = slimnet.inspect(model, (x[:1],), heads=heads, outputs="out")
    assert f"in {len(found.groups)} group" in step["sentence"]
    assert step["command"].endswith("--outputs out --heads" if heads else "--outputs out")


def test_a_metric_that_is_no_number_stops_the_way(opened, tmp_path):
    data = replace(task(), loss_of=lambda out, batch: out.sum() * float("nan"))
    with pytest.raises(InputError, match=r"^inspect: the metric loss is nan"):
        go(opened, tmp_path, request(), data)


def test_another_run_is_not_mixed_in(made, opened):
    with pytest.raises(InputError, match=r"holds another run .its request differ"):
        go(opened, made[0], request(samples=40))


def test_a_step_that_fails_is_named_and_the_rest_stays(opened, tmp_path):
    with pytest.raises(InputError, match=r"prune: what was asked for .* keeps .*: inspect, sens"):
        go(opened, tmp_path / "out", request(cut=CutRequest(bytes=100.0)))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Stopped at a step that failed. cut and proven: what was asked for" in page
    slim = slimnet.prune(opened.model, (torch.zeros(1, 1, 8, 8),), ratio=0.5)
    cut = Opened(slim.model, None, artifact=opened.artifact_of(slim))
    with pytest.raises(InputError, match="is a slim one already"):
        go(cut, tmp_path / "other", request())


def test_without_time_for_an_epoch_the_repaired_network_is_the_result(opened, tmp_path):
    steps = go(opened, tmp_path / "out", request(epochs=None, minutes=1e-6))
    assert re.match("not trained: an epoch takes about .* minutes here", steps["retrain"].sentence)
    assert steps["export"].record["of"] == "repaired.pt"


@pytest.mark.parametrize("how", [{"speed": 2.0}, {"cut": CutRequest(latency="0.5x")}])
def test_a_speed_is_a_share_of_the_time(how, opened, tmp_path, monkeypatch):
    asked = []

    def cut(model, example, **options):
        asked.append((options["latency"], options["batch"]))
        options |= {"latency": None, "macs": 0.5}
        return slimnet.prune(model, example, **options)

    monkeypatch.setattr("slimnet.auto.pieces.prune", cut)
    steps = go(opened, tmp_path / "out", request(**{"cut": CutRequest(), **how}))
    assert asked == [("0.5x", 1)]
    words = shlex.split(steps["prune"].command)
    assert words[words.index("--plan") + 1] == str(tmp_path / "out" / "plan.json")
    review = json.loads((tmp_path / "out" / "plan.json").read_text())
    plan = steps["prune"].record["plan"]
    assert [row["after"] for row in review["groups"]] == [row["after"] for row in plan["groups"]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cut": CutRequest()}, "say what is wanted, in one way"),
        ({"speed": 2.0}, "say what is wanted, in one way"),
        ({"cut": CutRequest(), "speed": 1.0}, "more than 1, not 1.0"),
        ({"minutes": 0.0}, "the minutes must be more than 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"lr": 0.0}, "the learning rate must be greater than 0"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion'"),
        ({"cut": CutRequest(macs=0.5, criterion="best")}, "unknown criterion 'best'"),
        ({"speed": 2.0, "cut": CutRequest(criterion="best")}, "unknown criterion 'best'"),
    ],
)
def test_what_cannot_be_asked(options, words):
    with pytest.raises(InputError, match=words):
        request(**options)


def test_the_optimiser_is_the_usual_one_of_the_network_and_the_task():
    digits = load_data("digits")
    assert request().schedule(Net(), digits).optimizer == "sgd"
    other = request().schedule(Net(), task())
    assert (other.optimizer, other.lr) == ("adamw", 3e-4)
    assert request().schedule(nn.Linear(3, 3), digits).optimizer == "adamw"
    assert request(lr=0.5, optimizer="sgd").schedule(Net(), task()).lr == 0.5


def test_a_journal_that_is_damaged_is_refused(tmp_path):
    journal = Journal(tmp_path, {"a": 1})
    journal.take("one", lambda: Done("done", files=("x",)))
    assert journal.done("one") is None  # its file is not there
    (tmp_path / "x").touch()
    assert Journal(tmp_path, {"a": 1}).done("one").sentence == "done"
    journal.path.write_text(journal.path.read_text().replace("done", "gone"))
    with pytest.raises(InputError, match="cannot be read"):
        Journal(tmp_path, {"a": 1})


MINE = f"""
import torch
from torch import nn
from slimnet.task import LoaderTask

{inspect.getsource(Net)}

{inspect.getsource(task)}

def make_task():
    return task(256, 8)
"""
COMMAND = (
    "auto net.pt --arch mine.py:Net --data mine.py:make_task --macs 0.5 --align off --epochs 6 "
    "--samples 48 --train-batch 8 --precision float32 --threads 1 --seed 3 -o"
)


IN_TURN = """
import shlex, sys
from slimnet import cli
for command in sys.argv[1:]:
    try:
        cli.main(shlex.split(command)[1:])
    except SystemExit as ended:
        assert not ended.code, command
"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("auto")
    (folder / "mine.py").write_text(MINE)
    scope = {}
    exec(MINE, scope)
    torch.manual_seed(0)
    torch.save(scope["Net"]().state_dict(), folder / "net.pt")
    return folder


@pytest.fixture(scope="module")
def whole(shelf):
    """The folder of a run that nothing stopped, and what it said; one beside it is killed."""
    process, killed = start(shelf, "whole"), start(shelf, "killed")
    training = shelf / "killed" / "tuned.pt.training"
    while killed.poll() is None and not training.exists():
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    out, err = process.communicate()
    assert process.returncode == 0, err
    return shelf / "whole", out


def start(shelf, output, *more):
    return started(shelf, ["-m", "slimnet", *COMMAND.split(), output, *more])


def started(shelf, words):
    """A process of its own: other threads and libraries that are loaded change the last bits."""
    words = [sys.executable, *words]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, cwd=shelf, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)


def tensors(path):
    return torch.load(path)["tensors"]


def test_the_command_says_what_came_of_each_step(whole):
    assert "repaired: loss" in whole[1] and "report.html says what was done" in whole[1]


def test_the_command_is_killed_and_ends_the_same(shelf, whole):
    again = start(shelf, "killed")
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert "(by an earlier run)" in out
    for name in ("cut.pt", "repaired.pt", "tuned.pt"):
        one, other = (tensors(shelf / x / name) for x in ("whole", "killed"))
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert not [*shelf.rglob("*.training")] and not [*shelf.rglob("*.part")]


def test_the_commands_of_the_page_do_the_same_again(shelf, whole):
    steps = json.loads((whole[0] / "auto.json").read_text())["steps"]
    names = {"prune": "cut.pt", "repair": "repaired.pt", "retrain": "tuned.pt"}
    before = {name: tensors(whole[0] / name) for name in names.values()}
    commands = [steps[name]["command"] for name in ("inspect", *names, "export")]
    process = started(shelf, ["-c", IN_TURN, *commands])
    said, err = process.communicate()
    assert process.returncode == 0, err
    assert f"{steps['inspect']['record']['cost']['macs']:,} MACs" in said
    for name, tensors_then in before.items():
        again = tensors(whole[0] / name)
        for key, value in tensors_then.items():
            assert torch.equal(again[key], value), (name, key)


def test_each_command_is_given_the_options_that_it_takes():
    typed = [("--normalize", "none"), ("--train-images", "100"), ("--arch", "a.py:Net")]
    spelled = Spelled("net.pt", "digits", tuple(typed))
    way = Way(*[None] * 3, request(spelled=spelled), *[None] * 5)
    for name in ("inspect", "prune", "repair", "retrain", "export"):
        words = shlex.split(way.command(name))
        known = {f"--{x.replace('_', '-')}" for x in signature(COMMANDS[name]).parameters}
        assert {x for x in words if x.startswith("--")} <= known
    assert "--normalize" not in way.command("inspect")
    assert "--train-images 100" in way.command("retrain")


def test_a_network_that_a_step_would_write_over_is_refused(shelf, monkeypatch, capsys):
    monkeypatch.chdir(shelf)
    (shelf / "mine").mkdir()
    shutil.copy("net.pt", "mine/cut.pt")
    with pytest.raises(SystemExit):
        cli.main(
            shlex.split("auto mine/cut.pt --arch mine.py:Net --data digits --macs 0.5 -o mine")
        )
    assert "mine/cut.pt is read here and would be written over" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--macs 0.5 --speed 2x", "say what is wanted, in one way"),
        ("--speed fast", "does not say how many times as fast: 2x, or 1.5x"),
        ("--macs 0.5 --precision half", "unknown precision"),
        ("--macs 0.5 --optimizer lion", "unknown optimizer"),
        ("--macs 0.5 --train-images 3", "leave them out"),
        ("--bytes 100 --samples 48", "prune: what was asked for"),
    ],
)
def test_what_cannot_be_is_one_sentence(shelf, monkeypatch, capsys, more, words):
    monkeypatch.chdir(shelf)
    command = f"auto net.pt --arch mine.py:Net --data mine.py:make_task -o wrong {more}"
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split())
    err = capsys.readouterr().err.strip().split("\n")[-1]
    assert ended.value.code == 2 and words in err and err.startswith("slimnet: ")
