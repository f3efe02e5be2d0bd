"""A study that takes a second: a small network on digits, cut in earnest."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

import slimnet
from slimnet.study import Candidate, Facts, Study, run_study, slim_candidate
from slimnet.study.budget import ratios
from slimnet.tasks.data import DataSpec
from slimnet.train import Schedule

STUDY = Study(
    budgets=ratios(0.5),
    criteria=("l1", "random"),
    regimes=("finetune", "scratch-b"),
    seeds=(0, 1),
    base=Schedule(epochs=4, lr=0.1, batch=50),
)
CELLS = 1 + 2 * 2 * 2
SPEC = DataSpec("digits", train=200, test=100)
IMAGE = (torch.zeros(1, 1, 8, 8),)


def net(width=32):
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10)
    )


def candidate(width=32, **facts):
    return Candidate(net(width), Facts(macs=74 * width, params=77 * width + 10, **facts))


class Pruner:
    """Cuts the network, and knows how often."""

    def __init__(self):
        self.asked = []

    def __call__(self, cut):
        self.asked.append((cut.criterion, cut.budget.amount))
        return slim_candidate(
            slimnet.prune(net(), IMAGE, criterion=cut.criterion, align=None, **cut.budget.options)
        )


def ran(data, directory, study=STUDY, pruner=None, dense=None, **options):
    make, dense = pruner or Pruner(), dense or candidate()
    return run_study(study, make, dense, data, directory, device="cpu", **options)


def cells_of(folder):
    """Every cell's file, without what differs from run to run."""
    return {path.name: timeless(path) for path in sorted((folder / "cells").glob("*.json"))}


def timeless(path):
    fields = json.loads(path.read_text())
    del fields["digest"]
    return json.dumps({**fields, "seconds": 0.0, "latency": None, "memory": 0, "energy": 0})


def process(code, *arguments):
    """A fresh interpreter that knows the tests."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), *sys.path]))
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
