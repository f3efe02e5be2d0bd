import subprocess
import sys

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

import slimnet
from slimnet.cli.shared import write_slim
from slimnet.errors import CertificateError, InputError
from slimnet.example import normal
from slimnet.files.access import Opened, example_for, load, open_network, save, verify
from slimnet.files.artifact import make_artifact
from slimnet.files.slim_file import read_slim
from slimnet.models import MODELS
from slimnet.networks.arch import Arch, parse_arch
from slimnet.timing.prune import prune

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU()
        )
        self.head = nn.Linear(32, classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

def make_model():
    return Net()
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def arch(file):
    return parse_arch(f"{file}:make_model")


def small(name):
    torch.manual_seed(0)
    model = MODELS[name].make().eval()
    return model, (torch.randn(1, *MODELS[name].input_shape),)


def warm(model, example):
    """Running statistics that are not zeros and ones."""
    model.train()
    with torch.no_grad():
        model(torch.cat([torch.randn_like(example[0]) for _ in range(4)]))
    return model.eval()


FRESH = """
import sys, torch, slimnet
torch.set_num_threads(1)
for path in sys.argv[1:]:
    x = torch.load(path + ".in", weights_only=True)
    with torch.no_grad():
        torch.save(slimnet.load(path)(x), path + ".out")
assert not {"onnx", "onnxruntime", "sklearn"} & sys.modules.keys()
"""


def test_a_fresh_process_gives_the_same_outputs_to_the_bit(arch, tmp_path):
    tiny = (torch.randn(1, 3, 40, 40),)
    cases = {
        "torchvision:resnet18": (resnet18(num_classes=7), tiny),
        "slimnet:resnet20": small("resnet20"),
        None: (arch.build(init=True), tiny),
    }
    threads = torch.get_num_threads()
    expected = {}
    try:
        torch.set_num_threads(1)
        for name, (model, example) in cases.items():
            pruned = prune(warm(model, example), example, ratio=0.5)
            path = str(save(pruned, tmp_path / f"{name}.pt", name))
            x = torch.randn(3, *example[0].shape[1:])
            torch.save(x, f"{path}.in")
            with torch.no_grad():
                expected[path] = pruned.model(x)
    finally:
        torch.set_num_threads(threads)
    (tmp_path / "mine.py").unlink()
    subprocess.run([sys.executable, "-c", FRESH, *expected], check=True, cwd=tmp_path)
    for path, output in expected.items():
        assert torch.equal(torch.load(f"{path}.out", weights_only=True), output), path


def test_loaded_into_the_class_it_trains(arch, tmp_path):
    dense = arch.build(init=True)
    pruned = prune(dense, (torch.randn(1, 3, 9, 9),), ratio=0.5)
    path = save(pruned, tmp_path / "slim.pt")
    fresh = arch.build(init=True)
    before = {name: t.clone() for name, t in fresh.state_dict().items()}
    model = load(path, into=fresh)
    assert type(model) is type(fresh)
    assert not model.training
    x, y = torch.randn(8, 3, 9, 9), torch.arange(8)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(before[name], t) for name, t in fresh.state_dict().items())


def test_a_proof_from_the_files_alone(tmp_path):
    model, example = small("digits_resnet")
    pruned = prune(model, example, ratio=0.5)
    path = save(pruned, tmp_path / "slim.pt", "slimnet:digits_resnet")
    for slim in (path, str(path), pruned):
        assert verify(slim, model).error < 1e-9


def test_a_tampered_weight_fails_the_proof(tmp_path):
    model, example = small("digits_vgg")
    path = save(prune(model, example, ratio=0.5), tmp_path / "slim.pt", "slimnet:digits_vgg")
    payload = torch.load(path, weights_only=True)
    del payload["digest"]
    name = next(n for n, t in payload["tensors"].items() if t.dim() == 4)
    payload["tensors"][name].view(-1)[0] += 0.1
    torch.save(payload, path)
    with pytest.raises(CertificateError, match="with real weights they differ at aten"):
        verify(path, model)


def test_of_a_trained_network_the_structure_is_proven(tmp_path):
    model, example = small("digits_vgg")
    pruned = prune(model, example, ratio=0.5)
    with torch.no_grad():
        for parameter in pruned.model.parameters():
            parameter.add_(0.1)
    path = save(pruned, tmp_path / "slim.pt", "slimnet:digits_vgg", trained=True)
    assert [check.weights for check in verify(path, model).checks] == ["random"]
    save(pruned, path, "slimnet:digits_vgg")
    with pytest.raises(CertificateError):
        verify(path, model)


def test_pruned_three_times_it_is_proven_against_the_first(tmp_path):
    model, _ = small("digits_resnet")
    torch.save(model.state_dict(), tmp_path / "dense.pt")
    path = tmp_path / "dense.pt"
    for step in range(3):
        opened = open_network(path)
        example, _ = example_for(opened)
        pruned = prune(opened.model, example, ratio=0.25, align=None)
        path = tmp_path / f"slim{step}.pt"
        slimnet.files.artifact.write_artifact(opened.artifact_of(pruned), path)
    macs = [
        slimnet.cost(open_network(tmp_path / f"slim{n}.pt").model, example).macs for n in range(3)
    ]
    assert macs == sorted(macs, reverse=True)
    assert len(set(macs)) == 3
    assert verify(path, model).error < 1e-9


def test_a_users_class_is_pruned_again_from_its_file(arch, tmp_path):
    dense = arch.build(init=True)
    torch.save(dense.state_dict(), tmp_path / "dense.pt")
    path = tmp_path / "dense.pt"
    for step in range(2):
        opened = open_network(path, arch)
        pruned = prune(opened.model, (torch.randn(1, 3, 9, 9),), ratio=0.25, align=None)
        path = tmp_path / f"slim{step}.pt"
        slimnet.files.artifact.write_artifact(opened.artifact_of(pruned), path)
    assert verify(path, dense).error < 1e-9
    assert open_network(path).class_is_unknown
    assert not open_network(path, arch).class_is_unknown


def test_the_class_of_a_slim_network_can_be_named_again(tmp_path):
    _, example = small("digits_vgg")
    dense = MODELS["digits_vgg"].make(num_classes=3).eval()
    path = save(prune(dense, example, ratio=0.5), tmp_path / "slim.pt", "slimnet:digits_vgg")
    opened = open_network(path, parse_arch("slimnet:digits_vgg"))
    assert opened.arch is not None
    assert opened.arch.options == {"num_classes": 3}
    assert "of its MACs" in opened.notes[0]
    with pytest.raises(InputError, match="was not cut from"):
        open_network(path, parse_arch("slimnet:digits_resnet"))


def test_a_pickled_module_needs_the_flag_and_a_slim_network_does_not_mind_it(tmp_path):
    torch.save(nn.Sequential(nn.Linear(3, 3)), tmp_path / "pickled.pt")
    with pytest.raises(InputError, match=r"runs its code: .*--allow-pickle"):
        open_network(tmp_path / "pickled.pt")
    opened = open_network(tmp_path / "pickled.pt", allow_pickle=True)
    assert isinstance(opened.model, nn.Sequential)
    model, example = small("digits_vgg")
    path = save(prune(model, example, ratio=0.5), tmp_path / "slim.pt", "slimnet:digits_vgg")
    assert open_network(path, allow_pickle=True).artifact is not None


def test_where_the_example_comes_from():
    vgg = Opened(MODELS["digits_vgg"].make().eval(), Arch("slimnet", "digits_vgg"))
    example, why = example_for(vgg)
    assert tuple(example[0].shape) == (1, *MODELS["digits_vgg"].input_shape)
    assert why == "the architecture's usual size"
    example, why = example_for(vgg, [(2, 3), (4,)])
    assert [tuple(x.shape) for x in example] == [(2, 3), (4,)]
    assert why == "as given"


MAKERS = """
import torch

def tensor():
    return torch.ones(2, 7)

def inputs():
    return torch.ones(2, 7),

def named():
    return {"input": torch.ones(2, 7)}

def listed():
    return [torch.ones(2, 7)]
"""


@pytest.mark.parametrize("name", ["tensor", "inputs", "named"])
def test_a_function_of_the_users_makes_the_example(tmp_path, name):
    (tmp_path / "make.py").write_text(MAKERS)
    spec = f"{tmp_path / 'make.py'}:{name}"
    example, why = example_for(Opened(nn.Linear(7, 2), None), made_by=spec)
    assert torch.equal(example[0], torch.ones(2, 7))
    assert len(example) == 1
    assert why == f"from {spec}"


def test_what_makes_no_example_is_refused(tmp_path):
    (tmp_path / "make.py").write_text(MAKERS)
    opened = Opened(nn.Linear(7, 2), None)
    with pytest.raises(InputError, match=r"listed returned a list: it must return a tensor, a tup"):
        example_for(opened, made_by=f"{tmp_path / 'make.py'}:listed")
    with pytest.raises(InputError, match=r"names no function: write path/to/file\.py:function"):
        example_for(opened, made_by="make.py")
    with pytest.raises(InputError, match="--input and --example"):
        example_for(opened, [(1, 7)], "make.py:tensor")


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Linear(7, 2)), (1, 7)),
        (
            nn.Sequential(nn.Conv2d(5, 8, 3), nn.Flatten(), nn.Linear(8 * 62 * 62, 2)),
            (1, 5, 64, 64),
        ),
        (nn.Sequential(nn.Conv1d(4, 8, 3)), (1, 4, 1024)),
        (nn.Sequential(nn.Conv3d(2, 4, 3)), (1, 2, 32, 32, 32)),
    ],
    ids=["linear", "2d", "1d", "3d"],
)
def test_a_shape_is_guessed_by_trying(model, shape):
    example, why = example_for(Opened(model.eval(), None))
    assert tuple(example[0].shape) == shape
    assert why == "guessed, and it runs"


@pytest.mark.parametrize(
    "model",
    [nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(123, 2)), nn.PReLU()],
    ids=["wrong", "nothing"],
)
def test_a_shape_that_cannot_be_guessed_is_asked_for(model):
    with pytest.raises(InputError, match=r"--input 1,3,224,224, or .* --example file\.py"):
        example_for(Opened(model.eval(), None))


def test_an_input_larger_than_the_memory_is_refused():
    with pytest.raises(InputError, match="and at most 268,435,456 are made"):
        example_for(Opened(nn.Linear(2, 2), None), [(10**9, 10**9)])


def test_an_architecture_that_computes_something_else_is_refused(tmp_path):
    dilated = {"replace_stride_with_dilation": [False, True, True]}  # no shape shows it
    arch = Arch("torchvision", "resnet50", dilated)
    torch.manual_seed(0)
    example = (torch.randn(1, 3, 48, 48),)
    model = warm(arch.build(init=True), example)
    pruned = prune(model, example, ratio=0.5, verify=False)
    with pytest.raises(InputError, match="does not compute what this network computes"):
        save(pruned, tmp_path / "slim.pt", "torchvision:resnet50")
    assert not (tmp_path / "slim.pt").exists()
    save(pruned, tmp_path / "slim.pt", arch)
    assert torch.equal(load(tmp_path / "slim.pt")(*example), pruned.model(*example))


class Twice(nn.Module):
    """One module under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.a, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
        self.b = self.a

    def forward(self, x):
        return self.last(self.b(self.a(self.first(x))))


def test_one_module_under_two_names_saves_and_loads(tmp_path):
    model, x = Twice().eval(), torch.randn(1, 3, 8, 8)
    pruned = prune(model, (x,), ratio=0.5, align=None)
    path = save(pruned, tmp_path / "slim.pt")
    for loaded in (load(path), load(path, into=Twice())):
        assert torch.equal(loaded(x), pruned.model(x))
    assert load(path, into=Twice()).b.weight.shape[0] == pruned.model.a.weight.shape[0] < 8
    assert verify(path, model).error < 1e-9


class Branches(nn.Module):
    """Its path depends on numbers, which torch.export refuses."""

    def __init__(self):
        super().__init__()
        self.f, self.g = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x):
        h = self.f(x).relu()
        return self.g(h * 1.0 if h.sum() > -1 else h)


def test_a_file_without_a_program_is_said_when_it_is_written(tmp_path):
    pruned = prune(Branches().eval(), (torch.randn(2, 8),), ratio=0.5)
    with pytest.warns(
        UserWarning, match=r"slim\.pt: no program lies in the file, because torch\.ex"
    ):
        path = save(pruned, tmp_path / "slim.pt")
    x = torch.randn(2, 8)
    assert torch.equal(load(path, into=Branches())(x), pruned.model(x))
    with pytest.raises(InputError, match=r"load it with .*into=make_model"):
        load(path)


RANGES = {
    "a root of few": (lambda x: x.sqrt(), (1, 3, 8, 8)),
    "a logarithm of many": (lambda x: (x + 1e-3).log(), (1, 3, 64, 64)),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".pt2"])
@pytest.mark.parametrize("reads", RANGES)
def test_a_files_example_keeps_to_the_range_of_the_inputs(reads, suffix, tmp_path):
    function, shape = RANGES[reads]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

        def forward(self, x):
            return self.b(self.a(function(x)).relu())

    torch.manual_seed(0)
    dense, x = Net().eval(), torch.rand(shape)
    pruned = prune(dense, (x,), ratio=0.5, align=None)
    path = tmp_path / f"slim{suffix}"
    made = make_artifact(pruned.model, pruned.plan, pruned.certificate, pruned.example)
    write_slim(made, pruned.model, path)
    if suffix != ".pt2":
        (example,) = read_slim(path).example
        assert example.shape == x.shape and x.min() <= example.min() <= example.max() <= x.max()
        assert torch.equal(example, read_slim(path).example[0])
        assert verify(path, dense).exact
    assert verify(pruned, dense).exact


def test_noise_that_slimnet_made_is_the_same_noise_again(tmp_path):
    model, _ = small("digits_resnet")
    large = (normal((4, 1, 40, 40)),)
    pruned = prune(model, large, ratio=0.5)
    save(pruned, tmp_path / "slim.pt", "slimnet:digits_resnet")
    assert torch.equal(read_slim(tmp_path / "slim.pt").example[0], large[0])
