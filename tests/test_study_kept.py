"""What a study trained is kept: loadable, proven, as ONNX, and named where results are."""

import dataclasses
import json
import re

import numpy as np
import onnxruntime
import pytest
import torch
from small_study import IMAGE, SPEC, STUDY, Pruner, candidate, net
from small_study import ran as run

import slimnet
from slimnet.comparison import write_comparison
from slimnet.errors import UnknownNameError
from slimnet.report import NetworkReport
from slimnet.study import KEEP, Results, work
from slimnet.task import Metric
from slimnet.train import Schedule, measure

ONE = dataclasses.replace(
    STUDY,
    criteria=("l1",),
    regimes=("finetune", "repair"),
    base=Schedule(epochs=4, lr=0.1, batch=50),
)


@pytest.fixture(scope="module")
def data():
    return SPEC.load()


@pytest.fixture(scope="module")
def kept(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    return folder, ran(data, folder, ONE, keep="best")


def ran(*arguments, **options):
    return run(*arguments, dense=dataclasses.replace(candidate(), example=IMAGE), **options)


def record_of(results, one):
    return next(record for record in results.records if record.cell == one.cell)


def test_of_each_row_the_best_seed_is_kept_and_the_others_leave(kept):
    folder, results = kept
    rows = [(one.cell.criterion, one.cell.regime) for one in results.kept]
    assert rows == [(None, None), ("l1", "finetune"), ("l1", "repair")]
    for one in results.kept:
        seeds = [
            record.metrics["accuracy"]
            for record in results.records
            if (record.cell.criterion, record.cell.regime) == (one.cell.criterion, one.cell.regime)
        ]
        assert record_of(results, one).metrics["accuracy"] == max(seeds)
    assert not (folder / "trained").exists()
    assert len(list((folder / "kept").iterdir())) == 3 * len(rows)


def test_which_way_is_better_is_the_metrics_own(kept):
    _, results = kept
    lower = dataclasses.replace(results, metrics=(Metric("accuracy", best="lowest"),))
    chosen = {cell.regime: cell for cell in KEEP["best"](lower)}
    accuracies = {
        record.cell: record.metrics["accuracy"]
        for record in results.records
        if record.cell.regime == "finetune"
    }
    assert accuracies[chosen["finetune"]] == min(accuracies.values())


def test_a_kept_network_is_what_was_tested_with_its_proof_and_its_onnx(kept, data):
    folder, results = kept
    for one in results.kept:
        model = slimnet.load(folder / one.file)  # no class is needed
        assert measure(model, data, "cpu") == pytest.approx(record_of(results, one).metrics)
        x = torch.randn(3, 1, 8, 8)
        session = onnxruntime.InferenceSession(folder / one.onnx)
        (told,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            assert np.allclose(told, model(x).numpy(), atol=1e-4)
        assert "equals PyTorch within" in one.said
    trained = results.kept[1]
    assert slimnet.verify(folder / trained.file, net()).changed
    own = slimnet.load(folder / trained.file, net())
    assert isinstance(own, torch.nn.Sequential) and own[1].out_features == 16


def test_results_and_page_name_what_is_kept(kept, tmp_path):
    folder, results = kept
    assert Results.from_json(json.loads(json.dumps(results.to_json()))) == results
    network = NetworkReport("net", results.dense.facts, (), results, folder)
    for place in (folder, folder.parent):
        page = write_comparison(place, "title", "command", [network]).read_text()
        links = re.findall(r'href="([^":]*kept/[^"]+)"', page)
        assert len(links) == 2 * len(results.kept)
        assert all((place / link).is_file() for link in links)
        listed = json.loads((place / "results.json").read_text())["net"]["kept"]
        assert all((place / one["file"]).is_file() for one in listed)


def test_a_finished_study_keeps_what_it_kept_and_makes_nothing_again(kept, data):
    folder, results = kept
    before = {path: path.stat().st_mtime_ns for path in (folder / "kept").iterdir()}
    assert ran(data, folder, ONE, keep="best") == results
    assert ran(data, folder, ONE).kept == ()
    assert {path: path.stat().st_mtime_ns for path in (folder / "kept").iterdir()} == before


def test_what_was_not_kept_then_is_said_to_be_gone(data, tmp_path, caplog):
    one = dataclasses.replace(ONE, seeds=(0,), regimes=("finetune",))
    ran(data, tmp_path, one)
    found = ran(data, tmp_path, one, keep="all")
    assert [kept.cell.regime for kept in found.kept] == [None]
    assert "1 network cannot be kept: the cells were run before" in caplog.text


def test_a_kill_before_the_networks_are_kept_loses_none(data, tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    one = dataclasses.replace(ONE, seeds=(0,), regimes=("finetune",))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("slimnet.study.run.keep_networks", killed)
        ran(data, tmp_path, one, keep="all")
    monkeypatch.setattr(work, "train", None)
    assert len(ran(data, tmp_path, one, keep="all").kept) == 2
    assert not (tmp_path / "trained").exists()


def test_a_network_without_an_onnx_form_is_kept_and_the_reason_said(data, tmp_path, monkeypatch):
    def refusing(model, example, path, **options):
        raise slimnet.errors.InputError("there is no such operator\nmore")

    monkeypatch.setattr("slimnet.study.kept.export_onnx", refusing)
    one = dataclasses.replace(ONE, seeds=(0,), regimes=("finetune",))
    for kept in ran(data, tmp_path, one, keep="all").kept:
        assert (kept.onnx, kept.said) == (None, "no ONNX: there is no such operator")


def test_an_unknown_choice_is_refused_before_anything_runs(data, tmp_path):
    pruner = Pruner()
    with pytest.raises(UnknownNameError, match="unknown choice of networks to keep 'some': the"):
        ran(data, tmp_path, pruner=pruner, keep="some")
    assert pruner.asked == []
