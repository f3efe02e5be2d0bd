"""A cell's result depends on its files alone: not on order, process, or who runs beside it."""

import dataclasses
import pickle
import re
import signal

import pytest
import torch
from small_study import CELLS, SPEC, STUDY, Pruner, cells_of, net, process, ran

from slimnet.errors import InputError
from slimnet.models import MODELS
from slimnet.networks.arch import Arch
from slimnet.study import ENGINES, Facts, run_cell, work
from slimnet.study.candidate import Candidate
from slimnet.study.masked import Masked, masked_candidate
from slimnet.train import Schedule

REPAIRED = dataclasses.replace(STUDY, criteria=("l1",), regimes=("repair", "repair-finetune"))


@pytest.fixture(scope="module")
def data():
    return SPEC.load()


@pytest.fixture(scope="module")
def in_order(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("order")
    ran(data, folder)
    ran(data, folder, REPAIRED)
    return cells_of(folder)


class Jobs:
    """An engine that keeps what it was handed, and runs the cells in reverse order."""

    def __init__(self, monkeypatch):
        self.runs = []
        monkeypatch.setitem(ENGINES._entries, "backwards", self)

    def __call__(self, cells, run):
        self.runs.append((cells, run))
        return [run(cell) for cell in reversed(cells)][::-1]


def test_cells_in_reverse_order_give_the_same_files(data, tmp_path, monkeypatch, in_order):
    jobs = Jobs(monkeypatch)
    for study in (STUDY, REPAIRED):
        ran(data, tmp_path, study, engine="backwards")
    assert cells_of(tmp_path) == in_order
    assert [len(cells) for cells, _ in jobs.runs] == [CELLS, 4]  # the dense one is known by then


ELSEWHERE = """
import pickle, sys
from pathlib import Path
job, cells = pickle.loads(Path(sys.argv[1]).read_bytes())
for cell in cells:
    job(cell, lambda part: None)
"""


@pytest.mark.parametrize(("study", "named"), [(STUDY, False), (REPAIRED, True)])
def test_cells_in_a_fresh_process_give_the_same_files(
    study, named, data, tmp_path, monkeypatch, in_order
):
    """Of data that have a name, and of data made in memory."""

    def elsewhere(cells, run):
        (tmp_path / "job").write_bytes(pickle.dumps((run.job, cells)))
        child = process(ELSEWHERE, tmp_path / "job")
        told, _ = child.communicate(timeout=120)
        assert child.returncode == 0, told
        return [run(cell) for cell in cells]  # which are read

    monkeypatch.setitem(ENGINES._entries, "elsewhere", elsewhere)
    ran(data, tmp_path, study, engine="elsewhere", spec=SPEC if named else None)
    files = cells_of(tmp_path)
    assert files == {name: in_order[name] for name in files}
    assert bool(list(tmp_path.glob("data-*.pt"))) is not named


TOGETHER = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
import small_study
from slimnet.study import work

def train(*arguments, **options):
    print("trained", options["seed"])
    return true(*arguments, **options)

true, work.train = work.train, train
pruner = small_study.Pruner()
folder, go = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.01)
small_study.ran(small_study.SPEC.load(), folder, pruner=pruner)
print("cut", len(pruner.asked))
"""


def test_two_processes_share_the_cells_of_one_folder(tmp_path, in_order):
    children = [process(TOGETHER, tmp_path / "study", tmp_path / "go") for _ in range(2)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    (tmp_path / "go").write_text("")
    told = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], told
    trained = [line for text in told for line in text.splitlines() if line.startswith("trained")]
    assert len(trained) == CELLS - 1
    assert sum(int(n) for text in told for n in re.findall("cut (.*)", text)) == 2
    files = cells_of(tmp_path / "study")
    assert len(files) == CELLS
    assert files == {name: in_order[name] for name in files}
    assert not list((tmp_path / "study" / "cells").glob("*.claim"))


def test_what_an_engine_is_handed_pickles_small(data, tmp_path, monkeypatch):
    jobs = Jobs(monkeypatch)
    torch.manual_seed(0)
    model = MODELS["digits_vgg"].make().eval()
    dense = Candidate(model, Facts(1000, 1000))
    study = dataclasses.replace(STUDY, base=Schedule(epochs=1, batch=100), regimes=("finetune",))
    study = dataclasses.replace(study, criteria=("l1",), seeds=(0,))

    def same(cut):
        return dense

    arch = Arch("slimnet", "digits_vgg")
    for options in ({"spec": SPEC, "arch": arch}, {}):
        ran(data, tmp_path / str(len(options)), study, same, dense, engine="backwards", **options)
    named, unnamed = (len(pickle.dumps((run.job, cells[0]))) for cells, run in jobs.runs)
    assert named < 2_000
    assert unnamed < 20_000  # the class of the network, without a number of its 370 000
    first, second = (cells_of(tmp_path / name) for name in ("2", "0"))
    assert first == second


def test_a_cell_runs_again_to_the_same_result(data, tmp_path, monkeypatch):
    jobs = Jobs(monkeypatch)
    results = ran(data, tmp_path, engine="backwards")
    ((cells, run),) = jobs.runs
    (setup,) = run.job.args
    for place in (3, 0, 8):
        again = run_cell(pickle.loads(pickle.dumps(setup)), cells[place])
        assert dataclasses.replace(again, seconds=0.0) == dataclasses.replace(
            results.records[place], seconds=0.0
        )


def test_a_cell_without_its_network_says_which_file_is_missing(data, tmp_path, monkeypatch):
    jobs = Jobs(monkeypatch)
    ran(data, tmp_path, engine="backwards")
    ((cells, run),) = jobs.runs
    (gone,) = (tmp_path / "networks").glob("l1-0.5-*.pt")
    gone.unlink()
    with pytest.raises(
        InputError, match=r"^l1, ratio 0.5, finetune, seed 0: .*l1-0.5-.*\.pt is mis"
    ):
        run_cell(run.job.args[0], cells[1])


LONG = dataclasses.replace(STUDY, criteria=("l1", "unstructured"), regimes=("scratch-b",))
KILLED = """
import os, signal, sys
import small_study
from pathlib import Path
from test_study_work import LONG, masked
from slimnet.study import work
from slimnet.train.checkpoint import Checkpoint

work.SPARED = 0.0
writes, write = [], Checkpoint.write

def dying(self, snapshot):
    write(self, snapshot)
    writes.append(1)
    if len(writes) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

Checkpoint.write = dying
small_study.ran(small_study.SPEC.load(), Path(sys.argv[1]), LONG, masked)
"""


def masked(cut):
    """One network cut, one with single weights zeroed, whose zeros are held in training."""
    if cut.criterion == "unstructured":
        return masked_candidate(net(), Masked(net(), "large-final", cut.budget.amount), 74 * 32)
    return Pruner()(cut)


@pytest.fixture(scope="module")
def unstopped(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unstopped")
    ran(data, folder, LONG, masked)
    return cells_of(folder)


@pytest.mark.parametrize("moment", [3, 19])
def test_a_cell_that_was_killed_goes_on_inside_to_the_same_end(
    moment, data, tmp_path, monkeypatch, unstopped
):
    child = process(KILLED, tmp_path, moment)
    told, _ = child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL, told
    (left,) = (tmp_path / "trained").glob("*.training")
    taken_up, train = [], work.train

    def watched(*arguments, resume, **options):
        taken_up.extend([] if resume is None else resume.losses)
        return train(*arguments, resume=resume, **options)

    monkeypatch.setattr(work, "train", watched)
    ran(data, tmp_path, LONG, masked)
    assert len(taken_up) == (moment - 1) % 8 + 1
    assert cells_of(tmp_path) == unstopped
    assert not left.parent.exists()
    assert {path.suffix for path in (tmp_path / "cells").iterdir()} == {".json"}


def test_what_takes_seconds_leaves_no_snapshot_behind(data, tmp_path, monkeypatch):
    monkeypatch.setattr(work.Checkpoint, "write", None)
    ran(data, tmp_path, dataclasses.replace(STUDY, criteria=("l1",), seeds=(0,)))
    assert not (tmp_path / "trained").exists()


def test_a_snapshot_of_another_training_is_set_aside(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(work, "SPARED", 0.0)
    jobs = Jobs(monkeypatch)
    study = dataclasses.replace(STUDY, criteria=("l1",), seeds=(0,))
    results = ran(data, tmp_path, study, engine="backwards")
    ((cells, run),) = jobs.runs
    file = tmp_path / "trained" / f"{cells[1].id}.training"
    file.parent.mkdir(exist_ok=True)
    file.write_text("none")
    again = run_cell(run.job.args[0], cells[1])
    assert again.metrics == results.records[1].metrics
    assert f"{file} is damaged: it is kept as {file.name}.damaged" in caplog.text


def test_the_seconds_of_all_parts_count(data, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "SPARED", 0.0)
    jobs = Jobs(monkeypatch)
    study = dataclasses.replace(STUDY, criteria=("l1",), seeds=(0,), regimes=("scratch-b",))
    ran(data, tmp_path, study, engine="backwards")
    ((cells, run),) = jobs.runs

    def stop(part):
        if part > 0.6:
            raise KeyboardInterrupt

    (tmp_path / "cells" / f"{cells[1].id}.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        run_cell(run.job.args[0], cells[1], stop)
    monkeypatch.setattr(work.Checkpoint, "read", _a_thousand(work.Checkpoint.read))
    assert run_cell(run.job.args[0], cells[1]).seconds > 1000


def _a_thousand(read):
    return lambda self: dataclasses.replace(read(self), settled={"seconds": 1000.0})
