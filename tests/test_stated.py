"""What a file may state about its architecture: nothing that downloads, reads or fills memory."""

import pytest

from slimnet.errors import InputError
from slimnet.networks.arch import Arch
from slimnet.networks.sources import SOURCES
from slimnet.networks.stated import STATED


def row(source, name, **options):
    return {"source": source, "name": name, "options": options}


@pytest.mark.parametrize(
    "stated",
    [
        row("torchvision", "resnet18", weights="IMAGENET1K_V1"),
        row("torchvision", "fcn_resnet50", weights_backbone="DEFAULT"),
        row("torchvision", "resnet18", progress=True),
        row("torchvision", "resnet18", num_classes=10**12),
        row("torchvision", "resnet18", num_classes=float("inf")),
        row("torchvision", "resnet18", width_per_group=10**5),
        row("torchvision", "resnet18", num_classes={"a": 1}),
        row("torchvision", "resnet18", replace_stride_with_dilation=[False] * 1000),
        row("torchvision", "res\x1b[2Jnet18"),
        row("timm", "resnet18", checkpoint_path="/etc/passwd"),
        row("timm", "resnet18", pretrained=True),
        row("timm", "resnet18", pretrained_cfg={"url": "x"}),
        row("timm", "resnet18", pretrained_cfg_overlay={"file": "x"}),
        row("timm", "resnet18", cache_dir="/tmp"),
        row("timm", "resnet18", features_only=True),
        row("timm", "vit_tiny_patch16_224", depth=10**6),
        row("timm", "vit_tiny_patch16_224", act_layer="../../x"),
        row("slimnet", "resnet20", num_classes="ten\n"),
        row("slimnet", "resnet20", __class__=1),
        row("http", "resnet20"),
        row("file", "x" * 10**5),
    ],
    ids=str,
)
def test_a_file_asks_for_nothing_but_sizes_and_switches(stated):
    with pytest.raises(InputError):
        Arch.from_json(stated)


@pytest.mark.parametrize(
    "arch",
    [
        Arch("torchvision", "resnet50", {"num_classes": 10, "groups": 32, "width_per_group": 4}),
        Arch("torchvision", "resnet50", {"replace_stride_with_dilation": [False, True, True]}),
        Arch("torchvision", "googlenet", {"aux_logits": False, "transform_input": True}),
        Arch("torchvision", "vit_b_16", {"image_size": 64}),
        Arch("timm", "resnet18", {"num_classes": 5, "in_chans": 1, "act_layer": "silu"}),
        Arch("slimnet", "digits_vgg", {"num_classes": 7, "in_channels": 3}),
        Arch("file", "C:\\nets\\mine.py:make 'it'", {"width": 64}),
    ],
    ids=str,
)
def test_what_changes_a_network_is_kept(arch):
    assert Arch.from_json(arch.to_json()) == arch


def test_what_would_not_be_read_is_not_written():
    with pytest.raises(InputError, match="torchvision:resnet18 is stated with weights='DEFAULT'"):
        Arch("torchvision", "resnet18", {"weights": "DEFAULT"}).to_json()


def test_every_source_but_a_users_file_has_its_list():
    assert STATED.keys() == set(SOURCES) - {"file"}
