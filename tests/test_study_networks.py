"""The networks of a study lie in its folder as files of slimnet's own, made once."""

import dataclasses
import json
import logging

import pytest
import torch
from small_study import IMAGE, SPEC, STUDY, Pruner, candidate, net, ran
from torch import nn

import slimnet
from slimnet.files.artifact import read_artifact
from slimnet.models import MODELS
from slimnet.networks.arch import Arch
from slimnet.study import Candidate, Facts, facts_of, slim_candidate
from slimnet.study.budget import ratios
from slimnet.study.cells import Cut
from slimnet.train import Schedule

SMALL = dataclasses.replace(
    STUDY, criteria=("l1",), regimes=("finetune",), seeds=(0,), base=Schedule(epochs=1, batch=100)
)


@pytest.fixture(scope="module")
def data():
    return SPEC.load()


def forget_cells(folder):
    for path in (folder / "cells").iterdir():
        path.unlink()


def files_in(folder):
    return sorted(path.name.rpartition("-")[0] + path.suffix for path in folder.iterdir())


def test_each_network_is_two_files_and_is_made_once(data, tmp_path):
    ran(data, tmp_path, SMALL)
    assert files_in(tmp_path / "networks") == ["dense.json", "dense.pt", "l1-0.5.json", "l1-0.5.pt"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "networks").iterdir()}
    forget_cells(tmp_path)
    pruner = Pruner()
    ran(data, tmp_path, dataclasses.replace(SMALL, seeds=(0, 1)), pruner)
    assert pruner.asked == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "networks").iterdir()} == before


def test_a_network_of_a_study_is_a_slim_network_as_any_other(data, tmp_path):
    ran(data, tmp_path, SMALL)
    (path,) = (tmp_path / "networks").glob("l1-*.pt")
    assert slimnet.verify(path, net()).exact
    cut = Pruner()(Cut("l1", *ratios(0.5)))
    loaded = slimnet.load(path, net()).state_dict()
    assert all(torch.equal(loaded[name], t) for name, t in cut.model.state_dict().items())
    facts = json.loads(path.with_suffix(".json").read_text())
    assert Facts.from_json(facts) == cut.facts
    assert facts["certificate"]["exact"]


@pytest.mark.parametrize("file", ["dense*.pt", "dense*.json", "l1*.pt", "l1*.json"])
def test_a_damaged_network_is_set_aside_and_made_again(file, data, tmp_path, caplog):
    first = ran(data, tmp_path, SMALL)
    (path,) = (tmp_path / "networks").glob(file)
    raw = bytearray(path.read_bytes())
    place = raw.index(b"params") + 9 if path.suffix == ".json" else len(raw) // 2
    raw[place] ^= 1
    path.write_bytes(raw)
    forget_cells(tmp_path)
    pruner = Pruner()
    with caplog.at_level(logging.WARNING):
        again = ran(data, tmp_path, SMALL, pruner)
    assert len(pruner.asked) == file.startswith("l1")
    assert [r.metrics for r in again.records] == [r.metrics for r in first.records]
    whole = path.with_suffix(".pt")
    assert caplog.messages == [
        f"{whole} is damaged: it is kept as {whole.name}.damaged, and the network is made again"
    ]
    assert path.with_name(f"{path.name}.damaged").read_bytes() == raw


def test_files_of_two_networks_are_not_taken_for_one(data, tmp_path, caplog):
    study = dataclasses.replace(SMALL, criteria=("l1", "random"))
    first = ran(data, tmp_path, study)
    one, two = ((tmp_path / "networks").glob(f"{name}*.pt") for name in ("l1", "random"))
    next(one).write_bytes(next(two).read_bytes())
    forget_cells(tmp_path)
    pruner = Pruner()
    again = ran(data, tmp_path, study, pruner)
    assert pruner.asked == [("l1", 0.5)]
    assert "l1-0.5" in caplog.text and "is damaged" in caplog.text
    assert [r.metrics for r in again.records] == [r.metrics for r in first.records]


def test_a_damaged_repair_is_made_again(data, tmp_path, caplog):
    study = dataclasses.replace(SMALL, regimes=("repair",))
    first = ran(data, tmp_path, study)
    (path,) = (tmp_path / "networks").glob("*-repaired-0.pt")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    forget_cells(tmp_path)
    assert ran(data, tmp_path, study).records[1].metrics == first.records[1].metrics
    assert caplog.messages == [
        f"{path} is damaged: it is kept as {path.name}.damaged, and the repair is made again"
    ]


def digits_vgg():
    torch.manual_seed(0)
    return MODELS["digits_vgg"].make().eval()


def test_a_network_that_a_name_builds_needs_no_class(data, tmp_path):
    """Nor one that was cut before: its cuts are then relative to what it was."""
    dense = digits_vgg()
    cut = slimnet.prune(dense, IMAGE, ratio=0.25, verify=False)
    slim = slim_candidate(slimnet.prune(cut.model, IMAGE, ratio=0.5, verify=False))
    arch = Arch("slimnet", "digits_vgg")
    once = dataclasses.replace(slim_candidate(cut), example=IMAGE)
    results = [
        ran(data, tmp_path / name, SMALL, lambda cut: slim, start, **options)
        for name, start, options in (
            ("named", once, {"arch": arch}),
            ("unnamed", Candidate(cut.model, facts_of(cut)), {}),
        )
    ]
    first, second = ([r.metrics for r in one.records] for one in results)
    assert first == second
    (path,) = (tmp_path / "named" / "networks").glob("dense*.pt")
    kept = slimnet.load(path).state_dict()
    assert all(torch.equal(kept[name], t) for name, t in cut.model.state_dict().items())
    (path,) = (tmp_path / "named" / "networks").glob("l1*.pt")
    assert read_artifact(path).arch is None  # it was cut from what the name does not build


def test_a_network_with_a_state_beside_its_tensors_is_retrained(data, tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()
            self.scale = 3.0

        def forward(self, x):
            return self.inner(x) * self.scale

    dense = dataclasses.replace(candidate(), model=Scaled())
    results = ran(data, tmp_path, SMALL, lambda cut: dense, dense)
    assert results.records[1].metrics["accuracy"] > 10
