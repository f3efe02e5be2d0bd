"""What a study keeps of a cut and of a measurement is what they say."""

import json

import pytest
import torch
from torch import nn

import slimnet
from slimnet.export import Latency, Speedup, Timing
from slimnet.report.words import speed_sentence
from slimnet.study import (
    Candidate,
    Facts,
    LatencyFacts,
    Study,
    latency_facts,
    run_study,
    slim_candidate,
)
from slimnet.study.budget import ratios
from slimnet.tasks.data import load_data
from slimnet.train import Schedule


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 36, 10),
    )


EXAMPLE = (torch.zeros(1, 1, 8, 8),)
DENSE_MACS = 36 * 16 * 9 + 16 * 36 * 10


def made(**options):
    return slimnet.prune(net(), EXAMPLE, ratio=0.5, align=None, **options)


def test_a_cut_becomes_a_candidate_with_its_figures():
    candidate = slim_candidate(made(), LatencyFacts(1.0, speedup=2.0))
    facts = candidate.facts
    assert facts.macs == DENSE_MACS / 2
    assert facts.channels_removed == 0.5
    assert facts.params == sum(p.numel() for p in candidate.model.parameters())
    assert facts.certificate.error < facts.certificate.tolerance
    (group,) = facts.groups
    assert (group["before"], group["after"]) == (16, 8)
    assert facts.latency.speedup == 2.0
    assert Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


def test_a_cut_without_a_proof_stays_without():
    assert slim_candidate(made(verify=False)).facts.certificate is None


def test_a_real_cut_goes_through_a_study(tmp_path):
    cost = slimnet.cost(net(), EXAMPLE)
    dense = Candidate(net(), Facts(cost.macs, cost.params))
    study = Study(
        ratios(0.5), ("l1",), ("finetune", "scratch-b"), (0,), Schedule(epochs=2, lr=0.02)
    )
    data = load_data("digits").limited(train=200, test=100)
    results = run_study(
        study, lambda cut: slim_candidate(made()), dense, data, tmp_path, device="cpu"
    )
    rows = results.summary()
    assert [row.macs_ratio for row in rows] == [1, 0.5, 0.5]
    assert [row.epochs for row in rows] == [0, 1, 4]
    assert rows[2].compute == pytest.approx(2 * 200 * DENSE_MACS)


def test_a_measurement_keeps_its_spread():
    latency = Latency(
        timings=(Timing("dense", 2.0, 1.9, 2.2), Timing("slim", 1.0, 0.9, 1.3)),
        speedups=(Speedup("slim", "dense", 2.0, 1.6, 2.3),),
        backend="torch",
        provider="CPU",
        device="a machine",
        threads=1,
        batch=1,
        rounds=30,
        versions={},
    )
    assert latency_facts(latency, "dense").to_json() == {
        "median_ms": 2.0,
        "low_ms": 1.9,
        "high_ms": 2.2,
        "speedup": 1.0,
    }
    slim = latency_facts(latency, "slim")
    assert (slim.median_ms, slim.speedup) == (1.0, 2.0)
    assert (slim.speedup_low, slim.speedup_high, slim.verdict) == (1.6, 2.3, "faster")
    assert LatencyFacts.from_json(slim.to_json()) == slim


def test_a_report_says_what_the_measurement_has_judged():
    measured = LatencyFacts(1.0, 0.9, 1.1, 1.2, 1.05, 1.4, verdict="undecided")
    assert speed_sentence(measured).startswith("Not measurably faster than the dense network: 1.20")
    older = LatencyFacts.from_json(
        {"median_ms": 1.0, "speedup": 1.2, "speedup_low": 1.05, "speedup_high": 1.4}
    )
    assert speed_sentence(older).startswith("Faster than the dense network: 1.20")
