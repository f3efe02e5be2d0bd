"""What is written as ``.pt2`` opens without slimnet and computes the same."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import nn

import slimnet
from slimnet.example import tensors_of
from slimnet.export import ParityError, export_pt2
from slimnet.export.translate import ExportError
from slimnet.program.pt2 import read_pt2


class Gate(nn.Module):
    """Two inputs, one of them by name; nested outputs; a literal in the graph."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 32)
        self.last = nn.Linear(32, 4)

    def forward(self, x, *, gate):
        x = self.first(x).view(x.shape[0], 4, 8).flatten(1) * gate
        return {"scores": self.last(x), "parts": [x.mean(1)]}


def exported(tmp_path, model=None, batch=2):
    rows = {0: torch.export.Dim.AUTO}
    program = torch.export.export(
        model or Gate().eval(),
        (torch.randn(batch, 6),),
        {"gate": torch.randn(batch, 1)},
        dynamic_shapes={"x": rows, "gate": rows},
        strict=False,
    )
    torch.export.save(program, tmp_path / "net.pt2")
    return read_pt2(tmp_path / "net.pt2")


@pytest.mark.parametrize("batch", [1, 2])
def test_a_slim_program_is_called_like_the_dense_one(batch, tmp_path):
    opened = exported(tmp_path)
    inputs = tuple(x[:batch] for x in opened.example)
    pruned = slimnet.prune(opened.program, inputs, ratio=0.5)
    written = export_pt2(pruned.model, inputs, tmp_path / "slim.pt2", extra={"note": "hello"})
    assert written.dynamic_batch and written.parity.error <= 1e-6
    slim = torch.export.load(tmp_path / "slim.pt2").module()
    x, gate = torch.randn(5, 6), torch.randn(5, 1)
    with torch.no_grad():
        found, expected = slim(x, gate=gate), pruned.model(x, gate)
    assert torch.allclose(found["scores"], expected["scores"])
    assert torch.allclose(found["parts"][0], expected["parts"][0])
    assert read_pt2(tmp_path / "slim.pt2").extra == {"note": "hello"}
    assert sum(p.numel() for p in slim.parameters()) < 0.6 * sum(
        p.numel() for p in opened.program.parameters()
    )


def test_a_network_of_a_class_is_written_too(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)).train()
    written = export_pt2(model, (torch.randn(1, 3, 8, 8),), tmp_path / "net.pt2")
    assert written.dynamic_batch and model.training
    x = torch.randn(4, 3, 8, 8)
    assert torch.allclose(torch.export.load(tmp_path / "net.pt2").module()(x), model(x))


class Scores(NamedTuple):
    best: torch.Tensor
    all: torch.Tensor


@pytest.mark.parametrize("answer", [lambda x: {"best": x.max(1)}, lambda x: Scores(x[:1], x)])
def test_named_tuples_are_written_as_tuples(answer, tmp_path):
    """torch 2.14 takes them apart where it records, and refuses to write them."""

    class Named(nn.Linear):
        def forward(self, x):
            return answer(super().forward(x))

    model, x = Named(6, 4), torch.randn(3, 6)
    export_pt2(model, (torch.randn(2, 6),), tmp_path / "net.pt2")
    found = tensors_of(torch.export.load(tmp_path / "net.pt2").module()(x))
    assert all(torch.allclose(a, b) for a, b in zip(found, tensors_of(model(x)), strict=True))
    assert type(model(x)) is type(answer(x))


def test_a_fixed_batch_stays_fixed(tmp_path):
    class Literal(nn.Module):
        def forward(self, x):
            return x.view(2, 3, 4).sum(0)

    written = export_pt2(Literal(), (torch.ones(2, 12),), tmp_path / "net.pt2")
    assert not written.dynamic_batch and written.parity.batches == (2,)


def test_what_cannot_be_exported_is_refused_and_nothing_is_left(tmp_path):
    class Branches(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum().item() > 0 else x

    with pytest.raises(ExportError, match=r"Branches cannot be written as \.pt2"):
        export_pt2(Branches(), (torch.ones(1, 3),), tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_not_kept(tmp_path):
    class Random(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    with pytest.raises(ParityError, match="does not compute what Random computes"):
        export_pt2(Random(), (torch.ones(2, 3),), tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []
