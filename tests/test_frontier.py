"""A frontier: a point per target, what cannot be had, its page, its stops and its command."""

import inspect
import json
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

import slimnet
from slimnet import cli
from slimnet.auto.frontier import files_of, run_frontier
from slimnet.auto.request import FrontierRequest, Spelled
from slimnet.errors import InputError, PruneError
from slimnet.export import Latency, Speedup, Timing
from slimnet.files.access import Opened
from slimnet.planning.request import CutRequest, TimeTarget
from slimnet.report.frontier import Frontier, Point, Time, verdict, write_frontier
from slimnet.task import LoaderTask, Metric
from slimnet.train.execution import AS_IT_IS

IMAGE = (torch.zeros(1, 1, 8, 8),)
IMPOSSIBLE = "0.01x cannot be had here: the least of 5 cuts that were measured is 1 ms"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 1)

    def forward(self, x):
        x = self.second(self.first(x).relu()).relu()
        return self.head(x.mean((2, 3)))


def task(count=64, size=16):
    """The mean of noise."""
    x = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pairs = list(zip(x.split(size), x.mean((2, 3)).split(size), strict=True))
    return LoaderTask(pairs, pairs[:3], lambda out, batch: (out - batch[1]).square().mean())


def cut_to_macs(model, example, **options):
    """In place of a measured time the same share of the MACs: nothing here hangs on the clock."""
    target = TimeTarget.of(options["latency"])
    if target.value < 0.05:
        raise PruneError(IMPOSSIBLE)
    return slimnet.prune(model, example, **{**options, "latency": None, "macs": target.value})


def timed(files, example, *, batch, threads):
    """A millisecond for the dense network; what is named 0.5x takes half of it."""
    ms = {name: float(re.sub(r"[^\d.]", "", name) or 1) for name in files}
    timings = [Timing(name, each, each, each, (each, each)) for name, each in ms.items()]
    first, *rest = ms
    speeds = [Speedup(x, first, 1 / ms[x], 1 / ms[x], 1 / ms[x]) for x in rest]
    how = ("onnxruntime", "CPU", "cpu", threads or 1, batch, 30, {})
    return Latency(tuple(timings), tuple(speeds), *how, remarks=("the machine was busy",))


def without_clock(patch):
    patch.setattr("slimnet.auto.pieces.prune", cut_to_macs)
    patch.setattr("slimnet.auto.frontier.measure_latency", timed)


@dataclass
class NoExport:
    """In place of an export, which takes a second: an empty file."""

    parity = None

    @classmethod
    def of(cls, model, example, path, **options):
        path.touch()
        return cls()

    def to_json(self):
        return {}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    without_clock(monkeypatch)
    monkeypatch.setattr("slimnet.auto.pieces.export_onnx", NoExport.of)


@pytest.fixture(scope="module")
def opened():
    torch.manual_seed(0)
    return Opened(Net().eval(), None)


def request(*targets, **options):
    usual = {"samples": 32, "batch": 16, "threads": 1}
    spelled = Spelled("net.pt", "mine.py:make_task")
    listed = tuple(map(TimeTarget.of, targets or ("0.8x", "0.5x")))
    more = {"cut": CutRequest(align=None), "spelled": spelled, **usual, **options}
    return FrontierRequest(**more, targets=listed)


def training(*targets, **options):
    return request(*targets, **{"epochs": 1, "execution": AS_IT_IS, **options})


def go(opened, folder, asked, data=None, **more):
    how = {"title": "net", "command": "slimnet frontier …", "device": torch.device("cpu"), **more}
    return run_frontier(opened, IMAGE, data or task(), asked, folder, **how)


def told_by(opened, folder, asked, data=None):
    """What each step was, and whether an earlier run had done it."""
    told = {}
    go(
        *(opened, folder, asked, data),
        tell=lambda what, done, earlier: told.update({what.partition(",")[0]: earlier}),
    )
    return told


@pytest.fixture(scope="module")
def made(opened, tmp_path_factory):
    """With real ONNX files."""
    folder = tmp_path_factory.mktemp("frontier") / "out"
    with pytest.MonkeyPatch.context() as patch:
        without_clock(patch)
        return folder, go(opened, folder, training("0.01x", "0.5x"))


def test_each_target_has_its_files_and_they_are_timed_together(made, opened):
    folder, found = made
    networks = ("slim-0.5x", "tuned-0.5x")
    assert {path.name for path in folder.iterdir()} == {
        *("frontier.json", "report.html", "dense.onnx", "slim-0.5x.json"),
        *(f"{name}.pt" for name in networks),
        *(f"{name}.onnx" for name in networks),
    }
    assert set(found.times) == {"dense", *networks}
    assert found.times["tuned-0.5x"].speed == 2 and found.times["slim-0.5x"].verdict == "faster"
    x = torch.randn(1, 1, 8, 8)
    for name in networks:
        slim = slimnet.load(folder / f"{name}.pt", into=opened.model)
        assert slimnet.verify(folder / f"{name}.pt", opened.model).error < 1e-9
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
        (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert abs(float(out[0, 0]) - float(slim(x).detach())) < 1e-5


def test_a_point_has_its_metrics_and_what_is_left(made):
    _, found = made
    impossible, half = found.points
    assert 0.45 < half.macs <= 0.5 and half.params < 1
    assert set(half.repaired) == set(half.trained) == set(found.dense) == {"loss"}
    assert impossible == Point("0.01x", why=IMPOSSIBLE)
    assert found.had == [half] and found.missing == [impossible]


def test_the_page_shows_chart_table_what_cannot_be_had_and_the_commands(made):
    folder, _ = made
    page = (folder / "report.html").read_text()
    assert len(page) < 100_000 and not re.search(r"(src|href)=\"?(http|//)|url\(|@import", page)
    assert page.count('<g class="series') == 3 and 'class="series ink"' in page
    assert 'data-said="dense: 1.00 ms' in page
    assert 'data-said="tuned-0.5x: 0.500 ms' in page
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page
    for words in (
        *("slimnet frontier …", "1 of 2 targets could not be had.", IMPOSSIBLE),
        *("slimnet prune net.pt --plan", "--repair", "slimnet retrain", "slimnet export"),
        *("slimnet latency", "2.00× (2.00–2.00)", "The machine was busy."),
    ):
        assert words in page, words
    hrefs = set(re.findall(r'href="([^"]+)"', page))
    assert hrefs and all((folder / name).exists() for name in hrefs)


def test_without_a_training_nothing_is_trained(opened, tmp_path):
    found = go(opened, tmp_path, request("0.5x"))
    assert set(found.times) == {"dense", "slim-0.5x"} and not found.points[0].trained
    page = (tmp_path / "report.html").read_text()
    assert "\ntrained</th>" not in page and "tuned-" not in page


def test_what_is_done_is_not_done_again(opened, tmp_path):
    asked = training("0.8x", "0.01x", "0.5x")
    found = go(opened, tmp_path, asked)
    assert all(told_by(opened, tmp_path, asked).values())
    assert go(opened, tmp_path, asked) == found
    (tmp_path / "slim-0.5x.onnx").unlink()
    again = [what for what, earlier in told_by(opened, tmp_path, asked).items() if not earlier]
    assert again == ["0.5x: cut", "0.5x: trained on", "all measured together"]


def test_a_run_that_was_killed_between_two_points_goes_on_to_the_same_end(
    opened, tmp_path, monkeypatch
):
    def killed(model, example, **options):
        if options["latency"] == "0.5x":
            raise KeyboardInterrupt
        return cut_to_macs(model, example, **options)

    asked = training("0.8x", "0.5x")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("slimnet.auto.pieces.prune", killed)
        go(opened, tmp_path / "killed", asked)
    page = (tmp_path / "killed" / "report.html").read_text()
    assert "Not at its end yet" in page and "slim-0.8x.onnx" in page and "<figure" not in page
    told = told_by(opened, tmp_path / "killed", asked)
    assert [what for what, earlier in told.items() if earlier] == [
        *("what can be cut", "0.8x: cut", "0.8x: trained on")
    ]
    go(opened, tmp_path / "whole", asked)
    for name in ("slim-0.8x.pt", "tuned-0.8x.pt", "slim-0.5x.pt", "tuned-0.5x.pt"):
        one, other = (torch.load(tmp_path / x / name)["tensors"] for x in ("whole", "killed"))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_targets_and_a_training_may_be_asked_for_later(opened, tmp_path):
    told_by(opened, tmp_path, request("0.8x"))
    more = told_by(opened, tmp_path, request("0.8x", "0.5x"))
    assert more == {
        "what can be cut": True,
        "0.8x: cut": True,
        "0.5x: cut": False,
        "all measured together": False,
    }
    trained = told_by(opened, tmp_path, training("0.8x"))
    assert trained["0.8x: cut"] and not trained["0.8x: trained on"]
    longer = told_by(opened, tmp_path, training("0.8x", epochs=2))
    assert longer["0.8x: cut"] and not longer["0.8x: trained on"]
    found = go(opened, tmp_path, request("0.8x"))
    assert set(found.times) == {"dense", "slim-0.8x"} and not found.points[0].trained


def test_another_run_is_not_mixed_in(made, opened, tmp_path):
    with pytest.raises(InputError, match=r"holds another run .its request differ"):
        go(opened, made[0], training(samples=16))
    with pytest.raises(InputError, match=r"holds another run .its threads differ"):
        go(opened, made[0], training(threads=2))
    (tmp_path / "auto").mkdir()
    (tmp_path / "auto" / "auto.json").touch()
    with pytest.raises(InputError, match=r"holds another run \(auto.json\): name another folder"):
        go(opened, tmp_path / "auto", request())


def test_where_nothing_can_be_had_the_page_says_so(opened, tmp_path):
    found = go(opened, tmp_path, training("0.01x", "0.02x"))
    assert verdict(found) == "None of 2 targets could be had; the table says why."
    assert IMPOSSIBLE in (tmp_path / "report.html").read_text()


def test_a_step_that_fails_is_named_and_the_rest_stays(opened, tmp_path, monkeypatch):
    def fails(*args, **named):
        raise InputError("the runtime is gone")

    monkeypatch.setattr("slimnet.auto.frontier.measure_latency", fails)
    with pytest.raises(InputError, match=r"latency: the runtime is gone; .* slim-0.5x"):
        go(opened, tmp_path, request("0.5x"))
    assert "Stopped at a step that failed. all measured" in (tmp_path / "report.html").read_text()
    data = replace(task(), loss_of=lambda out, batch: out.sum() * float("nan"))
    with pytest.raises(InputError, match=r"^inspect: the metric loss is nan"):
        go(opened, tmp_path / "nan", request(), data)
    slim = slimnet.prune(opened.model, IMAGE, ratio=0.5)
    cut = Opened(slim.model, None, artifact=opened.artifact_of(slim))
    with pytest.raises(InputError, match="is a slim one already"):
        go(cut, tmp_path / "other", request())


def test_without_time_for_an_epoch_the_row_says_so(opened, tmp_path):
    found = go(opened, tmp_path, training("0.5x", epochs=None, minutes=1e-6))
    (point,) = found.points
    assert point.lacking.startswith("0.5x was not trained: an epoch") and not point.trained
    assert "0.5x was not trained: an epoch takes" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"targets": ()}, "there is no time to cut to"),
        ({"cut": CutRequest(macs=0.5)}, "leave the others out"),
        ({"lr": 0.1}, "nothing is trained, so how it is trained means nothing"),
        ({"optimizer": "sgd"}, "add --epochs or --minutes"),
        ({"minutes": 0.0}, "the minutes must be more than 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"cut": CutRequest(criterion="best")}, "unknown criterion 'best'"),
    ],
)
def test_what_cannot_be_asked(options, words):
    with pytest.raises(InputError, match=words):
        replace(request(), **options)


ACCURACY = Metric("accuracy", "%", "highest")


def frontier(metric=ACCURACY, dense=90.0, **worth):
    """Points of the given metric; a key 0.5 takes half of the dense network's millisecond."""
    times = {"dense": Time(1.0, 1.0, 1.0)}
    points = []
    for key, value in worth.items():
        share = float(key[1:]) / 10
        point = Point(f"{share:g}x", 0.5, 0.5, {metric.name: value})
        verdict = "faster" if share < 0.95 else "undecided"
        times[point.slim] = Time(share, share, share, 1 / share, 1 / share, 1 / share, verdict)
        points.append(point)
    return Frontier("net", "slimnet …", metric, {metric.name: dense}, points, times=times)


def test_the_verdict_names_the_fastest_that_is_near_and_the_fastest_of_all():
    assert verdict(frontier(t8=90.2, t5=89.5, t2=70.0)) == (
        "The fastest that keeps the accuracy of the dense network (90.00 %) within 1% is "
        "slim-0.5x: 89.50 %, 0.500 ms instead of 1.00 (2.00×). The fastest of all is slim-0.2x: "
        "70.00 %, 0.200 ms instead of 1.00 (5.00×)."
    )
    assert verdict(frontier(t8=90.2)).endswith(
        "slim-0.8x: 90.20 %, 0.800 ms instead of 1.00 (1.25×)."
    )
    assert verdict(frontier(t8=80.0, t5=70.0)).startswith(
        "No faster network keeps the accuracy of the dense one (90.00 %) within 1%; the nearest "
        "is slim-0.8x: 80.00 %"
    )
    assert verdict(frontier(t8=80.0)).endswith("the same command with --epochs or --minutes does.")
    assert "--epochs" not in verdict(replace(frontier(t8=80.0), trains=True))
    assert verdict(frontier(t10=90.0)).startswith("None of the slim networks is measurably faster")
    assert verdict(replace(frontier(t8=90.0), times={})) == ""


def test_the_slowest_comes_first():
    assert [point.target for point in frontier(t2=1.0, t8=1.0, t5=1.0).had] == [
        "0.8x",
        "0.5x",
        "0.2x",
    ]


def test_a_loss_is_near_where_it_is_not_higher():
    loss = Metric("loss", "", "lowest")
    assert "slim-0.5x: 0.1" in verdict(frontier(loss, 0.2, t8=0.2, t5=0.1, t2=0.3)).split(". ")[0]


def test_the_better_network_of_a_point_is_named(tmp_path):
    made = frontier(t5=80.0)
    (point,) = made.points
    times = {**made.times, "tuned-0.5x": made.times["slim-0.5x"]}
    trained = replace(point, trained={"accuracy": 89.9})
    made = replace(made, points=[trained], times=times, trains=True, tested=1000)
    assert "tuned-0.5x: 89.90 %" in verdict(made)
    write_frontier(tmp_path / "page.html", made)
    page = (tmp_path / "page.html").read_text()
    assert "on 1,000 test samples, each of which is 0.1 points" in page
    worse = replace(trained, trained={"accuracy": 70.0})
    assert "slim-0.5x: 80.00 %" in verdict(replace(made, points=[worse]))


MINE = f"""
import torch
from torch import nn
from slimnet.task import LoaderTask

{inspect.getsource(Net)}

{inspect.getsource(task)}

def make_task():
    return task(128, 8)
"""
OPTIONS = "--arch mine.py:Net --data mine.py:make_task --align off --samples 32"
COMMAND = (
    f"frontier net.pt {OPTIONS} --latency 0.8x,0.01x,0.5x --epochs 2 --train-batch 8 "
    "--precision float32 --seed 3 -o out"
)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frontier")
    (folder / "mine.py").write_text(MINE)
    torch.manual_seed(0)
    torch.save(Net().state_dict(), folder / "net.pt")
    return folder


def run(command):
    with pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(command))
    return ended.value.code


def test_the_command_shows_the_table_and_the_verdict(shelf, monkeypatch, capsys):
    monkeypatch.chdir(shelf)
    assert run(COMMAND) == 0
    out = capsys.readouterr().out
    for words in (
        *("0.01x", "cannot be had", "2.00× (2.00–2.00)", "1 of 3 targets could not be had"),
        *("0.8x: trained on: loss", "note: the machine was busy"),
        "report.html shows it, and how to repeat it",
    ):
        assert words in out, words
    assert run(f"{COMMAND} --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [point["target"] for point in found["points"]] == ["0.8x", "0.01x", "0.5x"]
    assert found["verdict"] and found["times"]["slim-0.5x"]["speed"] == 2
    assert not [*shelf.rglob("*.training")] and not [*shelf.rglob("*.part")]


def test_the_commands_of_the_page_do_the_same_again(shelf, monkeypatch):
    monkeypatch.chdir(shelf)
    assert run(COMMAND) == 0
    steps = json.loads(Path("out/frontier.json").read_text())["steps"]
    for name in ("slim-0.5x", "tuned-0.5x"):
        before = torch.load(f"out/{name}.pt")["tensors"]
        made, exported = steps[name]["command"].split("\n")
        assert run(made.removeprefix("slimnet ")) == 0
        again = torch.load(f"out/{name}.pt")["tensors"]
        assert all(torch.equal(again[key], value) for key, value in before.items())
        words = f"slimnet export out/{name}.pt out/{name}.onnx --onnx --no-latency"
        assert exported == words


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--latency 0.8x,fast", "latency 'fast' is no time: 4ms, or 0.5x"),
        ("--latency 0.8x,1.5x", "latency '1.5x' is no time"),
        ("--latency 0.8x,", "latency '' is no time"),
        ("--latency 0.5x --epochs 1 --minutes 2", "say the same in two ways"),
        ("--latency 0.5x --lr 0.1", "nothing is trained"),
        ("--latency 0.5x --precision half", "unknown precision"),
        ("--latency 0.5x --criterion best", "unknown criterion"),
        ("", "Missing option '--latency'"),
    ],
)
def test_what_cannot_be_is_one_sentence(shelf, monkeypatch, capsys, more, words):
    monkeypatch.chdir(shelf)
    with pytest.raises(SystemExit) as ended:
        cli.main(f"frontier net.pt {OPTIONS} -o wrong {more}".split())
    err = capsys.readouterr().err.strip().split("\n")[-1]
    assert ended.value.code == 2 and words in err and err.startswith("slimnet: ")
    assert not (shelf / "wrong").exists()


def test_a_network_that_a_step_would_write_over_is_refused(shelf, monkeypatch, capsys):
    monkeypatch.chdir(shelf)
    (shelf / "mine").mkdir()
    Path("mine/slim-0.5x.pt").write_bytes(Path("net.pt").read_bytes())
    with pytest.raises(SystemExit):
        cli.main(f"frontier mine/slim-0.5x.pt {OPTIONS} --latency 0.5x -o mine".split())
    assert "mine/slim-0.5x.pt is read here and would be written" in capsys.readouterr().err
    assert "slim-0.5x.json" in set(files_of(request("0.5x")))
