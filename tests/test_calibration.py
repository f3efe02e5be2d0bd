from pathlib import Path

import pytest
import torch
from torch import nn

from slimnet.cli.calibration import (
    Calibration,
    calibration_of,
    check_recognised,
    network_before,
    read_images,
)
from slimnet.errors import InputError
from slimnet.files.access import Opened, open_network
from slimnet.models import MODELS
from slimnet.networks.arch import Arch
from slimnet.samples import Samples
from slimnet.tasks.data import load_data

EXAMPLE = (torch.zeros(1, 1, 8, 8),)


def test_samples_are_training_images_that_the_seed_draws():
    source = Calibration("digits", "none", 20, EXAMPLE)
    drawn, again, other = (source.samples(seed, nn.Identity()) for seed in (3, 3, 4))
    assert torch.equal(drawn.images, again.images) and torch.equal(drawn.labels, again.labels)
    assert not torch.equal(drawn.images, other.images)
    digits = load_data("digits", "none")
    training = {bytes(image.numpy()): int(y) for image, y in zip(*everything(digits), strict=True)}
    for image, label in zip(drawn.images, drawn.labels, strict=True):
        assert training[bytes(image.numpy())] == label


def everything(data):
    return data.normalize(data.x_train), data.y_train


def test_samples_are_normalised_and_not_augmented():
    data = load_data("digits", "0.5/0.25", augment="standard")
    pixels = data.samples(5).images * 0.25 + 0.5
    assert 0 <= pixels.min() < 0.01 and 0.9 < pixels.max() <= 1.001
    assert torch.equal(data.samples(5).images, load_data("digits", "0.5/0.25").samples(5).images)
    assert len(data.samples(10**6)) == len(data.y_train)


def test_without_data_there_are_no_samples():
    assert calibration_of(None, None, 10, EXAMPLE) is None


def test_an_image_folder_is_read_as_large_as_the_example(tmp_path):
    from PIL import Image

    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.new("RGB", (40, 30), "red").save(tmp_path / split / "cat" / "one.png")
    example = (torch.zeros(1, 3, 16, 16),)
    source = Calibration(f"imagefolder:{tmp_path}", None, 10, example)
    samples = source.samples(0, nn.Identity())
    assert samples.images.shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("criteria", "read"),
    [(["l1", "magnitude-init"], False), (["l1", "taylor"], True), (["apoz"], True)],
)
def test_which_criteria_read_images(criteria, read):
    assert read_images(criteria) is read


def test_the_network_before_training_is_of_the_same_architecture(tmp_path):
    opened = {}
    for name in ("digits_vgg", "digits_resnet"):
        torch.save(MODELS[name].make().state_dict(), tmp_path / f"{name}.pt")
        opened[name] = open_network(tmp_path / f"{name}.pt")
    before = network_before(tmp_path / "digits_vgg.pt", opened["digits_vgg"])
    assert type(before.model) is type(opened["digits_vgg"].model)
    assert network_before(None, Opened(before.model, None)) is None
    with pytest.raises(InputError, match="does not fit slimnet:digits_resnet"):
        network_before(tmp_path / "digits_vgg.pt", opened["digits_resnet"])


class Reads(torch.nn.Module):
    """Right on the first ``share`` of every ten images: the label is what the image is full of."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def forward(self, x):
        label = x.mean((1, 2, 3)).round().long()
        number = x[:, 0, 0, 0].sub(label).mul(1000).round().long() % 10
        wrong = number >= self.share * 10
        return torch.nn.functional.one_hot(torch.where(wrong, (label + 1) % 10, label), 10).float()


def numbered(count):
    labels = torch.arange(count) // 10 % 10
    images = labels.float().view(-1, 1, 1, 1).repeat(1, 1, 8, 8)
    images[:, 0, 0, 0] += torch.arange(count) % 10 / 1000
    return Samples(images, labels)


def recognised(model):
    return Opened(model, Arch("torchvision", "resnet18"), recognised=True)


def test_a_recognised_network_that_is_hardly_better_than_one_answer_is_refused():
    with pytest.raises(InputError) as refusal:
        check_recognised(Path("net.pt"), recognised(Reads(0.1)), numbered(400))
    assert str(refusal.value) == (
        "net.pt was recognised as torchvision:resnet18, and as torchvision:resnet18 is built, it "
        "is right on 10.0% of 400 images, where one answer for all of them is right on 10.0%: "
        "strides, padding and activations cannot be seen in weights, so say what built it with "
        "--arch, or see whether --data and --normalize are those that it was trained with"
    )


def test_what_a_recognised_network_is_right_on_is_said():
    told = check_recognised(Path("net.pt"), recognised(Reads(0.9)), numbered(1000))
    assert told == "as torchvision:resnet18 is built, it is right on 90.0% of 512 images"
    few = check_recognised(Path("net.pt"), recognised(Reads(0.1)), numbered(20))
    assert few == "as torchvision:resnet18 is built, it is right on 10.0% of 20 images"


def test_nothing_is_said_of_a_network_that_was_named_and_without_labels():
    named = Opened(Reads(0.0), Arch("torchvision", "resnet18"))
    assert check_recognised(Path("net.pt"), named, numbered(400)) is None
    images = Samples(numbered(400).images)
    assert check_recognised(Path("net.pt"), recognised(Reads(0.0)), images) is None
    assert check_recognised(Path("net.pt"), recognised(Reads(0.0)), None) is None
    broken = recognised(torch.nn.Linear(3, 3))
    assert check_recognised(Path("net.pt"), broken, numbered(400)) is None
