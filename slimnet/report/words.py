"""Numbers and findings as a person reads them, the same in the terminal and in the HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from slimnet.proof.certificate import Certificate
from slimnet.study import Kept, LatencyFacts, Results, Row, Spread, Study
from slimnet.study.cells import mask_of
from slimnet.task import Metric
from slimnet.tasks.classification import describe
from slimnet.text import decimal
from slimnet.train import REGIMES
from slimnet.train.reporting import duration

NOTHING = "–"


def amount(value: float) -> str:
    """Three digits and a unit: 1234567 is ``1.23 M``."""
    rounded = float(f"{value:.3g}")  # or 999999 would be 1000 k
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rounded >= size:
            return f"{rounded / size:#.3g} {unit}".replace(". ", " ")
    return f"{value:.0f}"


def part(value: float | None) -> str:
    """A share as a percentage."""
    return NOTHING if value is None else f"{100 * value:.0f} %"


def network(row: Row, *, short: bool = False) -> str:
    """The criterion, and what was asked for."""
    if row.cut is None:
        return "dense"
    return row.cut.label if short else str(row.cut)


def retraining(row: Row) -> str:
    """How a network was retrained."""
    return NOTHING if row.regime is None else REGIMES[row.regime].title


def meaning(regime: str) -> str:
    """What a regime does."""
    return REGIMES[regime].meaning


def label(metric: Metric, *, short: bool = False) -> str:
    """The name of a metric with its unit."""
    name = _SHORT.get(metric.name, metric.name) if short else metric.name
    return f"{name} {metric.unit}".strip()


_SHORT = {"accuracy": "acc."}


def spread(of: Spread, digits: int, sign: str = " ± ") -> str:
    """The mean, and its spread where there are several runs."""
    around = "" if of.std is None else f"{sign}{of.std:.{digits}f}"
    return f"{decimal(of.mean, digits)}{around}"


def difference(row: Row, digits: int) -> str:
    """The metric that counts against the dense network's, with its sign."""
    if row.criterion is None and row.regime is None:
        return NOTHING
    return f"{row.first.difference:+.{digits}f}".replace("-", "−")


def kept(results: Results, one: Kept) -> str:
    """The metric that a kept network itself has."""
    (record,) = (record for record in results.records if record.cell == one.cell)
    metric = results.metric
    number = decimal(record.metrics[metric.name], results.digits(metric))
    return f"{metric.name} {number} {metric.unit}".strip()


def milliseconds(value: float | None) -> str:
    """Three digits."""
    return NOTHING if value is None else f"{value:#.3g}".rstrip(".")


def times(value: float | None) -> str:
    """A speed-up."""
    return NOTHING if value is None else f"{value:.2f}×"


def sample(results: Results) -> str:
    """What one sample is called."""
    return "image" if "image" in results.data else "sample"


def data(facts: Mapping[str, Any]) -> str:
    """One sentence about the data of a study."""
    if "image" in facts:
        return describe(facts)
    counts = {"training": facts.get("train"), "test": facts.get("test")}
    known = " and ".join(f"{n} {split}" for split, n in counts.items() if n is not None)
    return f"{facts['name']}: {known} samples" if known else str(facts["name"])


def certificate_sentence(certificate: Certificate | None) -> str:
    """What the proof says, its error printed."""
    if certificate is None:
        return "Not verified: nothing was cut, or the proof was switched off."
    sentence = (
        "Proven: the slim network gives the same outputs as the original with every removed weight "
        f"set to zero. Largest relative error {certificate.error:.1e}, tolerance "
        f"{certificate.tolerance:.0e} ({certificate.dtype})."
    )
    if certificate.exact:
        return sentence
    return (
        f"{sentence} Where a statistic runs over the removed channels (below), the original takes "
        "it over the survivors only: there the cut itself changes what the network computes."
    )


def speed_sentence(latency: LatencyFacts | None) -> str:
    """Whether the slim network is faster, in words: as the measurement has judged.

    Where an older one has not, only where the whole spread says so.
    """
    if latency is None or latency.speedup is None:
        return "Latency was not measured."
    speedup = latency.speedup
    low = speedup if latency.speedup_low is None else latency.speedup_low
    high = speedup if latency.speedup_high is None else latency.speedup_high
    figures = f"{times(speedup)} its speed ({times(low)} to {times(high)} over the rounds)"
    verdict = latency.verdict or ("faster" if low > 1 else "slower" if high < 1 else "undecided")
    if verdict == "faster":
        return f"Faster than the dense network: {figures}."
    if verdict == "slower":
        return f"Slower than the dense network: {figures}."
    return f"Not measurably faster than the dense network: {figures}."


def costs(results: Results) -> str:
    """What all trainings of a study took together."""
    macs = sum(record.compute for record in results.records)
    seconds = sum(record.seconds for record in results.records)
    trained = sum(record.epochs > 0 for record in results.records)
    return f"All {trained} trainings together: {amount(macs)} MACs x samples, {duration(seconds)}."


def equal_compute(results: Results) -> str:
    """What stands for the dense network's training, where it is not known."""
    if results.study.dense_compute is not None:
        return ""
    return (
        "What the dense network's training took is not known: in all it counts as the base "
        f"schedule's {results.study.base.epochs} epochs, which training at equal compute is held "
        "to."
    )


def recipe(results: Results) -> str:
    """The base schedule, and what else decides the numbers."""
    study, base = results.study, results.study.base
    seeds = ", ".join(map(str, study.seeds))
    return (
        f"seeds {seeds}; the base schedule is {base.epochs} epochs of {base.optimizer} at learning "
        f"rate {base.lr:g}, {base.shape}, {base.batch} samples a batch, weight decay "
        f"{base.weight_decay:g}. results.json has every number of this page, and each cell's."
    )


def limits(results: Results) -> tuple[str, ...]:
    """What the numbers of a study cannot say."""
    sentences = [
        _noise(results),
        _seeds(results.study),
        "Metrics are those of the last epoch, never of the best one.",
    ]
    masked = [name for name in results.study.criteria if mask_of(name) is not None]
    if masked and "repaired" in results.study.starts:
        sentences.append(
            f"Nothing is cut by {' and '.join(masked)}: no row of theirs starts with a repair."
        )
    if _same_from_scratch(results):
        sentences.append(
            "From scratch only the widths matter: where two criteria leave the same widths, their "
            "rows are the same training and agree exactly."
        )
    if any(row.total_compute is None for row in results.summary()):
        sentences.append(
            "What training the dense network took is unknown, so the fine-tuned rows cannot be "
            "compared at equal total compute."
        )
    return tuple(sentences)


def _noise(results: Results) -> str:
    """What the size of the test split leaves open."""
    count, metric = results.tested, results.metric
    if count is None or "classes" not in results.data or metric.name != "accuracy":
        among = "" if count is None else f"{count} test samples: "
        sentence = (
            f"{among}how far {metric.name} would differ on another test split is not known here. "
            "Differences smaller than the ± of the seeds are not findings."
        )
        return sentence[0].upper() + sentence[1:]
    share = min(max(results.dense.metrics[metric.name] / 100, 1 / count), 1 - 1 / count)
    noise = 196 * math.sqrt(share * (1 - share) / count)
    return (
        f"{count} test images: one of them is {100 / count:.2g} points, and an accuracy near the "
        f"dense network's is known to about ±{noise:.1f} points (95 %, binomial). Smaller "
        "differences between rows are not findings."
    )


def _same_from_scratch(results: Results) -> bool:
    """Whether two criteria's rows are one and the same training."""
    fresh = [
        (row.cut and row.cut.budget, row.regime, row.facts.macs, row.first.mean, row.first.std)
        for row in results.summary()
        if row.regime is not None and REGIMES[row.regime].start == "fresh"
    ]
    return len(set(fresh)) < len(fresh)


def _seeds(study: Study) -> str:
    count = len(study.seeds)
    if count == 1:
        return "One seed: nothing is known about the spread between runs."
    repaired = " and the samples that a repair reads" if "repaired" in study.starts else ""
    return (
        f"{count} seeds vary the order of the samples{repaired} and, from scratch, the initial "
        "weights; the dense network and the cut are the same in all of them, so their spread is "
        "neither in the ± nor in the verdicts."
    )


def groups_removed(groups: Sequence[Mapping[str, Any]]) -> str:
    """How many channels a list of ``{layers, before, after}`` lost."""
    before = sum(group["before"] for group in groups)
    after = sum(group["after"] for group in groups)
    touched = sum(group["before"] != group["after"] for group in groups)
    return f"{touched} of {len(groups)} groups cut, {before} → {after} channels"
