"""The base schedule and the data of a training, from a command's options."""

from __future__ import annotations

from slimnet.cli.commands import Training
from slimnet.train import Dataset, Schedule, load_data


def schedule_of(training: Training) -> Schedule:
    """Raises :class:`~slimnet.errors.InputError` for one that nobody could train by."""
    return Schedule(
        epochs=training.epochs,
        lr=training.lr,
        batch=training.train_batch,
        weight_decay=training.weight_decay,
    )


def data_of(name: str, training: Training) -> Dataset:
    """As many images of the data set as were asked for."""
    dataset = load_data(name, training.normalize)
    return dataset.limited(train=training.train_images, test=training.test_images)
