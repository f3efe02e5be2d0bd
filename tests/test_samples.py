import pytest
import torch

from slimnet.errors import InputError
from slimnet.samples import Samples, batch_sizes, samples_of

IMAGES, LABELS = torch.randn(7, 3, 4, 4), torch.arange(7)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_batches_are_the_samples_in_their_order(size):
    parts = list(Samples(IMAGES, LABELS).batches(size))
    assert max(map(len, parts)) == min(size, 7)
    assert torch.equal(torch.cat([part.images for part in parts]), IMAGES)
    assert torch.equal(torch.cat([part.labels for part in parts]), LABELS)


def test_labels_may_be_lacking():
    samples = samples_of(IMAGES)
    assert [part.labels for part in samples.batches(4)] == [None, None]
    assert samples.first(2).labels is None and len(samples.first(2)) == 2
    assert samples.to(torch.device("cpu")).labels is None
    assert samples_of(samples) is samples and samples_of(None) is None


@pytest.mark.parametrize(
    "images", [torch.zeros(3), torch.zeros(0, 3, 4, 4), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)]
)
def test_what_are_no_images(images):
    with pytest.raises(InputError, match=r"calibration images are .* normalised"):
        Samples(images)


@pytest.mark.parametrize("labels", [torch.arange(6), torch.ones(7), torch.zeros(7, 10).long()])
def test_what_are_no_labels(labels):
    with pytest.raises(InputError, match=r"one whole number .* for each of the 7 images"):
        Samples(IMAGES, labels)


@pytest.mark.parametrize("data", [[1, 2], "digits", IMAGES.numpy()])
def test_what_is_no_tensor_is_named(data):
    with pytest.raises(InputError, match=type(data).__name__):
        samples_of(data)
    with pytest.raises(InputError, match=type(data).__name__):
        Samples(IMAGES, data)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_one_broken_pixel_is_found(number):
    images = IMAGES.clone()
    images[3, 1, 2, 2] = number
    with pytest.raises(InputError, match=r"1 of the 7 .* the first of them number 3"):
        samples_of(images)


@pytest.mark.parametrize("images", [torch.zeros(4, 3, 2, 2), IMAGES[:1].repeat(5, 1, 1, 1)])
def test_images_that_are_all_alike_say_nothing(images):
    with pytest.raises(InputError, match=f"all {len(images)} calibration images are the same"):
        samples_of(images)
    assert len(samples_of(images[:1])) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_no_image_is_alone_in_the_last_batch(size):
    for count in range(1, 20):
        sizes = batch_sizes(count, size)
        assert sum(sizes) == count
        assert max(sizes) <= max(size, 3 if size == 2 else size)
        assert size == 1 or count == 1 or 1 not in sizes
