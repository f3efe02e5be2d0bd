import sys

import pytest
import torch

from slimnet.errors import InputError, UnknownNameError
from slimnet.networks.arch import Arch, fitted, parse_arch
from slimnet.networks.sources import torchvision_names


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [
        ("torchvision:resnet18", [(1, 3, 224, 224)]),
        ("torchvision:inception_v3", [(1, 3, 299, 299)]),
        ("torchvision:fcn_resnet50", [(1, 3, 224, 224)]),
        ("torchvision:fasterrcnn_resnet50_fpn", [[(3, 320, 320)]]),
        ("torchvision:raft_small", [(1, 3, 128, 128), (1, 3, 128, 128)]),
        ("torchvision:r3d_18", [(1, 3, 16, 112, 112)]),
        ("torchvision:swin3d_t", [(1, 3, 16, 224, 224)]),
        ("slimnet:resnet56", [(1, 3, 32, 32)]),
        ("slimnet:digits_vgg", [(1, 1, 8, 8)]),
    ],
)
def test_the_usual_inputs_are_of_the_networks_kind(spec, shapes):
    given = [
        [tuple(x.shape) for x in value] if isinstance(value, list) else tuple(value.shape)
        for value in parse_arch(spec).example()
    ]
    assert given == shapes


def test_a_file_has_no_usual_input():
    arch = parse_arch("nets.py:make_model")
    assert arch.example() is None
    assert arch.input_shape is None


@pytest.mark.parametrize(
    ("arch", "shape"),
    [
        (Arch("torchvision", "vit_b_16", {"image_size": 64}), (3, 64, 64)),
        (Arch("slimnet", "resnet20", {"in_channels": 1}), (1, 32, 32)),
    ],
)
def test_options_change_the_usual_input(arch, shape):
    assert arch.input_shape == shape


@pytest.mark.parametrize(
    "name", ["lraspp_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large", "raft_small", "r3d_18"]
)
def test_torchvisions_other_kinds_run_on_their_usual_inputs(name):
    arch = Arch("torchvision", name)
    with torch.no_grad():
        assert arch.build(init=True)(*arch.example()) is not None


def test_quantised_networks_are_refused_by_name():
    with pytest.raises(InputError, match=r"quantised.*prune torchvision:resnet18 and quantise"):
        parse_arch("torchvision:quantized_resnet18")
    assert not any(name.startswith("quantized") for name in torchvision_names())


def test_without_timm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"timm is not installed.*pip install timm"):
        parse_arch("timm:resnet18")


def test_timm_networks_build_without_weights_and_know_their_input():
    pytest.importorskip("timm")
    arch = parse_arch("timm:test_resnet")
    with torch.no_grad():
        assert arch.build(init=True)(*arch.example()).shape == (1, 1000)
    assert arch.input_shape == (3, 160, 160)
    assert not arch.build().training
    assert Arch("timm", "resnet18", {"in_chans": 1}).input_shape == (1, 224, 224)


def test_timm_weights_show_their_classes_and_channels():
    pytest.importorskip("timm")
    usual, options = Arch("timm", "test_resnet"), {"num_classes": 5, "in_chans": 1}
    changed = Arch("timm", "test_resnet", options)
    assert fitted(usual, changed.build().state_dict()) == changed
    assert fitted(usual, usual.build().state_dict()) == usual


def test_an_unknown_timm_name_lists_the_closest():
    pytest.importorskip("timm")
    with pytest.raises(UnknownNameError, match="timm:resnet18"):
        parse_arch("timm:resnet19")
    with pytest.raises(InputError, match="does not build with"):
        Arch("timm", "test_resnet", {"colour": "red"}).build()
