"""A ``.pt2`` is read without running code from it; what is damaged or strange is refused."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import pytest
import torch
from torch import nn
from torch._export.serde.serialize import serialize

from slimnet.errors import InputError
from slimnet.program.archive import holds_text, read_archive
from slimnet.program.pt2 import read_pt2

MODEL = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()


@pytest.fixture(scope="module")
def exported():
    return torch.export.export(MODEL, (torch.randn(2, 3),), strict=False)


@pytest.fixture
def path(exported, tmp_path):
    torch.export.save(exported, tmp_path / "net.pt2", extra_files={"note": "hello"})
    return tmp_path / "net.pt2"


def rewritten(path, change):
    """The same archive, each member as ``change(name, content)`` has it (None: left out)."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            content = change(name, content)
            if content is not None:
                new.writestr(name, content)
    return path


def with_json(path, ending, edit):
    def change(name, content):
        if not name.endswith(ending):
            return content
        data = json.loads(content)
        edit(data)
        return json.dumps(data)

    return rewritten(path, change)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("code from the file was run",))


def test_weights_sample_and_texts_are_read(path):
    archive = read_archive(path)
    for name, tensor in MODEL.state_dict().items():
        assert torch.equal(archive.tensors[name], tensor)
    assert archive.sample[0][0].shape == (2, 3)
    assert archive.extra["note"] == "hello"
    assert holds_text(path, "note") and not holds_text(path, "other")


def test_tensors_of_one_storage_stay_so(tmp_path):
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("whole", torch.randn(6))
            self.register_buffer("left", self.whole[:3])
            self.register_buffer("right", self.whole[3:])

        def forward(self, x):
            return x * self.left + self.right + self.whole.sum()

    model = Halves()
    exported = torch.export.export(model, (torch.randn(2, 3),), strict=False)
    torch.export.save(exported, tmp_path / "net.pt2")
    tensors = read_archive(tmp_path / "net.pt2").tensors
    for name, tensor in model.named_buffers():
        assert torch.equal(tensors[name], tensor)
    assert len({t.untyped_storage().data_ptr() for t in tensors.values()}) == 1


def test_the_four_files_of_older_versions_are_read(exported, tmp_path):
    parts = serialize(exported)
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("version", "8.2")
        archive.writestr("serialized_exported_program.json", parts.exported_program)
        archive.writestr("serialized_state_dict.pt", parts.state_dict)
        archive.writestr("serialized_constants.pt", parts.constants)
        archive.writestr("serialized_example_inputs.pt", parts.example_inputs)
    opened = read_pt2(tmp_path / "old.pt2")
    x = torch.randn(2, 3)
    assert torch.equal(opened.program(x), MODEL(x))


def test_no_pickle_runs_code(path):
    def change(name, content):
        return pickle.dumps(Evil()) if "sample_inputs" in name else content

    opened = read_pt2(rewritten(path, change))  # the graph describes the inputs as well
    assert opened.example[0].shape == (2, 3)


@pytest.mark.parametrize("where", ["weights", "constants"])
def test_pickled_weights_are_refused(where, path):
    buffer = io.BytesIO()
    torch.save(Evil(), buffer)
    row = {"path_name": "evil", "is_param": False, "use_pickle": True, "tensor_meta": {}}
    with_json(path, f"model_{where}_config.json", lambda data: data["config"].update(evil=row))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"net/data/{where}/evil", buffer.getvalue())
    with pytest.raises(InputError, match="would run code when they are loaded"):
        read_archive(path)


def _another_major(data):
    data["schema_version"]["major"] = 99


def _no_nodes(data):
    del data["graph_module"]["graph"]["nodes"]


def _strange_target(data):
    data["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.mylib.evil.default"


def _python_target(data):
    data["graph_module"]["graph"]["nodes"][0]["target"] = "os.system"


def _no_such_operator(data):
    data["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.no_such.default"


def _foreign_container(data):
    call = data["graph_module"]["module_call_graph"][0]["signature"]
    call["out_spec"] = call["out_spec"].replace("null", '"my.Class"', 1)


def _missing_weight(data):
    data["graph_module"]["signature"]["input_specs"][0]["parameter"]["parameter_name"] = "none"


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (_another_major, "its format is version 99 .* version 8 can be read: export it again"),
        (_no_nodes, "damaged torch.export program .KeyError: 'nodes'"),
        (_strange_target, "it calls mylib.evil.default, which is no operator of PyTorch itself"),
        (_python_target, "it calls os.system, which is no operator"),
        (_no_such_operator, "damaged|cannot be read"),
        (_foreign_container, "it takes or returns a my.Class, of which only that class knows"),
        (_missing_weight, "damaged torch.export program .KeyError: 'none'"),
    ],
)
def test_a_strange_graph_is_refused_in_one_sentence(edit, why, path):
    with pytest.raises(InputError, match=why) as refused:
        read_pt2(with_json(path, "models/model.json", edit))
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


def test_damaged_bytes_are_refused(path):
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-200], b"PK\x03\x04", b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"damaged torch\.export program|holds 0 programs"):
            read_archive(path)


def test_shortened_weights_are_refused(path):
    def change(name, content):
        return content[:8] if name.endswith("weight_0") else content

    with pytest.raises(InputError, match=r"damaged torch\.export program"):
        read_archive(rewritten(path, change))


def test_a_bomb_is_refused(path):
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in members.items():
            new.writestr(name, content + b" " * 10**6)
    with pytest.raises(InputError, match="is compressed, which torch never does"):
        read_archive(path)


def test_weights_are_not_repeated_without_end(path):
    def edit(data):
        for row in data["config"].values():
            row["tensor_meta"]["sizes"] = [{"as_int": 10**12}]
            row["tensor_meta"]["strides"] = [{"as_int": 0}]

    with pytest.raises(InputError, match="repeats the numbers that it stores too often"):
        read_archive(with_json(path, "weights_config.json", edit))


def test_weights_end_where_their_bytes_do(path):
    def edit(data):
        for row in data["config"].values():
            row["tensor_meta"]["sizes"] = [{"as_int": 1000}]
            row["tensor_meta"]["strides"] = [{"as_int": 1}]

    with pytest.raises(InputError, match="damaged"):
        read_archive(with_json(path, "weights_config.json", edit))


@pytest.mark.parametrize("member", ["sample_inputs", "constants"])
def test_what_a_pickle_calls_is_followed(member, exported, tmp_path):
    evil = b"\x80\x02ctorch\nTensor\nJ\xe8\x03\x00\x00\x85R."
    content = io.BytesIO()
    torch.save({}, content)
    made = io.BytesIO()
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            new.writestr(name, evil if name.endswith("data.pkl") else old.read(name))
    torch.export.save(exported, tmp_path / "net.pt2")
    path = rewritten(
        tmp_path / "net.pt2",
        lambda name, raw: made.getvalue() if name.endswith(".pt") and member in name else raw,
    )
    assert not torch.is_tensor(read_archive(path).sample)
