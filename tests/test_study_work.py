"""A cell's result depends on its files alone: not on order, process, or who runs beside it."""

import dataclasses
import pickle
import re

import pytest
import torch
from small_study import CELLS, SPEC, STUDY, cells_of, process, ran

from slimnet.errors import InputError
from slimnet.models import MODELS
from slimnet.networks.arch import Arch
from slimnet.study import ENGINES, Facts, run_cell
from slimnet.study.candidate import Candidate
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

    def same(criterion, ratio):
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
