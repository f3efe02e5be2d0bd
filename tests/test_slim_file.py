"""A slim ``.pt2`` carries its proof: it is verified and pruned again from the file alone."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from slimnet import load, prune, save, verify
from slimnet.errors import InputError
from slimnet.export import export_pt2
from slimnet.files.access import open_network
from slimnet.files.artifact import make_artifact
from slimnet.files.slim_file import RECORD, read_slim, record_of


@pytest.fixture
def net(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 5))
    rows = ({0: torch.export.Dim.AUTO},)
    example = (torch.randn(2, 3, 6, 6),)
    exported = torch.export.export(model.eval(), example, dynamic_shapes=rows, strict=False)
    torch.export.save(exported, tmp_path / "net.pt2")
    return open_network(tmp_path / "net.pt2")


def written(path, opened, pruned):
    artifact = opened.artifact_of(pruned)
    export_pt2(pruned.model, pruned.example, path, extra=record_of(artifact))
    return path


def test_it_is_proven_and_pruned_again_from_the_file(net, tmp_path):
    first = prune(net.model, net.example, ratio=0.5)
    path = written(tmp_path / "slim.pt2", net, first)
    assert read_slim(path).certificate == first.certificate
    assert verify(path, net.model).error < 1e-9
    again = open_network(path)
    second = prune(again.model, again.artifact.example, ratio=0.5)
    path = written(tmp_path / "slimmer.pt2", again, second)
    assert verify(path, net.model).error < 1e-9
    assert read_slim(path).plan.after["params"] < 0.35 * read_slim(path).plan.before["params"]


def test_both_files_hold_the_same_network(net, tmp_path):
    pruned = prune(net.model, net.example, ratio=0.5)
    path = written(tmp_path / "slim.pt2", net, pruned)
    save(pruned, tmp_path / "slim.pt")
    x = torch.randn(3, 3, 6, 6)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "slim.pt")(x), pruned.model(x))
        assert torch.equal(load(path)(x), pruned.model(x))
    assert verify(tmp_path / "slim.pt", net.model).error < 1e-9
    again = open_network(tmp_path / "slim.pt")
    second = prune(again.model, again.artifact.example, ratio=0.5)
    artifact = again.artifact_of(second)
    assert artifact.plan.before == pruned.plan.before
    assert verify(artifact, net.model).error < 1e-9


def test_another_network_is_refused(net, tmp_path):
    path = written(tmp_path / "slim.pt2", net, prune(net.model, net.example, ratio=0.5))
    with pytest.raises(InputError, match=r"was not cut from this Sequential: 0\.weight would"):
        verify(path, nn.Sequential(nn.Conv2d(3, 16, 3), nn.Flatten(), nn.Linear(256, 5)))


def test_a_program_that_was_not_cut_and_a_damaged_record_are_refused(net, tmp_path):
    with pytest.raises(InputError, match="is an exported program that slimnet did not cut"):
        read_slim(tmp_path / "net.pt2")
    for text in ("{", json.dumps({"plan": {}}), "[]"):
        export_pt2(net.model, net.example, tmp_path / "bad.pt2", extra={RECORD: text})
        with pytest.raises(InputError, match="holds a damaged record of its cut"):
            read_slim(tmp_path / "bad.pt2")


def test_the_record_is_what_a_slim_pt_holds(net):
    pruned = prune(net.model, net.example, ratio=0.5)
    artifact = make_artifact(pruned.model, pruned.plan, pruned.certificate, pruned.example)
    record = json.loads(record_of(artifact)[RECORD])
    assert record["plan"] == json.loads(json.dumps(pruned.plan.to_json()))
    assert record["certificate"]["exact"] is True
