import pytest
import torch

from slimnet import options
from slimnet.errors import InputError, UnknownNameError
from slimnet.train import REGIMES


def test_texts_and_what_they_stand_for():
    assert options.shape("1,3,224,224") == options.shape("1x3x224x224") == (1, 3, 224, 224)
    assert [options.align(text) for text in ("auto", "off", "12")] == ["auto", None, 12]
    assert options.layer_ratios(["a.*=0.5", "b=x=0"]) == {"a.*": 0.5, "b=x": 0.0}
    assert options.numbers("0.3,0.5", "--ratio") == (0.3, 0.5)
    assert options.names("finetune, scratch-e", REGIMES) == ("finetune", "scratch-e")
    assert options.device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("text", ["", "x", "1,,3", "0,3", "1,-3", "1.5", "1,3,"])
def test_what_is_no_shape(text):
    with pytest.raises(InputError, match=r"--input .* as 1,3,224,224"):
        options.shape(text)


@pytest.mark.parametrize("text", ["", "on", "0", "-4", "1.5", "²"])
def test_what_is_no_alignment(text):
    with pytest.raises(InputError, match="--align must be auto, off or a number"):
        options.align(text)


@pytest.mark.parametrize("text", ["conv", "=0.5", "conv=", "conv=x", "conv=0.1,0.2"])
def test_what_is_no_ratio_of_a_layer(text):
    with pytest.raises(InputError, match="must be LAYER=RATIO"):
        options.layer_ratios([text])


@pytest.mark.parametrize("text", ["", "x", "0.5,", "0.5;0.6"])
def test_what_are_no_numbers(text):
    with pytest.raises(InputError, match=r"--ratio .* is no number"):
        options.numbers(text, "--ratio")


@pytest.mark.parametrize("text", ["", "foo", "finetune,foo"])
def test_an_unknown_name_lists_the_known_ones(text):
    with pytest.raises(UnknownNameError, match="finetune, scratch-b, scratch-e"):
        options.names(text, REGIMES)


@pytest.mark.parametrize("name", ["", "foo", "meta", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_here(name):
    with pytest.raises(InputError, match=r"there is no device .* the known ones are cpu"):
        options.device(name)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"ratio": 0.5, "macs": 0.5},
        {"ratio": 1.0},
        {"ratio": float("nan")},
        {"macs": 0.0},
        {"params": 1.1},
        {"ratio": 0.5, "criterion": "foo"},
        {"ratio": 0.5, "across": "foo"},
        {"ratio": 0.5, "reduce": "foo"},
        {"ratio": 0.5, "scope": "foo"},
        {"ratio": 0.5, "align": 0},
        {"ratio": 0.5, "min_channels": 0},
        {"ratio": 0.5, "layer_ratio": {"conv": 1.0}},
    ],
    ids=str,
)
def test_a_cut_that_no_network_could_have_is_refused_at_once(arguments):
    with pytest.raises(InputError):
        options.check_cut(**arguments)
    options.check_cut(ratio=0.5, align=8, keep=["a"], layer_ratio={"a": 0.2}, min_channels=3)
