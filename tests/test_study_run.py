"""A study runs each cell once, survives being killed, and leaves the models as they were."""

import copy
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from small_study import CELLS, IMAGE, SPEC, STUDY, Pruner, candidate, net, ran
from torch import nn

import slimnet
from slimnet.errors import InputError, UnknownNameError
from slimnet.study import (
    ENGINES,
    Candidate,
    Facts,
    Run,
    read_results,
    slim_candidate,
    work,
    write_results,
)
from slimnet.study.budget import ratios
from slimnet.study.cells import Cut
from slimnet.train import REGIMES, Schedule, budget


@pytest.fixture(scope="module")
def data():
    return SPEC.load()


class Trainings:
    """Counts the trainings, and fails at one of them."""

    def __init__(self, monkeypatch, fail_at=None):
        self.count = 0
        self.fail_at = fail_at
        self._train = work.train
        monkeypatch.setattr(work, "train", self)

    def __call__(self, *arguments, **options):
        self.count += 1
        if self.count == self.fail_at:
            raise KeyboardInterrupt
        return self._train(*arguments, **options)


def test_every_cell_is_run_and_each_network_made_once(data, tmp_path, monkeypatch):
    trainings, pruner = Trainings(monkeypatch), Pruner()
    results = ran(data, tmp_path, pruner=pruner)
    assert len(results.records) == CELLS
    assert trainings.count == CELLS - 1
    assert pruner.asked == [("l1", 0.5), ("random", 0.5)]
    assert len(list((tmp_path / "cells").glob("*.json"))) == CELLS


def test_each_record_holds_the_regimes_budget(data, tmp_path):
    results = ran(data, tmp_path)
    for record in results.records[1:]:
        schedule = budget(REGIMES[record.cell.regime], STUDY.base, 2.0)
        assert record.epochs == schedule.epochs
        assert record.samples == schedule.epochs * 200
        assert record.compute == record.facts.macs * record.samples
    assert {record.epochs for record in results.records} == {0, 1, 8}


def test_a_repair_is_tested_and_not_trained(data, tmp_path, monkeypatch):
    trainings = Trainings(monkeypatch)
    pruner = Pruner()
    slim = pruner(Cut("l1", *ratios(0.5)))
    kept = copy.deepcopy(slim.model.state_dict())

    def repaired(dense, model, plan, dataset, *, samples, seed, place):
        torch.nn.init.constant_(model[-1].weight, 0.0)
        torch.nn.init.constant_(model[-1].bias, 0.0)
        model[-1].bias.data[seed] = 1.0  # every image is of this class
        return model

    monkeypatch.setattr(work, "repaired", repaired)
    study = dataclasses.replace(STUDY, criteria=("l1",), regimes=("repair", "repair-finetune"))
    results = ran(data, tmp_path, study, lambda cut: slim)
    _, *repaired = results.records
    assert trainings.count == 2  # the two seeds of repair-finetune
    for record in repaired[:2]:
        share = 100 * (data.y_test == record.cell.seed).double().mean().item()
        assert record.metrics["accuracy"] == pytest.approx(share)
        assert (record.epochs, record.samples, record.compute) == (0, 0, 0.0)
        assert record.cut == results.records[-1].cut
    assert all(torch.equal(kept[name], x) for name, x in slim.model.state_dict().items())


def test_what_was_not_cut_is_not_repaired(data, tmp_path):
    study = dataclasses.replace(STUDY, regimes=("repair",))
    with pytest.raises(InputError, match=r"l1, ratio 0\.5, repair, seed 0: nothing was cut"):
        ran(data, tmp_path, study, lambda cut: candidate())


def test_a_killed_study_goes_on_where_it_stopped(data, tmp_path, monkeypatch):
    whole = ran(data, tmp_path / "whole")
    with monkeypatch.context() as patch:
        Trainings(patch, fail_at=6)
        with pytest.raises(KeyboardInterrupt):
            ran(data, tmp_path / "killed")
    trainings, pruner = Trainings(monkeypatch), Pruner()
    resumed = ran(data, tmp_path / "killed", pruner=pruner)
    assert trainings.count == (CELLS - 1) - 5
    assert pruner.asked == []  # the networks lie in the folder
    assert timeless(resumed) == timeless(whole)


def timeless(results):
    return [dataclasses.replace(record, seconds=0.0) for record in results.records]


def test_a_finished_study_runs_nothing(data, tmp_path, monkeypatch):
    first = ran(data, tmp_path)
    trainings, pruner = Trainings(monkeypatch), Pruner()
    assert ran(data, tmp_path, pruner=pruner) == first
    assert (trainings.count, pruner.asked) == (0, [])


def test_a_changed_setting_is_run_anew(data, tmp_path, monkeypatch):
    ran(data, tmp_path)
    trainings = Trainings(monkeypatch)
    ran(data, tmp_path, dataclasses.replace(STUDY, base=Schedule(epochs=3, lr=0.1, batch=50)))
    assert trainings.count == CELLS - 1


@pytest.mark.parametrize("damage", ["", "{", "{}", "[1]", '"text"', "null"])
def test_a_damaged_cell_is_run_again(data, tmp_path, monkeypatch, damage):
    study = dataclasses.replace(STUDY, criteria=("l1",), regimes=("finetune",))
    first = ran(data, tmp_path, study)
    damaged = first.records[1].cell
    (tmp_path / "cells" / f"{damaged.id}.json").write_text(damage)
    trainings = Trainings(monkeypatch)
    assert timeless(ran(data, tmp_path, study)) == timeless(first)
    assert trainings.count == 1


def test_the_record_of_another_cell_is_not_taken(data, tmp_path, monkeypatch):
    study = dataclasses.replace(STUDY, criteria=("l1",), regimes=("finetune",))
    one, two = ran(data, tmp_path, study).records[1:]
    path = tmp_path / "cells"
    (path / f"{one.cell.id}.json").write_text((path / f"{two.cell.id}.json").read_text())
    trainings = Trainings(monkeypatch)
    assert ran(data, tmp_path, study).records[1].cell == one.cell
    assert trainings.count == 1


def test_the_models_stay_as_they_were(data, tmp_path):
    dense, slim = candidate(), Pruner()(Cut("l1", *ratios(0.5)))
    dense.model.train()
    before = copy.deepcopy([dense.model.state_dict(), slim.model.state_dict()])
    ran(data, tmp_path, pruner=lambda cut: slim, dense=dense)
    after = [dense.model.state_dict(), slim.model.state_dict()]
    assert dense.model.training
    for old, new in zip(before, after, strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)


class Uncopied(nn.Sequential):
    """What ``copy.deepcopy`` cannot copy, and pickle cannot either."""

    def __deepcopy__(self, memo):
        raise TypeError("not to be copied")

    __reduce_ex__ = __deepcopy__


def test_a_network_that_python_cannot_copy_is_retrained(data, tmp_path):
    model = Uncopied(*net())
    dense = dataclasses.replace(candidate(), model=model)

    def cut(asked):
        return slim_candidate(slimnet.prune(model, IMAGE, align=None, **asked.budget.options))

    study = dataclasses.replace(STUDY, criteria=("l1",))
    own = ran(data, tmp_path / "own", study, cut, dense)
    assert timeless(own) == timeless(ran(data, tmp_path / "plain", study))


def test_dense_networks_are_retrained_where_asked(data, tmp_path):
    study = dataclasses.replace(STUDY, criteria=("l1",), dense_regimes=("scratch-b",))
    results = ran(data, tmp_path, study)
    retrained = [r for r in results.records if r.cell.criterion is None and r.cell.regime]
    assert [record.epochs for record in retrained] == [4, 4]


def test_progress_counts_every_cell(data, tmp_path):
    seen = []
    ran(data, tmp_path, progress=seen.append)
    assert seen[-1].done == seen[-1].total == CELLS
    assert [status.done for status in seen] == sorted(status.done for status in seen)
    again = []
    ran(data, tmp_path, progress=again.append)
    assert again == []


def test_results_survive_the_file(data, tmp_path):
    results = ran(data, tmp_path)
    path = write_results(results, tmp_path)
    assert read_results(path) == results
    assert (
        json.loads(path.read_text())["summary"][0]["metrics"]["accuracy"]["mean"]
        == results.summary()[0].first.mean
    )
    assert not [name for name in tmp_path.iterdir() if name.name.startswith(".")]


def test_a_cell_that_fails_is_named(data, tmp_path):
    study = dataclasses.replace(STUDY, base=Schedule(epochs=4, lr=1e30, batch=50))
    with pytest.raises(
        InputError, match=r"^l1, ratio 0.5, finetune, seed 0: the training diverged"
    ):
        ran(data, tmp_path, study)


def test_a_folder_that_cannot_be_written_is_refused(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cells cannot be made"):
        ran(data, tmp_path / "file" / "study")
    with pytest.raises(InputError, match="cannot be written"):
        write_results(ran(data, tmp_path / "fine"), tmp_path / "file")


def test_results_that_are_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_results(tmp_path / "absent.json")
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="not the results of a study"):
        read_results(tmp_path / "other.json")


def test_an_unknown_engine_lists_the_known_ones(data, tmp_path):
    with pytest.raises(
        UnknownNameError, match="unknown study engine 'cloud': the known ones are local, processes"
    ):
        ran(data, tmp_path, engine="cloud")


def test_a_candidate_that_cannot_be_recorded_is_refused_before_it_is_trained():
    with pytest.raises(TypeError, match="not JSON serializable"):
        candidate(8, achieved={"error": object()})
    with pytest.raises(InputError, match="0 MACs"):
        Candidate(net(8), Facts(macs=0, params=1))


def tenfold(cell, progress):
    progress(0.5)
    return cell * 10


@pytest.mark.parametrize("name", list(ENGINES))
def test_every_engine_gives_the_records_in_the_cells_order(name):
    told = []
    run = Run(tenfold, lambda cell, part: told.append((cell, part)))
    assert ENGINES[name]([3, 1, 2], run) == [30, 10, 20]
    assert {(cell, 1.0) for cell in (1, 2, 3)} <= set(told)
    assert ENGINES[name]([], run) == []


def test_an_engine_may_run_cells_in_threads(data, tmp_path, monkeypatch):
    def threads(cells, run):
        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(run, cells))

    monkeypatch.setitem(ENGINES._entries, "threads", threads)
    pruner = Pruner()
    alone, together = (
        ran(data, tmp_path / name, engine=name, pruner=pruner) for name in ("local", "threads")
    )
    assert timeless(alone) == timeless(together)
