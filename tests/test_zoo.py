"""The benchmark's lists and its arithmetic; the networks themselves are the benchmark's work."""

import operator
import sys
from pathlib import Path

import pytest

from slimnet.networks.arch import Arch
from slimnet.networks.sources import torchvision_names

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from zoo_networks import TIMM_LIST, built, timm_families, torchvision_families
from zoo_table import HEADER, line, summarised

GOOD = {
    "model": "resnet18",
    "family": "",
    "outcome": "certified",
    "forward_s": 0.5,
    "slimnet_s": 2.5,
    "verified_s": 70.0,
    "proof_error": 1e-15,
    "exact": True,
    "slimnet_removed": 0.7,
    "slimnet_macs_removed": 0.6,
    "peak_bytes": 3e6,
    "memory": 1.5,
    "reload": "equal",
    "torch_pruning_s": 5.0,
    "torch_pruning_removed": 0.8,
}
REFUSED = {"model": "a", "family": "", "outcome": "refused", "reason": "PruneError: no"}
HUNG = {"model": "b", "family": "", "outcome": "hung", "torch_pruning_error": "no result"}


def test_all_of_torchvision_is_in_the_zoo():
    assert list(torchvision_families()) == torchvision_names()
    assert len(torchvision_names()) >= 109


def test_the_list_has_a_network_of_every_family_of_timm():
    timm = pytest.importorskip("timm")
    from timm.models._registry import _model_to_module as family_of

    assert {name: family_of[name] for name in timm_families()} == timm_families()
    if f" timm {timm.__version__}:" in TIMM_LIST.read_text().splitlines()[0]:
        assert set(timm_families().values()) == set(family_of.values())


def test_the_summary_answers_each_bar():
    answers = summarised([GOOD, REFUSED, HUNG])
    assert answers["certified"] == "1 of 3 (33.3%)"
    assert answers["certified or refused by name"] == "2 of 3 (66.7%)"
    assert answers["certified with >= 40% of the parameters gone"] == "1 of 3 (33.3%)"
    assert (answers["refused"], answers["crashed"], answers["hung"]) == ("a", "none", "b")
    assert answers["above the memory bar"] == "resnet18 (by 1 MB)"
    assert answers["more than 60 s"] == "none"
    assert answers["more than 60 s with the proof"] == "resnet18"
    assert answers["slowest cut, s"] == "2.0 (resnet18)"
    assert answers["equal to the bit in a fresh process"] == "1 of 1 (100.0%)"
    assert answers["Torch-Pruning fails on"] == "b"
    assert answers["slimnet removes less on"] == "resnet18"
    assert answers["times faster, median"] == "2.00"


def test_a_line_has_a_cell_per_column_and_the_troubles_below():
    assert len(line(GOOD)) == len(HEADER)
    assert line(REFUSED).splitlines()[1:] == ["    reason: PruneError: no"]
    assert "reload: differs: by 1.0" in line({**GOOD, "reload": "differs: by 1.0"})


def test_the_weights_are_the_same_every_time_and_behave():
    (one, example, weights), (two, *_) = (built(Arch("slimnet", "digits_resnet")) for _ in "ab")
    states = one.state_dict(), two.state_dict()
    assert all(states[0][name].equal(states[1][name]) for name in states[0])
    assert one(*example).isfinite().all()
    assert weights == "He"
    assert not one.training


def test_what_torch_pruning_is_told_by_hand_exists(monkeypatch):
    pytest.importorskip("torch_pruning")
    monkeypatch.setenv("TIMM_FUSED_ATTN", "0")  # the module sets it; here it ends with the test
    from zoo_torch_pruning import BY_HAND

    names = torchvision_names()
    first = {start: next(n for n in names if n.startswith(start)) for start in BY_HAND}
    for start, name in first.items():
        model = Arch("torchvision", name).build()
        for path in BY_HAND[start].split():
            assert operator.attrgetter(path)(model) is not None
