"""The base schedule and the data of a training, from a command's options."""

from __future__ import annotations

from dataclasses import replace

from slimnet.cli.commands import Files, Training
from slimnet.files.access import Opened
from slimnet.rewinding import Rewinds
from slimnet.tasks.data import DataSpec
from slimnet.train import Schedule
from slimnet.train.protocols import PROTOCOLS


def schedule_of(training: Training, history: Rewinds | None = None) -> Schedule:
    """That of a protocol, or else of the dense network's history, with what was typed of it.

    Raises :class:`~slimnet.errors.InputError` for one that nobody could train by.
    """
    known = None if history is None else history.trained
    usual = PROTOCOLS["liu-cifar"] if known is None else known.schedule
    schedule = PROTOCOLS[training.protocol] if training.protocol else usual
    typed = {field: getattr(training, name) for field, name in _TYPED.items()}
    return replace(schedule, **{field: x for field, x in typed.items() if x is not None})


_TYPED = {
    "epochs": "epochs",
    "lr": "lr",
    "batch": "train_batch",
    "weight_decay": "weight_decay",
}


def data_of(name: str, training: Training, opened: Opened, files: Files) -> DataSpec:
    """What loads as much of the data as was asked for, pictures as large as the network's usual."""
    images = training.train_images, training.test_images
    return sized(DataSpec(name, training.normalize, *images), opened, files)


def sized(spec: DataSpec, opened: Opened, files: Files) -> DataSpec:
    """The same, pictures as large as the network's usual."""
    usual = None if opened.arch is None else opened.arch.input_shape
    shape = files.input[0] if files.input else usual
    return spec if shape is None else replace(spec, size=shape[-1])
