"""A file says where it comes from, and nothing of the machine."""

import onnx
import pytest
import torch
from torch import nn

import slimnet
from slimnet.errors import InputError
from slimnet.export import export_onnx, metadata_of, read_metadata
from slimnet.export.metadata import plan_digest
from slimnet.plan.plan import Plan

IMAGES = (torch.zeros(1, 3, 8, 8),)


@pytest.fixture(scope="module")
def pruned():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    return slimnet.prune(model, IMAGES, ratio=0.5, align=None)


def test_what_is_told_of_a_cut_is_read_back(tmp_path, pruned):
    path = tmp_path / "slim.onnx"
    told = metadata_of(pruned.plan, pruned.certificate, trained=True)
    export_onnx(pruned.model, IMAGES, path, extra=told)
    said = read_metadata(path)
    assert said.versions == {"slimnet": slimnet.__version__, "torch": str(torch.__version__)}
    assert said.plan["before"]["macs"] == pruned.plan.before["macs"]
    assert said.plan["after"]["params"] == pruned.plan.after["params"]
    assert said.plan["digest"] == plan_digest(Plan.from_json(pruned.plan.to_json()))
    assert said.certificate["says"] == str(pruned.certificate)
    assert said.certificate["exact"] and said.certificate["trained"]
    assert said.certificate["error"] <= said.certificate["tolerance"]


def test_another_plan_has_another_digest(pruned):
    assert plan_digest(pruned.plan) != plan_digest(Plan({}))


def test_a_network_that_was_not_cut_says_its_versions(tmp_path):
    export_onnx(nn.Conv2d(3, 2, 1), IMAGES, tmp_path / "dense.onnx")
    said = read_metadata(tmp_path / "dense.onnx")
    assert said.versions.keys() == {"slimnet", "torch"}
    assert said.plan is said.certificate is None


def test_a_cut_without_a_proof_says_none(tmp_path, pruned):
    export_onnx(pruned.model, IMAGES, tmp_path / "a.onnx", extra=metadata_of(pruned.plan, None))
    assert read_metadata(tmp_path / "a.onnx").certificate is None


def test_the_folder_of_the_user_is_not_in_the_file(tmp_path, pruned):
    told = metadata_of(pruned.plan, pruned.certificate)
    export_onnx(pruned.model, IMAGES, tmp_path / "a.onnx", extra=told)
    content = (tmp_path / "a.onnx").read_bytes()
    assert str(tmp_path).encode() not in content
    assert b".py" not in content


def test_a_file_of_another_origin_is_refused(tmp_path):
    graph = onnx.helper.make_graph([], "g", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(InputError, match="does not say that slimnet wrote it"):
        read_metadata(tmp_path / "other.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    for name in ("junk.onnx", "none.onnx"):
        with pytest.raises(InputError, match="no ONNX file that can be read"):
            read_metadata(tmp_path / name)
