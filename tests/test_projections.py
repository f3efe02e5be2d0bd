"""A softmax that a frozen weight reads keeps its places; one that trains on may lose some.

A detector's distribution over bins (Li et al., Generalized Focal Loss, 2020) shows why. A cut of
its bins could be proven: the reference takes the softmax over the bins that survive. But the frozen
numbers 0, 1, 2 … are distances: without the last bins no box is as large as it was.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import slimnet

IMAGE = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
BINS = 16


class Boxes(nn.Module):
    """Four distances of each place: the mean of a distribution over bins; and the raw logits."""

    def __init__(self, project):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 4 * BINS, 1)
        self.project, self.count = project, BINS
        self.register_buffer("bins", torch.arange(float(BINS)))
        self.mean = nn.Conv2d(BINS, 1, 1, bias=False)
        self.mean.weight.data.copy_(self.bins.view(1, BINS, 1, 1))

    def forward(self, x):
        raw = self.b(self.a(x).relu())
        logits = raw.view(len(x), 4, self.count, -1)
        return {"distances": self.project(self, logits), "raw": raw}


def by_convolution(m, logits):
    return m.mean(logits.transpose(2, 1).softmax(1))


def by_product(m, logits):
    return F.linear(logits.transpose(2, 3).softmax(3), m.bins[None])


def by_sum(m, logits):
    return (logits.softmax(2) * m.bins.view(1, 1, -1, 1)).sum(2)


def boxes(project, *, trains=False):
    torch.manual_seed(0)
    model = Boxes(project).eval()
    model.mean.weight.requires_grad_(trains)
    return model


def layer(inspection, name):
    return next(layer for layer in inspection.layers if layer.name == name)


@pytest.mark.parametrize("project", [by_convolution, by_product, by_sum])
def test_the_bins_of_a_frozen_projection_stay_and_what_is_before_them_leaves(project):
    model = boxes(project)
    found = slimnet.inspect(model, IMAGE, outputs="distances")
    assert layer(found, "b").prunable == 0 and layer(found, "a").prunable == 32
    reason = str(layer(found, "b").reasons[0])
    assert "weighs a softmax over it by numbers that are not trained" in reason
    slim = slimnet.prune(model, IMAGE, ratio=0.5, outputs="distances")
    assert slim.model.b.out_channels == 4 * BINS and slim.model.a.out_channels == 16
    assert slim.certificate.exact


def test_a_projection_that_trains_holds_nothing():
    found = slimnet.inspect(boxes(by_convolution, trains=True), IMAGE, outputs="distances")
    assert layer(found, "b").prunable == 4 * BINS


def test_frozen_layers_hold_nothing_without_a_softmax_before_them():
    model = boxes(lambda m, logits: m.mean(logits.transpose(2, 1).sigmoid()))
    found = slimnet.inspect(model.requires_grad_(False), IMAGE, outputs="distances")
    assert layer(found, "b").prunable == 4 * BINS
