import pytest
import torch

from slimnet.errors import InputError
from slimnet.samples import Samples, samples_of

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
