"""A cell's id follows everything that decides its outcome, and nothing else."""

import dataclasses
import json
from itertools import pairwise

import pytest
import torch
from torch import nn

from slimnet.errors import InputError, UnknownNameError
from slimnet.study import Study
from slimnet.study.budget import ratios
from slimnet.study.cells import cells
from slimnet.tasks.data import load_data
from slimnet.train import REGIMES, Schedule

STUDY = Study(
    ratios(0.3, 0.5), ("l1", "random"), ("finetune", "scratch-b"), (0, 1), Schedule(epochs=4)
)


@pytest.fixture(scope="module")
def data():
    return load_data("digits").limited(train=50, test=50)


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def ids(study, model, data):
    return [cell.id for cell in cells(study, model, data)]


def test_there_is_one_cell_per_combination_and_one_dense(data):
    planned = cells(STUDY, net(), data)
    assert len(planned) == 1 + 2 * 2 * 2 * 2
    assert len({cell.id for cell in planned}) == len(planned)
    assert [cell.is_baseline for cell in planned].index(True) == 0
    retrained = dataclasses.replace(STUDY, dense_regimes=("finetune",))
    assert len(cells(retrained, net(), data)) == len(planned) + 2


def test_cells_of_one_network_stand_together(data):
    networks = [cell.cut for cell in cells(STUDY, net(), data)]
    changes = sum(a != b for a, b in pairwise(networks))
    assert changes == len(set(networks)) - 1


def test_what_is_not_cut_has_no_cell_that_starts_with_a_repair(data):
    study = dataclasses.replace(
        STUDY,
        budgets=ratios(0.5),
        criteria=("l1", "unstructured"),
        regimes=("repair", "finetune"),
        seeds=(0,),
    )
    planned = [(c.criterion, c.regime) for c in cells(study, net(), data) if c.cut]
    assert planned == [("l1", "repair"), ("l1", "finetune"), ("unstructured", "finetune")]


def test_ids_are_the_same_again(data):
    assert ids(STUDY, net(), data) == ids(STUDY, net(), data)
    survived = Study.from_json(json.loads(json.dumps(STUDY.to_json())))
    assert survived == STUDY
    assert ids(survived, net(), data) == ids(STUDY, net(), data)


@pytest.mark.parametrize(
    "change",
    [{"base": Schedule(epochs=5)}, {"settings": {"align": 16}}],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_setting_changes_every_retrained_cell(data, change):
    before, after = ids(STUDY, net(), data), ids(dataclasses.replace(STUDY, **change), net(), data)
    assert not set(before[1:]) & set(after[1:])


def test_other_weights_or_data_change_every_cell(data):
    before = ids(STUDY, net(), data)
    assert not set(before) & set(ids(STUDY, net(1), data))
    assert not set(before) & set(ids(STUDY, net(), data.limited(test=49)))


def test_a_changed_regime_changes_its_own_cells_only(data, monkeypatch):
    before = ids(STUDY, net(), data)
    longer = dataclasses.replace(REGIMES["finetune"], epochs=0.5)
    monkeypatch.setitem(REGIMES._entries, "finetune", longer)
    kept = set(before) & set(ids(STUDY, net(), data))
    assert len(kept) == 1 + 2 * 2 * 2


def test_more_seeds_keep_the_cells_that_were(data):
    more = dataclasses.replace(STUDY, seeds=(0, 1, 2), budgets=ratios(0.5, 0.7))
    kept = set(ids(STUDY, net(), data)) & set(ids(more, net(), data))
    assert len(kept) == 1 + 2 * 2 * 2


@pytest.mark.parametrize(
    ("fields", "error", "sentence"),
    [
        ({"budgets": ()}, InputError, "a study needs budgets"),
        ({"seeds": (0, 0)}, InputError, "each once"),
        ({"scopes": ("nowhere",)}, InputError, "unknown scope 'nowhere'"),
        ({"scopes": ()}, InputError, "a study needs scopes, at least one and each once: none"),
        ({"regimes": ("magic",)}, UnknownNameError, "unknown regime 'magic': the known ones are"),
        ({"dense_regimes": ("magic",)}, UnknownNameError, "unknown regime 'magic'"),
    ],
)
def test_a_study_that_cannot_run_is_refused(fields, error, sentence):
    with pytest.raises(error, match=sentence):
        dataclasses.replace(STUDY, **fields)
