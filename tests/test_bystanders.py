"""Attributes that the recorded pass does not read: mended where they are one width, else said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import slimnet

IMAGE = (torch.randn(1, 8, 4, 4),)


def pruned(model, **options):
    return slimnet.prune(model.eval(), IMAGE, ratio=0.5, align=None, **options)


class Split(nn.Module):
    """As detectors do: one forward to train with, another one to export."""

    def __init__(self):
        super().__init__()
        self.c = 16
        self.one, self.m = nn.Conv2d(8, 32, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.two = nn.Conv2d(48, 8, 1)

    def forward(self, x):
        y = list(self.one(x).chunk(2, 1))
        return self.two(torch.cat([*y, self.m(y[-1])], 1))

    def forward_export(self, x):
        y = list(self.one(x).split((self.c, self.c), 1))
        return self.two(torch.cat([*y, self.m(y[-1])], 1))


def test_another_forward_runs_on_the_slim_network():
    found = pruned(Split())
    slim = found.model
    assert slim.c == 8 and torch.allclose(slim.forward_export(*IMAGE), slim(*IMAGE))
    assert not any("check it" in note for note in found.plan.notes)


class Fused(nn.Module):
    """As in RepVGG: the count is read when the block is fused."""

    def __init__(self, width, outer=None):
        super().__init__()
        self.in_channels, self.out_channels, self.stride = width, outer or width, 1
        self.conv = nn.Conv2d(width, self.out_channels, 3, padding=1)

    def forward(self, x):
        return self.conv(x).relu()

    def fuse(self):
        return torch.zeros(self.out_channels, self.in_channels, 3, 3) + self.conv.weight


@pytest.mark.parametrize("outer", [16, 32])
def test_a_block_can_be_fused_after_the_cut(outer):
    block = Fused(16, outer)
    model = nn.Sequential(nn.Conv2d(8, 16, 1), block, nn.Conv2d(outer, 4, 1))
    slim = pruned(model).model[1]
    assert (slim.in_channels, slim.out_channels, slim.stride) == (8, outer // 2, 1)
    assert slim.fuse().shape == slim.conv.weight.shape
    assert (block.in_channels, block.out_channels) == (16, outer)


def test_the_names_of_torchs_own_layers_tell_equal_widths_apart():
    model = nn.Sequential(nn.Conv2d(8, 16, 1), Fused(16), nn.Conv2d(16, 4, 1))
    slim = pruned(model, layer_ratio={"0": 0.25}).model[1]
    assert (slim.in_channels, slim.out_channels) == (12, 8) and slim.fuse().shape == (8, 12, 3, 3)


class Unclear(Split):
    """16 is the width of two groups, which lose different shares, and the size of the image."""

    def generate(self):
        return torch.zeros(self.c)


def test_what_could_be_several_widths_is_said():
    found = pruned(Unclear(), layer_ratio={"m": 0.25})
    assert found.model.c == 16
    (note,) = (note for note in found.plan.notes if "check it" in note)
    assert note == (
        "c = 16: left, though a width of that number was cut: which one another method means by it "
        "cannot be told, so check it before you call that method"
    )
    assert note in found.inspection.notes


def test_an_image_as_large_as_the_width_makes_it_unclear():
    found = slimnet.prune(Split().eval(), (torch.randn(1, 8, 16, 16),), ratio=0.5, align=None)
    assert found.model.c == 16 and any("c = 16" in note for note in found.plan.notes)


class Deep(nn.Module):
    """The number of its steps is as large as its width, and forward does read it."""

    def __init__(self):
        super().__init__()
        self.steps, self.a, self.b = 16, nn.Conv2d(8, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        y = self.a(x)
        for _ in range(self.steps):
            y = y * 1.1
        return self.b(y)


class Seeded(Deep):
    """An attribute as large as the width, which no method reads."""

    def __init__(self):
        super().__init__()
        self.steps, self.seed = 2, 16


def test_what_forward_reads_in_secret_is_put_back_and_said():
    found = pruned(Deep())
    assert found.model.steps == 16 and found.model.a.out_channels == 8
    assert found.certificate is not None and any("steps = 16" in note for note in found.plan.notes)


def test_without_a_proof_nothing_is_changed_that_the_pass_does_not_read():
    assert pruned(Split(), verify=False).model.c == 16


def test_what_no_method_names_stays_and_needs_no_note():
    found = pruned(Seeded())
    assert found.model.seed == 16 and not any("check it" in note for note in found.plan.notes)
