"""Dense networks trained from the beginning, and the weights on their way, to rewind to.

A history is a folder: ``epoch-0010.pt``, a plain state dict, for each epoch that is kept (epoch 0
is before the first step), and ``history.json``, which says how the network was trained. A folder of
a user's own checkpoints will do: the last number in a file's name is its epoch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimnet.capture.modules import copied
from slimnet.digest import digest
from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.networks.checkpoint import read_state
from slimnet.output import make_folder, write_json, write_torch
from slimnet.task import Task, fingerprint_of
from slimnet.text import first_line
from slimnet.train import Callback, History, Moment, Schedule, measure
from slimnet.train.checkpoint import Checkpoint, state_of
from slimnet.train.resumable import train_kept

ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
RECORD = "history.json"


@dataclass(frozen=True)
class Trained:
    """How the network of a history was trained."""

    schedule: Schedule
    seed: int
    samples: int  # of the training split, each epoch's counted anew
    metrics: Mapping[str, float]  # after the last epoch
    macs: int | None = None  # of one sample

    @property
    def compute(self) -> float | None:
        """MACs x samples (forward passes only); None where the MACs are unknown."""
        return None if self.macs is None else float(self.macs) * self.samples

    def to_json(self) -> dict[str, Any]:
        """Every field; ``from_json`` reads it back."""
        return {**asdict(self), "schedule": self.schedule.to_json()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Trained:
        """Read what ``to_json`` gave."""
        return cls(**{**fields, "schedule": Schedule.from_json(fields["schedule"])})


@dataclass(frozen=True)
class Rewinds:
    """The weights that a dense network had after some of its epochs, in a folder."""

    folder: Path

    @cached_property
    def files(self) -> Mapping[int, Path]:
        """By epoch; raises :class:`InputError` where two files are of one."""
        found: dict[int, Path] = {}
        if not self.folder.is_dir():
            raise InputError(f"{self.folder} is no folder: a history is one, of checkpoints")
        for path in sorted(self.folder.iterdir()):
            numbers = re.findall(r"\d+", path.stem)
            if path.suffix.lower() not in ENDINGS or not numbers:
                continue
            epoch = int(numbers[-1])
            if epoch in found:
                raise InputError(
                    f"{found[epoch]} and {path} are both of epoch {epoch}: the last number in a "
                    "file's name is its epoch; keep one of them there"
                )
            found[epoch] = path
        return found

    def state(self, epoch: int) -> Mapping[str, Any]:
        """The weights of an epoch; raises :class:`InputError` where they are not there."""
        if epoch not in self.files:
            held = ", ".join(map(str, sorted(self.files))) or "none"
            raise InputError(
                f"{self.folder} holds no weights of epoch {epoch}: it has those of {held}; slimnet "
                f"train --snapshots {epoch} keeps them"
            )
        return read_state(self.files[epoch])

    def write_into(self, model: nn.Module, epoch: int) -> None:
        """Load the weights of an epoch into a network of the same class, in place."""
        state = self.state(epoch)
        try:
            model.load_state_dict(dict(state))
        except RuntimeError as error:
            why = first_line(error)
            raise InputError(f"{self.files[epoch]} is of another network: {why}") from error

    def keep(self, model: nn.Module, epoch: int) -> None:
        """Write the weights as they are now as those of an epoch."""
        make_folder(self.folder)
        write_torch(self.folder / f"epoch-{epoch:04}.pt", state_of(model))

    def stamp(self, epoch: int) -> str:
        """A digest of the weights of an epoch."""
        return digest(dict(self.state(epoch)))

    @property
    def trained(self) -> Trained | None:
        """How they came about; None in a folder of a user's own checkpoints."""
        path = self.folder / RECORD
        if not path.exists():
            return None
        try:
            return Trained.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is damaged: train again, or remove it") from error


class Keeping(Callback):
    """Keeps the weights of some epochs, 0 included, while a network trains."""

    def __init__(self, rewinds: Rewinds, epochs: Collection[int]) -> None:
        self._rewinds, self._epochs = rewinds, frozenset(epochs)

    def on_start(self, moment: Moment) -> None:
        """Before the first step: epoch 0. A training that is taken up begins there, too."""
        self._keep(moment.model, 0)

    def on_epoch_end(self, moment: Moment) -> None:
        """So many epochs are done."""
        self._keep(moment.model, moment.epoch + 1)

    def _keep(self, model: nn.Module, epoch: int) -> None:
        if epoch in self._epochs:
            self._rewinds.keep(model, epoch)


@dataclass(frozen=True, eq=False)
class TrainedDense:
    """A dense network that was trained, and what the training did."""

    model: nn.Module
    before: Mapping[str, float]  # metrics as it was
    history: History
    resumed: int = 0  # epochs that an earlier run had done

    def to_json(self) -> dict[str, Any]:
        """Everything but the network."""
        history = self.history.to_json()
        return {"before": dict(self.before), "history": history, "resumed": self.resumed}


def train_dense(
    model: nn.Module,
    task: Task,
    schedule: Schedule,
    *,
    seed: int = 0,
    rewinds: Rewinds | None = None,
    epochs: Collection[int] = (),
    macs: int | None = None,
    checkpoint: Path | None = None,
    device: torch.device | str | None = None,
    callbacks: Sequence[Callback] = (),
    progress: Callable[[float], None] | None = None,
) -> TrainedDense:
    """Train a copy of ``model`` as it is, and keep the weights of some ``epochs`` on the way.

    Args:
        model, task, schedule, seed: what is trained, on what, how long.
        rewinds: where the weights of ``epochs`` are kept; 0 is before the first step.
        macs: of one sample, for the record.
        checkpoint: written after every epoch; one of the same training is taken up.

    Raises :class:`~slimnet.errors.InputError` for epochs that the schedule does not come to.
    """
    if late := [epoch for epoch in epochs if not 0 <= epoch <= schedule.epochs]:
        raise InputError(
            f"there is no epoch {late[0]} to keep: the training goes from 0 to {schedule.epochs}"
        )
    copy = copied(Network.of(model))
    before = measure(copy, task, device)
    file = None
    if checkpoint is not None:
        identity = {"data": fingerprint_of(task), "schedule": schedule.to_json(), "seed": seed}
        file = Checkpoint.of(checkpoint, model, identity)
    keeping = [] if rewinds is None else [Keeping(rewinds, epochs)]
    history, resumed = train_kept(
        copy,
        task,
        schedule,
        file,
        seed=seed,
        device=device,
        progress=progress,
        callbacks=[*keeping, *callbacks],
    )
    if rewinds is not None:
        make_folder(rewinds.folder)
        record = Trained(schedule, seed, history.samples, history.metrics, macs)
        write_json(rewinds.folder / RECORD, record.to_json())
    return TrainedDense(copy, before, history, resumed)
