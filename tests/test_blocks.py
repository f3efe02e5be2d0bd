"""Residual branches are found in networks of every kind, and what cannot leave says why."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torchvision.models.swin_transformer import SwinTransformer

from slimnet.blocks.blocks import block_scores, blocks_line, find_blocks
from slimnet.capture.trace import capture
from slimnet.models import MODELS
from slimnet.models.densenet import DenseNet
from slimnet.network import Network
from slimnet.plan.shortcut import PASSED, RELU, ZERO, ZEROS, Stub


def blocks_of(model, *shape):
    return find_blocks(
        Network.of(model.eval()), capture(Network.of(model.eval()), (torch.randn(1, *shape),))
    )


class Body(nn.Module):
    """A branch in the forward of the network itself, ended by what a test asks for."""

    def __init__(self, end=None, after=lambda x: x):
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.end = end or nn.BatchNorm2d(4)
        self.after = after

    def forward(self, x):
        return x + self.after(self.end(F.relu(self.first(x))))


def test_a_block_of_a_residual_network_knows_its_branch_and_how_to_silence_it():
    block = blocks_of(MODELS["resnet20"].make(), 3, 32, 32)[1]
    assert block.name == "layer1.1"
    assert block.modules == ("layer1.1.conv1", "layer1.1.bn1", "layer1.1.conv2", "layer1.1.bn2")
    assert block.last == ("layer1.1.bn2.weight", "layer1.1.bn2.bias")
    assert block.scales == ("layer1.1.bn2.weight",)
    assert block.stubs == (Stub("layer1.1", PASSED),) and not block.stays


def test_a_projection_stays_and_so_does_a_relu_that_changes_something():
    first, second = blocks_of(MODELS["digits_resnet"].make(), 1, 8, 8)
    assert first.stubs == (Stub("layer1.0", PASSED, (RELU,)),)  # its input is pooled, not rectified
    assert second.stubs == (Stub("layer2.0", PASSED, ("shortcut", RELU)),)


def test_two_branches_of_one_module_are_two_blocks():
    model = SwinTransformer([4, 4], 16, [2], [2], [4, 4], num_classes=3)
    blocks = blocks_of(model, 3, 32, 32)
    assert [block.name for block in blocks] == [
        f"features.1.{n}.{branch}" for n in (0, 1) for branch in ("attn", "mlp")
    ]
    assert blocks[1].stubs == (
        Stub("features.1.0.norm2", PASSED),
        Stub("features.1.0.mlp", ZERO),
    )


def test_what_is_written_into_or_read_further_has_its_whole_shape():
    class Into(Body):
        def forward(self, x):
            y = self.end(self.first(x))
            y += x
            return y

    for model in (Into(), Body(after=F.relu)):
        assert blocks_of(model, 4, 6, 6)[0].stubs == (Stub("first", PASSED), Stub("end", ZEROS))


def test_concatenation_is_no_residual():
    assert blocks_of(DenseNet(2, 4), 3, 8, 8) == ()


class Shifted(nn.Module):
    """A norm that has a shift and no scale: zeros before it are not enough."""

    def __init__(self):
        super().__init__()
        self.conv, self.shift = nn.Conv2d(4, 4, 1, bias=False), nn.Parameter(torch.ones(6))

    def forward(self, x):
        return nn.functional.layer_norm(self.conv(x), (6,), None, self.shift)


@pytest.mark.parametrize(
    ("end", "last"),
    [
        (nn.Conv2d(4, 4, 1), ["end.weight", "end.bias"]),
        (nn.GroupNorm(2, 4), ["end.weight", "end.bias"]),
        (nn.ConvTranspose2d(4, 4, 1, bias=False), ["end.weight"]),
        (weight_norm(nn.Conv2d(4, 4, 1, bias=False)), ["end.parametrizations.weight.original0"]),
        (nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.Dropout(), nn.GELU()), ["end.0.weight"]),
        (nn.BatchNorm2d(4, affine=False), None),
        (Shifted(), ["end.conv.weight", "end.shift"]),
        (nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.Hardtanh(0.1, 1.0)), None),
        (nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.Softsign()), ["end.0.weight"]),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sigmoid()), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_last_affine_layer_silences_a_branch(end, last):
    (block,) = blocks_of(Body(end), 4, 6, 6)
    assert list(block.last) == (last or [])
    assert bool(block.stays) == (last is None)


@pytest.mark.parametrize("end", [nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4)])
def test_silenced_branches_add_exactly_nothing(end):
    model = Body(end).eval()
    (block,) = blocks_of(model, 4, 6, 6)
    x = torch.randn(2, 4, 6, 6)
    assert not torch.equal(model(x), x)
    with torch.no_grad():
        for name in block.last:
            model.get_parameter(name).zero_()
    assert torch.equal(model(x), x)


def test_what_is_read_elsewhere_is_no_branch():
    class Read(Body):
        def forward(self, x):
            y = self.end(self.first(x))
            return (x + y).mean() + y.amax()

    assert blocks_of(Read(), 4, 6, 6) == ()


def test_two_towers_are_no_residual():
    class Towers(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return self.a(x) + self.b(x)

    assert blocks_of(Towers(), 4, 6, 6) == ()


def test_raw_parameters_in_a_forward_that_does_more_are_refused_by_name():
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bn = nn.Parameter(torch.randn(4, 4, 1, 1)), nn.BatchNorm2d(4)

        def forward(self, x):
            return torch.sigmoid(x + self.bn(F.conv2d(x, self.weight)))

    (block,) = blocks_of(nn.Sequential(Raw()), 4, 6, 6)
    assert block.name == "0"
    assert "convolution" in block.stays and "parameters of its own" in block.stays
    assert "test_blocks.py" in block.stays
    assert "residual block 0 cannot" in "\n".join(blocks_line([block]))


def test_a_module_that_runs_elsewhere_stays():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.conv(x)
            return x + self.bn(self.conv(x))

    (block,) = blocks_of(Twice(), 4, 6, 6)
    assert block.stays == "conv also runs elsewhere"


def test_a_list_of_modules_cannot_be_replaced_but_its_modules_can():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)])

        def forward(self, x):
            y = x
            for layer in self.layers:
                y = layer(y)
            return torch.sigmoid(x + y)

    (block,) = blocks_of(Listed(), 4, 6, 6)
    assert block.modules == ("layers.0", "layers.1") and not block.stays


def test_a_strided_shortcut_without_a_module_of_its_own_stays():
    class Strided(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, stride=2, padding=1)

        def forward(self, x):
            return self.conv(x) + F.avg_pool2d(x, 2)

    (block,) = blocks_of(Strided(), 4, 6, 6)
    assert "conv makes 1x4x3x3 of 1x4x6x6" in block.stays


def test_scores_are_what_the_last_layer_amplifies():
    model = nn.Sequential(Body(), Body(nn.Conv2d(4, 4, 1)))
    nn.init.constant_(model[0].end.weight, -0.25)
    nn.init.constant_(model[1].end.weight, 0.5)  # rows of length sqrt(4 · 0.25)
    scores = block_scores(Network.of(model).tensors, blocks_of(model, 4, 6, 6))
    assert scores == pytest.approx({"0": 0.25, "1": 1.0})


def test_many_names_are_told_in_one_line():
    blocks = blocks_of(MODELS["resnet20"].make(), 3, 32, 32)
    (line,) = blocks_line(blocks)
    assert line.startswith("9 residual blocks could leave whole") and "…, layer3.2" in line
