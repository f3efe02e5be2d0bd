import pytest
import torch

from slimnet.calibration import network_before, read_images, read_samples
from slimnet.errors import InputError
from slimnet.files import Opened, open_network
from slimnet.models import MODELS
from slimnet.train import load_data

EXAMPLE = (torch.zeros(1, 1, 8, 8),)


def test_samples_are_training_images_that_the_seed_draws():
    drawn, again, other = (read_samples("digits", "none", 20, EXAMPLE, s) for s in (3, 3, 4))
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
    assert read_samples(None, None, 10, EXAMPLE, 0) is None


def test_an_image_folder_is_read_as_large_as_the_example(tmp_path):
    from PIL import Image

    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.new("RGB", (40, 30), "red").save(tmp_path / split / "cat" / "one.png")
    example = (torch.zeros(1, 3, 16, 16),)
    samples = read_samples(f"imagefolder:{tmp_path}", None, 10, example, 0)
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
    assert type(before) is type(opened["digits_vgg"].model)
    assert network_before(None, Opened(before, None)) is None
    with pytest.raises(InputError, match="does not fit slimnet:digits_resnet"):
        network_before(tmp_path / "digits_vgg.pt", opened["digits_resnet"])
