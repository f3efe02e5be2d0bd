"""The base schedule and the data of a training, from a command's options."""

from __future__ import annotations

from slimnet.cli.commands import Training
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


def data_of(name: str, training: Training) -> DataSpec:
    """What loads as many images of the data set as were asked for."""
    return DataSpec(name, training.normalize, training.train_images, training.test_images)
