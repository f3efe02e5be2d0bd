"""The images of a study are found again, or refused where they are others."""

import dataclasses
import logging
import pickle

import pytest
import torch
from small_study import SPEC

from slimnet.errors import InputError
from slimnet.study.data import keep_data
from slimnet.tasks.data import DataSpec


@pytest.fixture
def data():
    return SPEC.load()


def elsewhere(kept):
    return pickle.loads(pickle.dumps(kept))


def test_a_name_loads_the_same_images_elsewhere(data, tmp_path):
    kept = keep_data(data, SPEC, tmp_path)
    assert not list(tmp_path.iterdir())
    assert kept.load(tmp_path) is data
    assert len(pickle.dumps(kept)) < 500
    assert elsewhere(kept).load(tmp_path).fingerprint() == data.fingerprint()


def test_images_without_a_name_are_written_once(data, tmp_path):
    part = dataclasses.replace(data, x_train=data.x_train[::2], y_train=data.y_train[::2])
    kept = keep_data(part, None, tmp_path)
    (path,) = tmp_path.iterdir()
    before = path.stat().st_mtime_ns
    again = elsewhere(keep_data(part, None, tmp_path))
    assert path.stat().st_mtime_ns == before
    loaded = again.load(tmp_path)
    assert (loaded.fingerprint(), again) == (part.fingerprint(), kept)
    assert torch.equal(loaded.x_train[torch.arange(100)], part.x_train)


def test_damaged_images_are_written_again(data, tmp_path, caplog):
    keep_data(data, None, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        kept = keep_data(data, None, tmp_path)
    assert caplog.messages == [
        f"{path} is damaged: it is kept as {path.name}.damaged, and the data are written again"
    ]
    assert elsewhere(kept).load(tmp_path).fingerprint() == data.fingerprint()


def test_other_images_under_the_same_name_are_refused(data, tmp_path):
    kept = elsewhere(keep_data(data, DataSpec("digits", train=199, test=100), tmp_path))
    with pytest.raises(InputError, match="digits: these are not the data that the study began"):
        kept.load(tmp_path)


class OnDisk:
    """Images that are read one by one."""

    def __init__(self, images):
        self.images = images
        self.shape = images.shape

    def __getitem__(self, indices):
        return self.images[indices]

    def content(self):
        return b"these"


def test_images_on_a_disk_that_nobody_named_are_for_one_process(data, tmp_path):
    kept = keep_data(dataclasses.replace(data, x_train=OnDisk(data.x_train)), None, tmp_path)
    assert not list(tmp_path.iterdir())
    assert isinstance(kept.load(tmp_path).x_train, OnDisk)
    with pytest.raises(InputError, match="do not lie in memory: name them"):
        elsewhere(kept).load(tmp_path)
