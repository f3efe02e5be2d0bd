import pickle
import zipfile

import pytest
import torch
from torch import nn

from slimnet.errors import InputError
from slimnet.networks.payload import load_payload

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)


@pytest.fixture
def saved(tmp_path):
    def save(value, name="model.pt", **options):
        torch.save(value, tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_both_formats_of_torch(saved, zipped):
    payload = load_payload(saved(STATE, _use_new_zipfile_serialization=zipped))
    assert payload.keys() == STATE.keys()
    assert all(torch.equal(payload[name], STATE[name]) for name in STATE)


def test_reads_safetensors(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(STATE, tmp_path / "model.safetensors")
    assert torch.equal(load_payload(tmp_path / "model.safetensors")["a.bias"], STATE["a.bias"])


def test_refuses_a_broken_safetensors_file(tmp_path):
    pytest.importorskip("safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"not at all")
    with pytest.raises(InputError, match="is no safetensors file"):
        load_payload(tmp_path / "model.safetensors")


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"there is no file .*none\.pt"):
        load_payload(tmp_path / "none.pt")


def test_refuses_a_folder(tmp_path):
    with pytest.raises(InputError, match="is a folder, not a file"):
        load_payload(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"# notes on my model\n", "is no torch file .it begins with b'# no'"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "is no torch file"),
        (b"PK\x03\x04" + bytes(50), "is truncated or damaged"),
        (b"\x80\x02garbage", "is no torch file, or a damaged one"),
        (pickle.dumps([1, 2, 3]), "is no torch file, or a damaged one"),
    ],
)
def test_refuses_files_of_another_kind(tmp_path, content, reason):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(InputError, match=rf"model\.pt {reason}"):
        load_payload(tmp_path / "model.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_refuses_a_truncated_file(saved, zipped, share):
    path = saved(STATE, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match="damaged"):
        load_payload(path)


def test_refuses_a_zip_that_is_no_torch_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photos/a.txt", "a")
    with pytest.raises(InputError, match="is a zip archive but no torch file"):
        load_payload(tmp_path / "photos.zip")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_refuses_torchscript(tmp_path):
    torch.jit.trace(nn.Linear(3, 2), torch.rand(1, 3)).save(tmp_path / "model.pt")
    with pytest.raises(InputError, match="is a TorchScript archive, which is not read"):
        load_payload(tmp_path / "model.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_refuses_an_exported_program_for_now(tmp_path):
    program = torch.export.export(nn.Linear(3, 2), (torch.rand(1, 3),))
    torch.export.save(program, tmp_path / "model.pt2")
    with pytest.raises(InputError, match=r"is a torch\.export program \(\.pt2\), not a ch"):
        load_payload(tmp_path / "model.pt2")


@pytest.mark.parametrize("zipped", [True, False])
def test_refuses_a_pickled_module_without_the_flag(saved, zipped):
    path = saved(Mine(), _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"pickled Python object \(.*Mine\).*--allow-pickle"):
        load_payload(path)
    assert isinstance(load_payload(path, allow_pickle=True), Mine)


class Trap:
    def __reduce__(self):
        return (eval, ("open('sprung', 'w')",))


def test_runs_no_code_without_the_flag(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="pickled Python object"):
        load_payload(saved({"state_dict": STATE, "args": Trap()}))
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_whose_class_is_gone_says_so(saved, monkeypatch):
    path = saved(Mine())
    monkeypatch.delitem(globals(), "Mine")
    with pytest.raises(InputError, match="does not unpickle: AttributeError"):
        load_payload(path, allow_pickle=True)


def test_a_device_is_no_file():
    with pytest.raises(InputError, match="/dev/zero is a device or a pipe, and no file that ends"):
        load_payload("/dev/zero")
