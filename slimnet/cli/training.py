"""The base schedule and the data of a training, from a command's options."""

from __future__ import annotations

from slimnet.cli.commands import Files, Training
from slimnet.files.access import Opened
from slimnet.tasks.data import DataSpec
from slimnet.train import Schedule


def schedule_of(training: Training) -> Schedule:
    """Raises :class:`~slimnet.errors.InputError` for one that nobody could train by."""
    return Schedule(
        epochs=training.epochs,
        lr=training.lr,
        batch=training.train_batch,
        weight_decay=training.weight_decay,
    )


def data_of(name: str, training: Training, opened: Opened, files: Files) -> DataSpec:
    """What loads as much of the data as was asked for, pictures as large as the network's usual."""
    usual = None if opened.arch is None else opened.arch.input_shape
    shape = files.input[0] if files.input else usual
    size = {} if shape is None else {"size": shape[-1]}
    images = training.train_images, training.test_images
    return DataSpec(name, training.normalize, *images, **size)
