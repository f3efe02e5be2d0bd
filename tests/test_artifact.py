from dataclasses import replace

import pytest
import torch
from torch import nn

from slimnet import prune
from slimnet.coupling.removal import Removal
from slimnet.errors import InputError
from slimnet.files.artifact import cut_shape, make_artifact, read_artifact, write_artifact
from slimnet.models import MODELS
from slimnet.network import Network
from slimnet.networks.arch import Arch

EXAMPLE = (torch.zeros(1, *MODELS["digits_vgg"].input_shape),)


class Net(nn.Module):
    """Ties, frozen and half-precision parameters, buffers, dicts and an int."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.first = nn.Linear(16, 16, bias=False)
        self.second = nn.Linear(16, 16, bias=False)
        self.second.weight = self.first.weight
        self.gain = nn.Parameter(torch.rand(16).half(), requires_grad=False)
        self.register_buffer("steps", torch.tensor([3, 4]), persistent=False)
        self.head = nn.Linear(16, 5)

    def forward(self, data, times):
        x = self.body(data["image"]).mean((2, 3))
        for _ in range(times):
            x = self.second(self.first(x))
        return {"scores": self.head(x * self.gain), "steps": self.steps + data["step"]}


NET_EXAMPLE = ({"image": torch.randn(1, 3, 8, 8), "step": torch.tensor(7)}, 2)


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    model = MODELS["digits_vgg"].make().eval()
    return model, prune(model, EXAMPLE, ratio=0.5)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = Net().eval()
    return model, prune(model, NET_EXAMPLE, ratio=0.5)


def artifact_of(pruned, arch="slimnet:digits_vgg"):
    return make_artifact(pruned.model, pruned.plan, pruned.certificate, pruned.example, arch)


@pytest.fixture
def slim(vgg, tmp_path):
    return write_artifact(artifact_of(vgg[1]), tmp_path / "slim.pt")


def damaged(path, **changes):
    payload = torch.load(path, weights_only=True)
    del payload["digest"]  # a forger's, or one of before there were digests
    payload.update(changes)
    target = path.with_name("damaged.pt")
    torch.save(payload, target)
    return target


def test_it_loads_without_running_code_and_gives_everything_back(vgg, slim):
    assert torch.load(slim, weights_only=True)["slimnet_artifact"] == 1
    artifact = read_artifact(slim)
    pruned = vgg[1]
    assert artifact.plan.to_json() == pruned.plan.to_json()
    assert artifact.certificate == pruned.certificate
    assert artifact.arch == Arch("slimnet", "digits_vgg")
    assert artifact.example[0].shape == EXAMPLE[0].shape
    x = torch.randn(3, *EXAMPLE[0].shape[1:])
    assert torch.equal(artifact.model()(x), pruned.model(x))


def test_everything_of_a_users_network_survives(net, tmp_path):
    pruned = net[1]
    assert pruned.plan.removed
    path = write_artifact(artifact_of(pruned, None), tmp_path / "net.pt")
    artifact = read_artifact(path)
    assert type(artifact.example[0]) is dict
    assert artifact.example[1] == 2
    assert artifact.example[0]["step"] == 7
    expected = pruned.model(*NET_EXAMPLE)
    for loaded in (artifact.model(), artifact.model(Network.of(Net()))):
        found = loaded.eval()(*NET_EXAMPLE)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    again = artifact.model(Network.of(Net()))
    assert type(again) is Net
    assert again.second.weight is again.first.weight
    assert not again.gain.requires_grad
    assert again.gain.dtype == torch.float16
    assert again.body[0].weight.requires_grad
    assert again.body[0].out_channels == again.body[0].weight.shape[0] < 16


def test_saving_changes_nothing_about_the_network(net):
    pruned = net[1]
    pruned.model.train()
    artifact_of(pruned, None)
    assert all(module.training for module in pruned.model.modules())
    pruned.model.eval()


def test_a_part_of_a_large_storage_is_saved_alone(vgg, tmp_path):
    pruned = vgg[1]
    artifact = artifact_of(pruned)
    large = {
        name: torch.cat([t.flatten(), torch.zeros(10**6)])[: t.numel()].view(t.shape)
        for name, t in artifact.tensors.items()
        if t.dim() == 4
    }
    model = artifact.model()
    for name, parameter in model.named_parameters():
        if name in large:
            parameter.data = large[name]
    path = write_artifact(artifact_of(replace(pruned, model=model)), tmp_path / "slim.pt")
    assert path.stat().st_size < 2_000_000


def test_the_number_of_classes_is_read_from_the_weights():
    model = MODELS["digits_vgg"].make(num_classes=7).eval()
    artifact = artifact_of(prune(model, EXAMPLE, ratio=0.5, verify=False))
    assert artifact.arch == Arch("slimnet", "digits_vgg", {"num_classes": 7})


def test_an_architecture_that_does_not_build_it_is_refused_when_saving(vgg):
    with pytest.raises(InputError, match=r"was not cut from this ResNet: conv1.weight"):
        artifact_of(vgg[1], "slimnet:digits_resnet")


def test_a_second_cut_alone_cannot_be_saved_as_if_it_were_the_first(vgg):
    again = prune(vgg[1].model, EXAMPLE, ratio=0.5, align=None)
    with pytest.raises(InputError, match="was not cut from"):
        artifact_of(again)


def test_another_network_is_refused(slim):
    with pytest.raises(InputError, match="was not cut from this Linear: weight would have"):
        read_artifact(slim).model(Network.of(nn.Linear(2, 2)))
    with pytest.raises(InputError, match=r"was not cut from this .*the file holds"):
        read_artifact(slim).model(Network.of(MODELS["digits_vgg"].make(num_classes=3)))


def test_without_a_class_and_a_program_it_says_what_to_do(net, tmp_path):
    artifact = replace(artifact_of(net[1], None), program=None)
    with pytest.raises(InputError, match=r"class .*Net, .*load it with .*into=make_model\(\)"):
        artifact.model()


@pytest.mark.parametrize(
    "key",
    ["tensors", "plan", "certificate", "arch", "example", "frozen", "program", "class", "trained"],
)
def test_a_missing_part_is_named(slim, key):
    payload = torch.load(slim, weights_only=True)
    del payload[key], payload["digest"]
    torch.save(payload, slim)
    with pytest.raises(InputError, match=rf"slim.pt is a damaged slim network: it lacks '{key}'"):
        read_artifact(slim)


@pytest.mark.parametrize(
    "changes",
    [
        {"tensors": [1]},
        {"tensors": {"w": 1}},
        {"plan": 3},
        {"plan": {}},
        {"certificate": 3},
        {"certificate": {"error": 1}},
        {"arch": 3},
        {"arch": {"source": "slimnet"}},
        {"example": 3},
        {"example": {"list": []}},
        {"example": {"tuple": [{"leaf": {"shape": [-1], "dtype": "float32"}}]}},
        {"example": {"tuple": [{"leaf": {"shape": [1], "dtype": "load"}}]}},
        {"example": {"tuple": [{"leaf": 3}]}},
        {"frozen": 3},
        {"program": 3},
        {"versions": 3},
    ],
    ids=str,
)
def test_a_part_of_another_kind_is_refused(slim, changes):
    with pytest.raises(InputError, match=r"damaged.pt is a damaged slim network: "):
        read_artifact(damaged(slim, **changes))


@pytest.mark.parametrize("number", [0, 2, "1", None])
def test_another_format_is_refused(slim, number):
    with pytest.raises(InputError, match="this slimnet reads format 1"):
        read_artifact(damaged(slim, slimnet_artifact=number))


def test_a_file_of_before_there_were_digests_opens(slim):
    assert read_artifact(damaged(slim)).plan == read_artifact(slim).plan


def test_other_weights_under_the_old_digest_are_refused(slim):
    payload = torch.load(slim, weights_only=True)
    payload["tensors"]["classifier.weight"].view(-1)[3] += 1e-6
    torch.save(payload, slim)
    with pytest.raises(InputError, match=r"slim.pt is a damaged slim network: its content is not"):
        read_artifact(slim)


def test_a_file_that_is_none_of_ours_is_refused(tmp_path):
    torch.save({"w": torch.zeros(3)}, tmp_path / "state.pt")
    with pytest.raises(InputError, match=r"state.pt is no slim network of slimnet"):
        read_artifact(tmp_path / "state.pt")


def tampered_plan(slim, edit):
    plan = torch.load(slim, weights_only=True)["plan"]
    edit(plan)
    return read_artifact(damaged(slim, plan=plan))


def test_a_plan_that_does_not_fit_is_refused(slim):
    def other_place(plan):
        name = next(iter(plan["removed"]))
        axis, runs = next(iter(plan["removed"][name].items()))
        plan["removed"][name][axis] = [[10**4 + a, 10**4 + b] for a, b in runs]

    def other_name(plan):
        plan["removed"]["no.such"] = {"0": [[0, 1]]}

    def other_module(plan):
        change = {"module": "no.such", "attribute": "width", "path": [], "old": 1, "new": 2}
        plan["changes"] = [*plan["changes"], change]

    for edit in (other_place, other_name, other_module):
        with pytest.raises(InputError, match="was not cut from"):
            tampered_plan(slim, edit).model()


def test_inputs_that_are_no_plain_data_are_refused(vgg, tmp_path):
    artifact = replace(artifact_of(vgg[1]), example=(object(),))
    with pytest.raises(InputError, match=r"the example holds a object: slim.pt can hold"):
        write_artifact(artifact, tmp_path / "slim.pt")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_refused(vgg, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_artifact(artifact_of(vgg[1]), tmp_path / "missing" / "slim.pt")


@pytest.mark.parametrize(
    ("shape", "removed", "expected"),
    [
        ((4, 3), {0: (1, 2)}, (2, 3)),
        ((4, 3), {}, (4, 3)),
        ((), {}, ()),
        (None, {}, None),
        ((4, 3), {2: (0,)}, None),
        ((4, 3), {0: (4,)}, None),
        ((4, 3), {0: (-1,)}, None),
        ((4, 3), {0: (1, 1)}, None),
        ((4, 3), {0: (2, 1)}, None),
    ],
)
def test_the_shape_after_a_cut(shape, removed, expected):
    assert cut_shape(shape, Removal(removed)) == expected


def test_every_tensor_is_there(vgg, slim):
    stored = read_artifact(slim).tensors
    expected = Network.of(vgg[1].model).tensors
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], expected[name]) for name in expected)


class Growing(nn.Module):
    """A buffer that the first pass resizes, as ConViT's table of positions."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3)
        self.head = nn.Conv2d(16, 4, 1)
        self.register_buffer("places", torch.zeros(1), persistent=False)

    def forward(self, x):
        x = self.head(self.body(x))
        if len(self.places) != x.shape[-1]:
            self.places = torch.arange(x.shape[-1]).float()
        return x + self.places


def test_a_buffer_that_a_pass_resized_fits_a_fresh_network(tmp_path):
    model, example = Growing().eval(), (torch.randn(1, 3, 8, 8),)
    model(*example)
    pruned = prune(model, example, ratio=0.5)
    path = write_artifact(artifact_of(pruned, None), tmp_path / "slim.pt")
    slim = read_artifact(path).model(Network.of(Growing()))
    assert torch.equal(slim(*example), pruned.model(*example))


def nested(depth):
    value = {"list": []}
    for _ in range(depth):
        value = {"list": [value]}
    return value


def described(shape, dtype="float32"):
    return {"tuple": [{"leaf": {"shape": shape, "dtype": dtype}}]}


@pytest.mark.parametrize(
    "changes",
    [
        {"example": described([1, 10**9])},
        {"example": described([10**30])},
        {"example": described([-1])},
        {"example": described([True])},
        {"example": described([1], "nn")},
        {"example": described([1], "int64")},
        {"example": nested(100)},
        {"example": {"tuple": [{"dict": [["a\x1b[2J", {"leaf": {"value": 1}}]]}]}},
        {"example": {"tuple": [{"leaf": {"value": b"raw"}}]}},
        {"tensors": {"a" + chr(27): torch.zeros(1)}},
        {"tensors": {"a": torch.zeros(1).expand(10**12)}},
        {"tensors": {"a": torch.eye(3).to_sparse()}},
        {"frozen": ["a'"]},
        {"arch": {"source": "torchvision", "name": "resnet18", "options": {"weights": "DEFAULT"}}},
        {"arch": {"source": "timm", "name": "resnet18", "options": {"checkpoint_path": "x"}}},
        {"certificate": {"error": "large", "tolerance": 0, "checks": [], "approximate": []}},
    ],
)
def test_a_strangers_file_is_bounded(slim, changes):
    with pytest.raises(InputError):
        read_artifact(damaged(slim, **changes))


def test_lists_that_share_lists_are_refused(slim):
    laugh = ["ha"]
    for _ in range(60):
        laugh = [laugh, laugh]
    with pytest.raises(InputError, match=r"holds more than|nested more than"):
        read_artifact(damaged(slim, versions=laugh))


def test_what_could_not_be_read_is_not_written(vgg, tmp_path):
    artifact = artifact_of(vgg[1])
    for trouble in (
        replace(artifact, tensors={**artifact.tensors, "it's": torch.zeros(1)}),
        replace(artifact, example=(torch.zeros(1).expand(1, 10**9),)),
        replace(artifact, arch=Arch("torchvision", "resnet18", {"weights": "DEFAULT"})),
    ):
        with pytest.raises(InputError):
            write_artifact(trouble, tmp_path / "slim.pt")
    assert not list(tmp_path.iterdir())


def test_integers_are_no_parameters(net, tmp_path):
    path = write_artifact(artifact_of(net[1], None), tmp_path / "net.pt")
    tensors = torch.load(path, weights_only=True)["tensors"]
    tensors["head.bias"] = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(InputError, match=r"head.bias is a parameter, and the file holds integers"):
        read_artifact(damaged(path, tensors=tensors)).model(Network.of(Net()))
