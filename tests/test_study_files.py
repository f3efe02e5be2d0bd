"""Cells and results that slimnet 0.1.0 wrote before networks were files still open.

``studies/`` holds what it wrote for the network and the images below, in two studies.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from slimnet.comparison import Settings, run_comparison
from slimnet.report import NetworkReport, Report, render, slim_networks, table
from slimnet.study import CellResult, Results, Study, work
from slimnet.study.budget import ratios
from slimnet.study.cells import cells
from slimnet.tasks.classification import Dataset, Normalize
from slimnet.train import Schedule

STORED = Path(__file__).parent / "studies"
EXAMPLE = (torch.zeros(1, 1, 6, 6),)
SETTINGS = Settings(
    prune={"align": None, "min_channels": 1, "seed": 0}, batch=2, threads=1, device="cpu"
)
BASE = Schedule(epochs=2, lr=0.01, batch=8)
STUDIES = (
    Study(ratios(0.5), ("l1", "unstructured"), ("finetune", "scratch-b"), (0,), BASE),
    Study(ratios(0.5), ("l1",), ("repair",), (0,), BASE),
)


def net():
    layers = nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(8 * 16, 3))
    for number, parameter in enumerate(model.parameters()):
        wave = torch.sin(torch.arange(parameter.numel()) * 37 % 101 + number).double()
        parameter.data = wave.mul(64).round().div(256).float().reshape(parameter.shape)
    return model.eval()


def data():
    images = (torch.arange(24 * 36) * 7919 % 256).to(torch.uint8).reshape(24, 1, 6, 6)
    labels, none = torch.arange(24) % 3, Normalize("none", (0.0,), (1.0,))
    return Dataset("made", images[:16], labels[:16], images[16:], labels[16:], 3, none)


def stored():
    return [json.loads(path.read_text()) for path in (STORED / "cells").iterdir()]


LATER = {"losses": [], "curve": [], "best": None, "rates": 1, "memory": None, "energy": None}


def test_every_cell_is_read_and_says_the_same():
    for fields in stored():
        digest = fields.pop("digest")
        told = json.loads(json.dumps(CellResult.from_json(fields).to_json()))
        before, after = (fields.pop(name) for name in ("accuracy_cut", "accuracy"))
        expected = {**fields, "cut": {"accuracy": before}, "metrics": {"accuracy": after}}
        if fields["certificate"] is not None:  # what came later
            expected["certificate"] = {**fields["certificate"], "outputs": []}
        later = {name: told.pop(name) for name in LATER}
        assert told == expected, digest
        assert later == LATER


def test_results_are_read_and_say_the_same():
    (fields,) = json.loads((STORED / "results.json").read_text()).values()
    del fields["digest"]
    results = Results.from_json(fields)
    again = Results.from_json(json.loads(json.dumps(results.to_json())))
    assert again == results
    for row, then in zip(results.to_json()["summary"], fields["summary"], strict=True):
        assert {row.pop(name) for name in ("best", "memory", "energy")} == {None}  # came later
        found = row.pop("metrics")["accuracy"]
        named = {
            "accuracy_cut": "cut",
            "accuracy": "mean",
            "std": "std",
            "difference": "difference",
        }
        assert {**row, **{name: found[own] for name, own in named.items()}} == then
    assert table(results).row_count == 5
    network = NetworkReport("net", results.dense.facts, slim_networks(results), results)
    assert "Proven: the slim network" in render(Report("title", "command", [network]))


@pytest.mark.parametrize("study", STUDIES, ids=("two criteria", "repair"))
def test_cells_have_the_ids_that_they_had(study):
    whole = replace(study, settings=SETTINGS.to_json(EXAMPLE, study))
    planned = {replace(cell, version="0.1.0").id for cell in cells(whole, net(), data())}
    assert planned <= {path.stem for path in (STORED / "cells").iterdir()}


def test_a_finished_folder_is_read_and_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "run_cell", None)
    monkeypatch.setattr("slimnet.study.cells.Cell.__init__.__defaults__", ("0.1.0",))
    shutil.copytree(STORED, tmp_path, dirs_exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    for study in STUDIES:
        network = run_comparison(
            "net", net(), EXAMPLE, data(), study, tmp_path, SETTINGS, lambda text, part: None
        )
        assert {record.cell.id for record in network.results.records} <= {
            path.stem for path in (STORED / "cells").iterdir()
        }
    assert sorted(tmp_path.rglob("*")) == before
