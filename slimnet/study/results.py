"""What a study gives: one result per cell, and rows that sum the seeds up.

Of each metric of the task a row holds the mean over the seeds with the sample standard deviation
(n - 1), always of the last epoch; the first metric counts. Costs are stated in MACs x samples: one
forward pass per training sample.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from slimnet.errors import InputError
from slimnet.study.cells import Cell, Cut, Study, cut_json
from slimnet.study.facts import Facts
from slimnet.task import Metric
from slimnet.train import REGIMES
from slimnet.train.meter import Used


@dataclass(frozen=True)
class CellResult:
    """One finished cell."""

    cell: Cell
    facts: Facts  # of the network that was trained
    cut: Mapping[str, float]  # the task's metrics before any retraining
    metrics: Mapping[str, float]  # and after the last epoch
    epochs: int
    samples: int  # training samples seen, each epoch's counted anew
    seconds: float
    losses: tuple[float, ...] = ()  # of the training samples, epoch by epoch
    curve: tuple[float, ...] = ()  # the metric that counts, where it was measured after each epoch
    best: float | None = None  # the best of these; never compared
    rates: int = 1  # learning rates that were tried, to take the best of them
    used: Used = field(default_factory=Used, compare=False)  # by the training, beside its time

    @property
    def compute(self) -> float:
        """What the retraining took, in MACs x samples (forward passes only)."""
        return float(self.facts.macs) * self.samples

    def to_json(self) -> dict[str, Any]:
        """Every field, flat; ``CellResult.from_json`` reads it back."""
        own = {name: getattr(self, name) for name in _OWN}
        return {
            "cell": self.cell.to_json(),
            **own,
            **self.used.to_json(),
            **self.facts.to_json(),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> CellResult:
        """Read what ``to_json`` gave."""
        cut, metrics = (metrics_from(fields, *names) for names in (_CUT, _AFTER))
        rest: dict[str, Any] = {name: fields[name] for name in _COUNTS}
        rest |= {name: tuple(fields.get(name, ())) for name in _CURVES}
        rest |= {name: fields[name] for name in _LATER if name in fields}
        used = Used(*(fields.get(name) for name in ("memory", "energy")))
        facts = Facts.from_json(fields)
        return cls(Cell.from_json(fields["cell"]), facts, cut, metrics, **rest, used=used)


_COUNTS = ("epochs", "samples", "seconds")
_CURVES = ("losses", "curve")
_LATER = ("best", "rates")
_OWN = ("cut", "metrics", *_COUNTS, *_CURVES, *_LATER)
_CUT, _AFTER = ("cut", "accuracy_cut"), ("metrics", "accuracy")
ACCURACY = Metric("accuracy", "%")


def metrics_from(
    fields: Mapping[str, Any], name: str = "metrics", before: str = "accuracy"
) -> dict[str, float]:
    """Metrics in JSON; what was written ``before`` there were tasks is an accuracy alone."""
    found = fields[name] if name in fields else {ACCURACY.name: fields[before]}
    return {metric: float(value) for metric, value in found.items()}


def check_finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics; raises ``InputError`` for one that is no finite number."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise InputError(f"the metric {name} is {value}: nothing can be compared with that")
    return dict(metrics)


@dataclass(frozen=True)
class Spread:
    """One metric over the seeds of a row."""

    cut: float  # before any retraining
    mean: float
    std: float | None  # None where there is one run
    difference: float  # of the mean to the dense network as it was handed over


@dataclass(frozen=True)
class Row:
    """The seeds of one network and regime, summed up; ratios and speed-up are against the dense."""

    cut: Cut | None  # None: the dense network
    regime: str | None
    n: int
    facts: Facts  # of the network
    macs_ratio: float  # what remains, 1 for the dense network
    params_ratio: float
    metrics: Mapping[str, Spread]  # the one that counts is the first
    epochs: int
    compute: float  # MACs x samples of the retraining
    total_compute: float | None  # the dense network's training included where it was needed
    seconds: float  # mean of the runs
    best: float | None = None  # mean of the best epochs of the metric that counts, where measured
    used: Used = field(default_factory=Used)  # by a training; memory at most, the mean of energy

    @property
    def criterion(self) -> str | None:
        """What ranked its channels; None of the dense network."""
        return None if self.cut is None else self.cut.criterion

    @property
    def first(self) -> Spread:
        """The metric that counts."""
        return next(iter(self.metrics.values()))

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
        return {
            **cut_json(self.cut),
            **{name: value for name, value in asdict(self).items() if name not in _NESTED},
            **self.used.to_json(),
            "macs": self.facts.macs,
            "params": self.facts.params,
            "channels_removed": self.facts.channels_removed,
            "latency_ms": self.latency_ms,
            "speedup": self.speedup,
        }


_NESTED = ("cut", "facts", "used")


@dataclass(frozen=True)
class Kept:
    """A trained network that is kept; paths are relative to the study's folder."""

    cell: Cell
    file: str  # what ``slimnet.load`` opens
    onnx: str | None
    said: str  # how near the ONNX file comes to PyTorch, or why there is none

    def to_json(self) -> dict[str, Any]:
        """Every field; ``from_json`` reads it back."""
        return {**vars(self), "cell": self.cell.to_json()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Kept:
        """Read what ``to_json`` gave."""
        return cls(Cell.from_json(fields["cell"]), fields["file"], fields["onnx"], fields["said"])


@dataclass(frozen=True)
class Results:
    """A study, its data (:func:`~slimnet.task.facts_of`), a result per cell, the dense first."""

    study: Study
    data: Mapping[str, Any]
    records: tuple[CellResult, ...]
    metrics: tuple[Metric, ...] = (ACCURACY,)  # of the task
    kept: tuple[Kept, ...] = ()

    @property
    def metric(self) -> Metric:
        """The one that counts."""
        return self.metrics[0]

    @property
    def dense(self) -> CellResult:
        """The dense network as it was handed over."""
        for record in self.records:
            if record.cell.is_baseline:
                return record
        raise InputError("these results lack the dense network: nothing can be compared with it")

    @property
    def tested(self) -> int | None:
        """How many samples there are to test on; None where the task does not say."""
        count = self.data.get("test")
        return None if count is None else int(count)

    def digits(self, metric: Metric) -> int:
        """Decimals that mean something.

        Of a percentage one where a sample weighs more than a hundredth of a point; else four
        figures of the dense network's.
        """
        if metric.unit == "%":
            return 2 if (self.tested or 0) >= 10_000 else 1
        dense = abs(self.dense.metrics[metric.name])
        return min(max(3 - math.floor(math.log10(dense)), 0), 8) if dense else 4

    def summary(self) -> tuple[Row, ...]:
        """One row per network and regime, in the order in which they ran."""
        return tuple(_row(records, self) for records in self.groups().values())

    def whole_compute(self, row: Row) -> float | None:
        """``total_compute``; a dense training that is not known is taken as the base schedule's.

        Training at equal compute takes it for the same. None where nothing was trained.
        """
        epoch = next((each.samples / each.epochs for each in self.records if each.epochs), None)
        if row.total_compute is not None or epoch is None:
            return row.total_compute
        return row.compute + self.dense.facts.macs * self.study.base.epochs * epoch

    def groups(self) -> Mapping[tuple[Cut | None, str | None], Sequence[CellResult]]:
        """The seeds of each network and regime."""
        groups: dict[tuple[Cut | None, str | None], list[CellResult]] = {}
        for record in self.records:
            groups.setdefault((record.cell.cut, record.cell.regime), []).append(record)
        return groups

    def to_json(self) -> dict[str, Any]:
        """The study, every result, and the summary for those who only read."""
        return {
            "study": self.study.to_json(),
            "data": dict(self.data),
            "metrics": [metric.to_json() for metric in self.metrics],
            "records": [record.to_json() for record in self.records],
            "kept": [kept.to_json() for kept in self.kept],
            "summary": [row.to_json() for row in self.summary()],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Results:
        """Read what ``to_json`` gave."""
        records = tuple(CellResult.from_json(record) for record in fields["records"])
        metrics = tuple(Metric(**row) for row in fields.get("metrics", [ACCURACY.to_json()]))
        kept = tuple(map(Kept.from_json, fields.get("kept", ())))
        return cls(Study.from_json(fields["study"]), fields["data"], records, metrics, kept)


def _row(records: Sequence[CellResult], results: Results) -> Row:
    one, dense = records[0], results.dense
    return Row(
        cut=one.cell.cut,
        regime=one.cell.regime,
        n=len(records),
        facts=one.facts,
        macs_ratio=one.facts.macs / dense.facts.macs,
        params_ratio=one.facts.params / dense.facts.params,
        metrics={metric.name: _spread(metric.name, records, dense) for metric in results.metrics},
        epochs=one.epochs,
        compute=one.compute,
        total_compute=_total_compute(one, results.study),
        seconds=statistics.fmean(record.seconds for record in records),
        best=_mean_if_all([record.best for record in records]),
        used=Used(
            max((x for record in records if (x := record.used.memory) is not None), default=None),
            _mean_if_all([record.used.energy for record in records]),
        ),
    )


def _spread(name: str, records: Sequence[CellResult], dense: CellResult) -> Spread:
    values = [record.metrics[name] for record in records]
    mean = statistics.fmean(values)
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(records[0].cut[name], mean, std, mean - dense.metrics[name])


def _mean_if_all(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _total_compute(record: CellResult, study: Study) -> float | None:
    """Retraining, and the dense training wherever its weights are used."""
    regime = record.cell.regime
    if regime is not None and REGIMES[regime].start == "fresh":
        return record.compute
    return None if study.dense_compute is None else record.compute + study.dense_compute
