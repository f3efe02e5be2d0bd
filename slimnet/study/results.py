"""What a study gives: one result per cell, and rows that sum the seeds up.

A row's accuracy is the mean over the seeds with the sample standard deviation (n - 1), always of
the last epoch. Its cost is stated in MACs x images: one forward pass per training image.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slimnet.errors import InputError
from slimnet.study.cells import Cell, Study
from slimnet.study.facts import Facts
from slimnet.train import REGIMES


@dataclass(frozen=True)
class CellResult:
    """One finished cell."""

    cell: Cell
    facts: Facts  # of the network that was trained
    accuracy_cut: float  # percent, before any retraining
    accuracy: float  # percent, after the last epoch
    epochs: int
    samples: int  # training images seen, each epoch's counted anew
    seconds: float

    @property
    def compute(self) -> float:
        """What the retraining took, in MACs x images (forward passes only)."""
        return float(self.facts.macs) * self.samples

    def to_json(self) -> dict[str, Any]:
        """Every field, flat; ``CellResult.from_json`` reads it back."""
        own = {name: getattr(self, name) for name in _OWN}
        return {"cell": asdict(self.cell), **own, **self.facts.to_json()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> CellResult:
        """Read what ``to_json`` gave."""
        own = {name: fields[name] for name in _OWN}
        return cls(Cell.from_json(fields["cell"]), Facts.from_json(fields), **own)


_OWN = ("accuracy_cut", "accuracy", "epochs", "samples", "seconds")


@dataclass(frozen=True)
class Row:
    """The seeds of one network and regime, summed up; ratios and speed-up are against the dense."""

    criterion: str | None
    ratio: float
    regime: str | None
    n: int
    facts: Facts  # of the network
    macs_ratio: float  # what remains, 1 for the dense network
    params_ratio: float
    accuracy_cut: float
    accuracy: float
    std: float | None  # None where there is one run
    difference: float  # points of accuracy, against the dense network as it was handed over
    epochs: int
    compute: float  # MACs x images of the retraining
    total_compute: float | None  # the dense network's training included where it was needed
    seconds: float  # mean of the runs

    @property
    def latency_ms(self) -> float | None:
        """The median; None where it was not measured."""
        return None if self.facts.latency is None else self.facts.latency.median_ms

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the dense network; None where it was not measured."""
        return None if self.facts.latency is None else self.facts.latency.speedup

    def to_json(self) -> dict[str, Any]:
        """Every number, flat, for those who only read."""
        own = {name: value for name, value in vars(self).items() if name != "facts"}
        return {
            **own,
            "macs": self.facts.macs,
            "params": self.facts.params,
            "channels_removed": self.facts.channels_removed,
            "latency_ms": self.latency_ms,
            "speedup": self.speedup,
        }


@dataclass(frozen=True)
class Results:
    """A study, the data it ran on (``Dataset.facts()``) and a result per cell, the dense first."""

    study: Study
    data: Mapping[str, Any]
    records: tuple[CellResult, ...]

    @property
    def dense(self) -> CellResult:
        """The dense network as it was handed over."""
        for record in self.records:
            if record.cell.is_baseline:
                return record
        raise InputError("these results lack the dense network: nothing can be compared with it")

    def summary(self) -> tuple[Row, ...]:
        """One row per network and regime, in the order in which they ran."""
        groups: dict[tuple[str | None, float, str | None], list[CellResult]] = {}
        for record in self.records:
            key = (record.cell.criterion, record.cell.ratio, record.cell.regime)
            groups.setdefault(key, []).append(record)
        return tuple(_row(records, self.dense, self.study) for records in groups.values())

    def to_json(self) -> dict[str, Any]:
        """The study, every result, and the summary for those who only read."""
        return {
            "study": self.study.to_json(),
            "data": dict(self.data),
            "records": [record.to_json() for record in self.records],
            "summary": [row.to_json() for row in self.summary()],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Results:
        """Read what ``to_json`` gave."""
        records = tuple(CellResult.from_json(record) for record in fields["records"])
        return cls(Study.from_json(fields["study"]), fields["data"], records)


def _row(records: Sequence[CellResult], dense: CellResult, study: Study) -> Row:
    one = records[0]
    accuracies = [record.accuracy for record in records]
    accuracy = statistics.fmean(accuracies)
    return Row(
        criterion=one.cell.criterion,
        ratio=one.cell.ratio,
        regime=one.cell.regime,
        n=len(records),
        facts=one.facts,
        macs_ratio=one.facts.macs / dense.facts.macs,
        params_ratio=one.facts.params / dense.facts.params,
        accuracy_cut=one.accuracy_cut,
        accuracy=accuracy,
        std=statistics.stdev(accuracies) if len(records) > 1 else None,
        difference=accuracy - dense.accuracy,
        epochs=one.epochs,
        compute=one.compute,
        total_compute=_total_compute(one, study),
        seconds=statistics.fmean(record.seconds for record in records),
    )


def _total_compute(record: CellResult, study: Study) -> float | None:
    """Retraining, and the dense training wherever its weights are used."""
    regime = record.cell.regime
    if regime is not None and REGIMES[regime].start == "fresh":
        return record.compute
    return None if study.dense_compute is None else record.compute + study.dense_compute
