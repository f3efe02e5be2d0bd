"""Blocks leave whole: the network without them is proven, saved, reloaded, exported, cut again."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import MobileNetV2, ResNet, VisionTransformer
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.resnet import Bottleneck
from torchvision.models.swin_transformer import SwinTransformer

import slimnet
from slimnet.cli import main
from slimnet.errors import CertificateError, InputError, PruneError
from slimnet.export import export_onnx
from slimnet.models import MODELS
from slimnet.models.preresnet import PreResNet
from slimnet.network import Network
from slimnet.plan.compose import compose
from slimnet.plan.plan import Plan
from slimnet.plan.rebuild import rebuild
from slimnet.proving import prove


class Flat(nn.Module):
    """A branch, added in place, in the forward of the network itself."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.bn = (
            nn.Conv2d(3, 16, 1),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.BatchNorm2d(16),
        )
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = self.bn(self.conv(x))
        y += x
        return self.head(F.relu(y))


def _resnext():
    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=4, groups=4, width_per_group=4)


def _efficientnet():
    rows = [MBConvConfig(1, 3, 1, 8, 8, 2, 1.0, 1.0), MBConvConfig(4, 3, 2, 8, 16, 2, 1.0, 1.0)]
    return EfficientNet(rows, 0.2, num_classes=4, last_channel=32)


def _convnext():
    return ConvNeXt([CNBlockConfig(16, 24, 2), CNBlockConfig(24, None, 1)], num_classes=4)


def _vit():
    return VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=4)


NETWORKS = {
    "resnet": (MODELS["resnet20"].make, (3, 32, 32), ["layer1.0", "layer2.*"]),
    "projection": (MODELS["digits_resnet"].make, (1, 8, 8), ["*"]),
    "preresnet": (lambda: PreResNet(2, num_classes=4), (3, 16, 16), ["layer[12].1", "layer3.0"]),
    "resnext": (_resnext, (3, 32, 32), ["layer[13].0"]),
    "mobilenet": (lambda: MobileNetV2(4, 0.25), (3, 32, 32), ["features.3", "features.6"]),
    "efficientnet": (_efficientnet, (3, 32, 32), ["features.1.*", "features.2.1"]),
    "convnext": (_convnext, (3, 32, 32), ["features.1.*"]),
    "vit": (_vit, (3, 16, 16), ["*_0.self_attention", "*_1.mlp"]),
    "swin": (
        lambda: SwinTransformer([4, 4], 16, [2], [2], [4, 4], num_classes=3),
        (3, 32, 32),
        ["*.0.attn", "*.1.mlp", "*.1.attn"],
    ),
    "flat": (Flat, (3, 8, 8), ["conv"]),
}


def made(name):
    make, shape, globs = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
    return model, (torch.randn(1, *shape),), globs


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("ratio", [None, 0.5])
def test_the_network_without_its_blocks_is_proven(name, ratio):
    model, example, globs = made(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pruned = slimnet.prune(model, example, drop_blocks=globs, ratio=ratio, min_channels=4)
    plan = pruned.plan
    assert len(plan.blocks) >= len(globs) and pruned.certificate.error < 1e-12
    assert plan.after["macs"] < plan.before["macs"] and plan.after["params"] < plan.before["params"]
    assert plan.after["params"] == sum(p.numel() for p in pruned.model.parameters())
    assert bool(plan.removed) == (ratio is not None)
    assert slimnet.Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert slimnet.verify(pruned, model).error < 1e-12
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_block_is_its_shortcut_and_trains_on(name):
    model, example, globs = made(name)
    slim = slimnet.prune(model, example, drop_blocks=globs, verify=False).model
    assert slim(torch.cat([*example, *example])).shape[0] == 2
    slim.train()
    slim(torch.cat([*example, *example])).sum().backward()
    assert all(p.grad is not None for p in slim.parameters() if p.dim() > 2)


def test_plans_made_before_blocks_could_leave_are_read():
    data = {key: value for key, value in Plan({}).to_json().items() if key != "blocks"}
    assert Plan.from_json(data) == Plan({})


def test_a_wrong_claim_about_what_silences_a_branch_fails():
    model, example, _ = made("resnet")
    pruned = slimnet.prune(model, example, drop_blocks=["layer1.1"])
    (block,) = pruned.plan.blocks
    wrong = replace(block, zeroed=("layer1.2.bn2.weight", "layer1.2.bn2.bias"))
    plan = replace(pruned.plan, blocks=(wrong,))
    with pytest.raises(CertificateError, match="differ"):
        slimnet.verify(replace(pruned, plan=plan), model)


def test_the_least_of_a_number_of_blocks_leave():
    model, example, _ = made("resnet")
    for name, scale in (("layer2.1", 0.01), ("layer3.2", 0.02)):
        nn.init.constant_(model.get_submodule(name).bn2.weight, scale)
    plan = slimnet.prune(model, example, drop_blocks=2, verify=False).plan
    assert [block.name for block in plan.blocks] == ["layer2.1", "layer3.2"]
    assert plan.asked["drop_blocks"] == 2 and plan.asked["ratio"] == 0


def test_shares_are_those_of_the_original():
    model, example, _ = made("resnet")
    blocks = ["layer1.0", "layer3.2"]
    plan = slimnet.prune(
        model, example, drop_blocks=blocks, macs=0.5, align=None, verify=False
    ).plan
    assert plan.after["macs"] / plan.before["macs"] == pytest.approx(0.5, abs=0.01)
    enough = slimnet.prune(model, example, drop_blocks=blocks, macs=0.9, verify=False).plan
    assert not enough.removed


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_blocks_may_leave_after_channels(name):
    model, example, globs = made(name)
    first = slimnet.prune(model, example, ratio=0.5, min_channels=4, verify=False)
    second = slimnet.prune(first.model, example, drop_blocks=globs)
    plan = compose(first.plan, second.plan, Network.of(model).shapes)
    again = rebuild(Network.of(model), plan)
    assert again.state_dict().keys() == second.model.state_dict().keys()
    assert torch.equal(again(*example), second.model(*example))
    assert prove(Network.of(model), Network.of(again), plan, example).error < 1e-12


def test_names_that_no_block_has_are_refused():
    model, example, _ = made("resnet")
    with pytest.raises(InputError, match=r"no residual block is called 'layer9\.\*'.*layer1\.0, "):
        slimnet.prune(model, example, drop_blocks=["layer9.*"])
    with pytest.raises(InputError, match="asks for 10 blocks, and 9 could leave"):
        slimnet.prune(model, example, drop_blocks=10)
    with pytest.raises(InputError, match="has no residual blocks"):
        slimnet.prune(nn.Sequential(nn.Linear(4, 4)), (torch.randn(1, 4),), drop_blocks=1)


def test_a_block_that_cannot_leave_is_refused_with_the_reason():
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))

        def forward(self, x):
            return torch.sigmoid(x + F.conv2d(x, self.weight))

    with pytest.raises(PruneError, match=r"0 cannot leave: aten.convolution.*its own"):
        slimnet.prune(nn.Sequential(Raw()), (torch.randn(1, 4, 5, 5),), drop_blocks=["0"])


def test_code_between_the_modules_that_breaks_is_named():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 12), nn.Linear(12, 8)

        def forward(self, x):
            return torch.tanh(x + self.b(torch.relu(self.a(x)).view(-1, 12)))

    model = nn.Sequential(Split(), Split()).eval()
    with pytest.raises(
        PruneError, match=r"0 cannot leave: without its modules, Sequential fails \(shape"
    ):
        slimnet.prune(model, (torch.randn(1, 8),), drop_blocks=2)


@pytest.mark.parametrize(("name", "products"), [("projection", 3), ("vit", 8)])
def test_onnx_holds_no_removed_layer_and_no_leftover(name, products, tmp_path):
    model, example, globs = made(name)
    slim = slimnet.prune(model, example, drop_blocks=globs, verify=False)
    exported = export_onnx(slim.model, example, tmp_path / "slim.onnx")
    nodes = [node.op_type for node in onnx.load(tmp_path / "slim.onnx").graph.node]
    assert exported.parity.error < 1e-4
    assert sum(node in ("Conv", "Gemm", "MatMul") for node in nodes) == products
    assert "ConstantOfShape" not in nodes  # zeros that stand for a branch are one constant


@pytest.mark.parametrize("name", ["vit", "flat"])
def test_a_process_without_the_class_runs_it(name, tmp_path):
    model, example, globs = made(name)
    pruned = slimnet.prune(model, example, drop_blocks=globs, ratio=0.25, min_channels=4)
    path, outputs = slimnet.save(pruned, tmp_path / "slim.pt"), tmp_path / "outputs.pt"
    torch.save([*example, pruned.model(*example)], outputs)
    script = (
        "import sys, torch, slimnet; x, y = torch.load(sys.argv[2]);"
        "print(float((slimnet.load(sys.argv[1])(x) - y).abs().max()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path, outputs],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path.cwd(),
    )
    assert float(done.stdout) < 1e-5
    into = slimnet.load(path, into=NETWORKS[name][0]())
    assert type(into) is type(model) and torch.equal(into(*example), pruned.model(*example))
    assert slimnet.verify(path, model).error < 1e-12


def test_a_file_of_a_known_architecture_is_rebuilt_without_its_blocks(tmp_path):
    model, example, globs = made("resnet")
    pruned = slimnet.prune(model, example, drop_blocks=globs, ratio=0.25)
    path = slimnet.save(pruned, tmp_path / "slim.pt", "slimnet:resnet20")
    loaded = slimnet.load(path)
    assert torch.equal(loaded(*example), pruned.model(*example))
    with pytest.raises(InputError, match="was not cut from this Flat"):
        slimnet.load(path, into=Flat())


def test_it_is_exported_by_torch():
    model, example, globs = made("vit")
    slim = slimnet.prune(model, example, drop_blocks=globs, verify=False).model
    assert torch.equal(torch.export.export(slim, example).module()(*example), slim(*example))


def test_inspect_tells_which_could_leave():
    model, example, _ = made("resnet")
    found = slimnet.inspect(model, example)
    assert "9 residual blocks could leave whole" in str(found)
    assert json.loads(json.dumps(found.to_json()))["blocks"][0]["name"] == "layer1.0"


@pytest.mark.parametrize("first", [True, False])
def test_torchs_own_transformer_runs_outside_the_proof_too(first):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    example = (torch.randn(2, 5, 16),)
    slim = slimnet.prune(model, example, drop_blocks=["layers.0.linear1", "layers.1.self_attn"])
    with torch.no_grad():  # where torch would run a fused kernel on the weights that have left
        fused = slim.model(*example)
    assert torch.allclose(fused, slim.model(*example), atol=1e-5)


def slimnet_says(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    return stopped.value.code, capsys.readouterr()


def test_the_command_line_drops_blocks(tmp_path, capsys):
    dense, slim, less = (tmp_path / f"{name}.pt" for name in ("dense", "slim", "less"))
    torch.save(made("resnet")[0].state_dict(), dense)
    wanted = ("--drop-blocks", "layer2.*", "--drop-blocks", "layer1.1")
    code, said = slimnet_says(capsys, "prune", dense, *wanted, "-o", slim)
    assert code == 0 and "4 blocks replaced by the shortcut: layer1.1, layer2.0" in said.out
    code, said = slimnet_says(
        capsys, "prune", slim, "--drop-blocks", 1, "--ratio", 0.5, "-o", less, "--json"
    )
    assert code == 0 and json.loads(said.out)["plan"]["asked"]["drop_blocks"] == 1
    assert slimnet_says(capsys, "verify", less, "--against", dense)[0] == 0
    code, said = slimnet_says(capsys, "prune", slim, "--drop-blocks", "layer2.0", "-o", less)
    assert code == 2 and "no residual block is called 'layer2.0'; they are called" in said.err
