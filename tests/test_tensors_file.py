"""``.safetensors``: any tool reads the tensors, and slimnet the whole network."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import slimnet
from slimnet.errors import InputError
from slimnet.files.access import open_network
from slimnet.files.artifact import Artifact, make_artifact
from slimnet.files.slim_file import is_slim, read_slim
from slimnet.files.tensors_file import read_tensors, write_state, write_tensors
from slimnet.models import MODELS
from slimnet.network import Network
from slimnet.networks.arch import Arch, parse_arch


class Tied(nn.Module):
    """A tie, a frozen half-precision scale, an integer input and a dict."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 32)
        self.first, self.second = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)
        self.second.weight = self.first.weight
        self.gain = nn.Parameter(torch.rand(32).bfloat16(), requires_grad=False)
        self.head = nn.Linear(32, 4)

    def forward(self, data, times=1):
        x = self.words(data["words"]) + data["shift"]
        for _ in range(times):
            x = self.second(self.first(x).relu())
        return self.head(x * self.gain)


TIED = ({"words": torch.tensor([[1, 2, 8]]), "shift": torch.randn(1, 3, 1)}, 2)


@pytest.fixture(scope="module")
def tied():
    torch.manual_seed(0)
    model = Tied().eval()
    return model, slimnet.prune(model, TIED, ratio=0.5, align=None)


@pytest.fixture
def slim(tied, tmp_path):
    pruned = tied[1]
    made = make_artifact(pruned.model, pruned.plan, pruned.certificate, pruned.example)
    return write_tensors(made, tmp_path / "slim.safetensors")


def test_any_tool_reads_the_tensors(tied, slim):
    own = Network.of(tied[1].model).tensors
    found = load_file(slim)
    assert own.keys() - found.keys() == {"second.weight"}
    assert all(torch.equal(found[name], own[name]) for name in found)
    with safe_open(slim, "pt") as opened:
        texts = opened.metadata()
    assert texts["format"] == "pt" and json.loads(texts["shared"]) == {
        "second.weight": "first.weight"
    }
    assert json.loads(texts["plan"]) == json.loads(json.dumps(tied[1].plan.to_json()))
    assert json.loads(texts["certificate"])["error"] == tied[1].certificate.error
    assert json.loads(texts["versions"])["torch"] == str(torch.__version__)


def test_the_network_is_read_back_into_its_class(tied, slim):
    model, pruned = tied
    assert is_slim(slim)
    loaded = slimnet.load(slim, into=Tied())
    assert torch.equal(loaded(*TIED), pruned.model(*TIED))
    assert loaded.second.weight is loaded.first.weight and not loaded.gain.requires_grad
    assert loaded.gain.dtype is torch.bfloat16
    artifact = read_slim(slim)
    assert torch.equal(artifact.example[0]["words"], TIED[0]["words"]) and artifact.example[1] == 2
    assert slimnet.verify(slim, model).error < 1e-9
    again = slimnet.prune(loaded, TIED, ratio=0.25, align=None)
    assert "pruned in more than one step" in again.whole()[0].notes
    with pytest.raises(InputError, match=r"Tied, which is not known here, and no program of it"):
        slimnet.load(slim)


def test_a_known_architecture_is_rebuilt_by_its_name(tmp_path):
    torch.manual_seed(0)
    model, example = MODELS["digits_vgg"].make().eval(), (torch.randn(1, 1, 8, 8),)
    pruned = slimnet.prune(model, example, ratio=0.5)
    made = make_artifact(
        pruned.model, pruned.plan, pruned.certificate, example, "slimnet:digits_vgg"
    )
    path = write_tensors(made, tmp_path / "slim.safetensors")
    assert torch.equal(slimnet.load(path)(*example), pruned.model(*example))
    opened = open_network(path, parse_arch("slimnet:digits_vgg"))
    assert opened.artifact is not None and opened.artifact.plan == pruned.plan


@pytest.mark.parametrize("name", ["digits_vgg", "digits_resnet"])
def test_a_dense_network_is_written_and_opened(name, tmp_path):
    model = MODELS[name].make().eval()
    path = write_state(model, tmp_path / "net.safetensors")
    assert not is_slim(path)
    x = torch.randn(2, *MODELS[name].input_shape)
    for arch in (None, Arch("slimnet", name)):
        assert torch.equal(open_network(path, arch).model(x), model(x))


def test_a_tied_network_is_written_once_and_opened(tmp_path):
    source = "import torch\nfrom torch import nn\nclass Net(nn.Module):\n"
    source += "    def __init__(self):\n        super().__init__()\n"
    source += "        self.a = self.b = nn.Linear(3, 3)\n        self.c = nn.Linear(3, 3)\n"
    source += "        self.c.weight = self.a.weight\n"
    (tmp_path / "net.py").write_text(source)
    arch = parse_arch(f"{tmp_path / 'net.py'}:Net")
    model = arch.build(init=True)
    path = write_state(model, tmp_path / "net.safetensors")
    assert load_file(path).keys() == {"a.weight", "a.bias", "c.bias"}
    opened = open_network(path, arch).model
    assert opened.c.weight is opened.a.weight and torch.equal(opened.b.weight, model.b.weight)


def test_what_is_no_slim_network_is_refused(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match="is no slim network of slimnet"):
        read_tensors(tmp_path / "plain.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(InputError, match="is no safetensors file"):
        is_slim(tmp_path / "text.safetensors")
    with pytest.raises(InputError, match="there is no file"):
        is_slim(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, None) for name in ("plan", "certificate", "arch", "example", "frozen", "class")),
        *((name, None) for name in ("shared", "versions", "trained")),
        *((name, "{") for name in ("plan", "certificate", "example", "frozen", "shared")),
        *((name, "3") for name in ("plan", "certificate", "arch", "example", "frozen", "shared")),
        ("shared", '{"a": "none"}'),
        ("example", '{"tuple": [{"leaf": {"numbers": [1], "dtype": "load"}}]}'),
        ("example", '{"list": []}'),
    ],
)
def test_damaged_metadata_are_refused(slim, tmp_path, name, text):
    with safe_open(slim, "pt") as opened:
        texts = {key: value for key, value in opened.metadata().items() if key != name}
    changed = texts if text is None else {**texts, name: text}
    save_file(load_file(slim), tmp_path / "broken.safetensors", changed)
    with pytest.raises(InputError, match=r"broken\.safetensors is a damaged slim network"):
        read_tensors(tmp_path / "broken.safetensors")


def test_another_format_is_refused(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "new.safetensors", {"slimnet": "7"})
    with pytest.raises(InputError, match="has format '7', and this slimnet reads format 1"):
        read_tensors(tmp_path / "new.safetensors")


def test_an_example_that_json_cannot_say_is_refused(tied, tmp_path):
    pruned = tied[1]
    made = Artifact(Network.of(pruned.model).tensors, pruned.plan, None, None, (1j,))
    with pytest.raises(InputError, match="cannot say complex numbers"):
        write_tensors(made, tmp_path / "slim.safetensors")
    assert not list(tmp_path.iterdir())


class Scaled(nn.Module):
    """Keeps a number and a tensor beside its weights, as a state dict can hold them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.state = {"scale": 1.0, "shift": [torch.zeros(4)], "name": None}

    def forward(self, x):
        return self.b(self.a(x).relu() * self.state["scale"]) + self.state["shift"][0]

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_state_of_a_modules_own_is_kept(suffix, tmp_path):
    model, x = Scaled().eval(), torch.randn(2, 8)
    model.state = {"scale": 3.0, "shift": [torch.randn(4)], "name": "warm"}
    pruned = slimnet.prune(model, (x,), ratio=0.5, align=None)
    assert pruned.model.state["shift"][0] is not model.state["shift"][0]
    path = slimnet.save(pruned, tmp_path / "slim.pt")
    if suffix == ".safetensors":
        path = write_tensors(read_slim(path), tmp_path / "slim.safetensors")
    loaded = slimnet.load(path, into=Scaled())
    assert torch.equal(loaded(x), pruned.model(x)) and loaded.state["name"] == "warm"


def test_a_state_that_no_file_can_hold_is_refused(tmp_path):
    model, x = Scaled().eval(), torch.randn(2, 8)
    model.state["name"] = object()
    pruned = slimnet.prune(model, (x,), ratio=0.5, align=None)
    with pytest.raises(InputError, match="the model keeps a object as its extra state, and slim"):
        slimnet.save(pruned, tmp_path / "slim.pt")
