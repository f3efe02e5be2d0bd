import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from slimnet import comparison
from slimnet.capture.modules import copied
from slimnet.comparison import (
    Settings,
    check_cuts,
    one_sample,
    run_comparison,
    write_comparison,
)
from slimnet.errors import InputError, PruneError
from slimnet.files.access import Opened
from slimnet.models import MODELS
from slimnet.network import Network
from slimnet.networks.payload import load_payload
from slimnet.repairs import repair
from slimnet.report import table
from slimnet.study import Study, repaired, work
from slimnet.study.budget import Budget, ratios
from slimnet.study.cells import Cut
from slimnet.study.masked import Masked, masked_candidate
from slimnet.tasks.data import load_data
from slimnet.timing.prune import prune
from slimnet.train import Schedule
from slimnet.train.masks import single_weights

EXAMPLE = (torch.zeros(1, *MODELS["digits_resnet"].input_shape),)
STUDY = Study(ratios(0.5), ("l1",), ("finetune",), (0,), Schedule(epochs=1, lr=0.05, batch=32))
SETTINGS = Settings(timed=False)
TIME = (Budget("latency", "0.5x"),)


@pytest.fixture(scope="module")
def data():
    return load_data("digits").limited(train=64, test=50)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MODELS["digits_resnet"].make().eval()


def cells_in(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}


def told(network):
    return json.dumps(network.results.to_json())


def run(model, data, folder, study=STUDY, settings=SETTINGS):
    return run_comparison(
        "net", model, EXAMPLE, data, study, folder, settings, lambda text, part: None
    )


def test_a_finished_study_is_read_and_a_changed_one_is_run(model, data, tmp_path):
    first = run(model, data, tmp_path)
    before = cells_in(tmp_path)
    assert len(before) == 2
    again = run(model, data, tmp_path)
    assert cells_in(tmp_path) == before
    assert told(again) == told(first)
    for settings in (
        Settings(prune={"align": None}, timed=False),
        Settings(prune={"layer_ratio": {"conv1": 0.2}}, timed=False),
        Settings(timed=False, threads=1),
    ):
        count = len(cells_in(tmp_path))
        run(model, data, tmp_path, settings=settings)
        assert len(cells_in(tmp_path)) == count + 2
    assert cells_in(tmp_path).items() >= before.items()


def test_criteria_read_the_settings_images_and_initial_weights(model, data, tmp_path):
    study = replace(STUDY, criteria=("taylor", "magnitude-increase"))
    with pytest.raises(InputError, match="taylor reads gradients"):
        check_cuts(model, EXAMPLE, study, SETTINGS)
    before = Network.of(MODELS["digits_resnet"].make())
    settings = replace(SETTINGS, data=data.samples(20), init=before)
    check_cuts(model, EXAMPLE, study, settings)
    run(model, data, tmp_path, study, settings)
    count = len(cells_in(tmp_path))
    other = Network.of(MODELS["digits_resnet"].make())
    for changed in ({"data": data.samples(30)}, {"init": other}):
        run(model, data, tmp_path, study, replace(settings, **changed))
        assert len(cells_in(tmp_path)) == count + 3
        count += 3


def test_repair_stands_beside_retraining_with_images_of_each_seed(data, tmp_path):
    torch.manual_seed(0)
    model = MODELS["digits_vgg"].make().eval()
    study = replace(STUDY, regimes=("repair", "finetune"), seeds=(0, 1), budgets=ratios(0.3))
    network = run(model, data, tmp_path, study, replace(SETTINGS, samples=48))
    _, *records = network.results.records
    assert [r.epochs for r in records] == [0, 0, 1, 1]
    page = write_comparison(tmp_path, "title", "slimnet compare", [network]).read_text()
    assert "by least squares and a few passes over some images, without labels" in page
    assert "order of the samples and the samples that a repair reads" in page
    count = len(cells_in(tmp_path))
    run(model, data, tmp_path, study, replace(SETTINGS, samples=32))
    assert len(cells_in(tmp_path)) == count + 5


def test_repaired_weights_are_those_of_repair(data, tmp_path):
    torch.manual_seed(0)
    model = MODELS["digits_vgg"].make().eval()
    cut = prune(model, EXAMPLE, ratio=0.5, verify=False)
    study = replace(STUDY, regimes=("repair",), seeds=(3,))
    run(model, data, tmp_path, study, replace(SETTINGS, samples=48, device="cpu"))
    (kept,) = (tmp_path / "networks").glob("*-repaired-3.pt")
    wanted, done = repair(
        Network.of(model), Network.of(cut.model), cut.plan, data.samples(48, 3).images, seed=3
    )
    assert done.solved
    ours, theirs = load_payload(kept)["weights"], wanted.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_repair_is_made_once_for_all_regimes_of_a_seed(model, data, tmp_path, monkeypatch):
    asked = []

    def counted(*arguments, **options):
        asked.append(options["seed"])
        return repair(*arguments, **options)

    monkeypatch.setattr(repaired, "repair", counted)
    study = replace(STUDY, regimes=("repair", "repair-finetune"), seeds=(0, 1))
    run(model, data, tmp_path, study, replace(SETTINGS, samples=16))
    assert asked == [0, 1]


def test_there_is_nothing_to_repair_where_nothing_is_cut(model):
    with pytest.raises(InputError, match="unstructured cuts nothing, so there is nothing to rep"):
        replace(STUDY, criteria=("l1", "unstructured"), regimes=("repair-finetune",))
    study = replace(STUDY, regimes=("repair-finetune",))
    with pytest.raises(InputError, match="repair needs at least 2 images"):
        check_cuts(model, EXAMPLE, study, replace(SETTINGS, samples=1))


def test_the_model_is_not_trained(model, data, tmp_path):
    before = {name: t.clone() for name, t in model.state_dict().items()}
    run(model, data, tmp_path)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_latency_is_kept_with_its_conditions(model, data, tmp_path):
    study = replace(STUDY, seeds=(0, 1))
    network = run(model, data, tmp_path, study, Settings(batch=3, threads=1))
    assert network.facts.latency is not None
    assert network.facts.latency.speedup == 1.0
    (slim,) = network.slim
    latency = slim.facts.latency
    assert latency is not None
    assert "batch 3, 1 thread," in latency.conditions
    assert "conv1" in latency.layers and min(latency.layers.values()) > 0
    text = write_comparison(tmp_path, "title", "slimnet compare", [network]).read_text()
    assert latency.conditions in text
    assert "Where the milliseconds go" in text and "<code>conv1</code>" in text
    assert "net" in json.loads((tmp_path / "results.json").read_text())
    assert network.results is not None
    assert table(network.results).row_count == 2


def test_a_cut_that_is_not_possible_is_found_before_anything_runs(model):
    with pytest.raises(PruneError, match="would leave"):
        check_cuts(model, EXAMPLE, replace(STUDY, budgets=ratios(0.5, 0.999)), SETTINGS)
    check_cuts(model, EXAMPLE, STUDY, SETTINGS)


@pytest.mark.parametrize(
    ("criterion", "budget", "sentence"),
    [
        ("l1", Budget("macs", 0.0001), r"^l1, MACs 0\.0001, global: .*cannot be met"),
        ("l1", Budget("bytes", "10B"), "^l1, 10B, global: "),
        ("taylor", Budget("latency", "0.5x"), "^taylor, time 0.5x, global: criterion taylor reads"),
        ("unstructured", Budget("macs", 0.5), r"^unstructured, MACs 0\.5: masked weights save"),
    ],
)
def test_what_is_refused_says_of_which_cut(model, criterion, budget, sentence):
    study = replace(STUDY, budgets=(budget,), criteria=(criterion,), scopes=("global",))
    with pytest.raises((InputError, PruneError), match=sentence):
        check_cuts(model, EXAMPLE, study, SETTINGS)


def test_a_cut_to_a_time_is_of_the_batch_of_the_study(model, monkeypatch):
    asked = []
    monkeypatch.setattr(comparison, "prune", lambda *_, **options: asked.append(options))
    cut, study = Cut("l1", Budget("latency", "0.5x")), replace(STUDY, budgets=TIME)
    for settings in (Settings(batch=8), Settings(batch=8, timed=False)):
        settings.cut(model, EXAMPLE, cut)
        assert asked[-1]["batch"] == 8
        other = replace(settings, batch=1)
        assert settings.to_json(EXAMPLE, study) != other.to_json(EXAMPLE, study)
    enormous = Settings(batch=10**12, timed=False)
    with pytest.raises(InputError, match="numbers"):
        check_cuts(model, EXAMPLE, study, enormous)
    check_cuts(model, EXAMPLE, STUDY, enormous)  # which times nothing


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 9)), r"does not run on inputs of shape \[1, 1, 8, 8\]"),
        (nn.Sequential(nn.Conv2d(1, 4, 3)), r"one score per class, \[N, classes\]"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
            "the data has 10 classes and the network 3 outputs",
        ),
    ],
)
def test_a_network_that_the_data_do_not_fit_is_refused(data, network, reason):
    with pytest.raises(InputError, match=reason):
        one_sample(Opened(network.eval(), None), data)
    assert one_sample(Opened(MODELS["digits_vgg"].make().eval(), None), data)[0].shape == (
        1,
        1,
        8,
        8,
    )


def test_the_zeros_of_single_weights_stay_in_every_regime(model, data, tmp_path, monkeypatch):
    ended, true = [], work.train

    def train(network, *arguments, **options):
        history = true(network, *arguments, **options)
        ended.append([weight.eq(0) for _, weight in single_weights(Network.of(network))])
        return history

    monkeypatch.setattr(work, "train", train)
    study = replace(STUDY, criteria=("unstructured",), regimes=("finetune", "scratch-e"))
    run(model, data, tmp_path, study)
    masked = masked_candidate(
        copied(Network.of(model)), Masked(model, "large-final", 0.5), macs=1
    ).model
    zeros = [weight.eq(0) for _, weight in single_weights(Network.of(masked))]
    assert all(torch.equal(*pair) for network in ended for pair in zip(network, zeros, strict=True))
    assert len(ended) == 2


def test_single_weights_zeroed_are_a_row_that_is_never_cut(model, data, tmp_path):
    study = replace(STUDY, criteria=("l1", "unstructured"))
    check_cuts(model, EXAMPLE, study, SETTINGS)
    network = run(model, data, tmp_path, study, replace(SETTINGS, keep="all"))
    assert [bool(kept.onnx) for kept in network.results.kept] == [True] * 3
    dense, cut, masked = network.results.records[0], *network.slim
    assert cut.facts.macs < masked.facts.macs == dense.facts.macs
    assert masked.facts.params < 0.51 * dense.facts.params
    assert masked.facts.certificate is None
    page = write_comparison(tmp_path, "title", "command", [network])
    assert "single weights are zero" in page.read_text()
