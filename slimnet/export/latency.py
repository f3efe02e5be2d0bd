"""How long one run takes, and whether the slim network is really faster.

Takes named candidates (ONNX files, or modules for the torch backend), the first being the one that
the others are compared with. All are warmed up, then timed in turn, round by round in one process,
each round beginning with another one, so that whatever disturbs the machine disturbs all alike.
Times are medians over the rounds; a speed-up is the median of the rounds' own ratios. The spread is
always that from the 10th to the 90th percentile of the rounds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

import slimnet.export.backends  # noqa: F401  (fills the registry)
from slimnet.errors import InputError
from slimnet.export.inputs import Example, random_inputs
from slimnet.export.runner import BACKENDS, Runner
from slimnet.text import first_line

Clock = Callable[[], float]


@dataclass(frozen=True)
class Timing:
    """One candidate: milliseconds for one run of the whole batch."""

    name: str
    median_ms: float
    low_ms: float  # 10th percentile of the rounds
    high_ms: float  # 90th percentile


@dataclass(frozen=True)
class Speedup:
    """How many times faster than the baseline: ratios of times measured in the same round."""

    name: str
    baseline: str
    median: float
    low: float  # 10th percentile of the rounds
    high: float  # 90th percentile

    @property
    def verdict(self) -> str:
        """``faster`` or ``slower`` where the whole spread says so, else ``undecided``."""
        if self.low > 1:
            return "faster"
        return "slower" if self.high < 1 else "undecided"


@dataclass(frozen=True)
class Latency:
    """What was measured, on what, and how."""

    timings: tuple[Timing, ...]
    speedups: tuple[Speedup, ...]  # of every candidate but the first, against the first
    backend: str
    provider: str
    device: str
    threads: int
    batch: int
    rounds: int
    versions: Mapping[str, str]

    @property
    def speedup(self) -> Speedup:
        """Of the second candidate against the first; InputError where there is only one."""
        if not self.speedups:
            raise InputError("one candidate alone has no speed-up: measure two")
        return self.speedups[0]

    def timing(self, name: str) -> Timing:
        """The candidate of this name."""
        for timing in self.timings:
            if timing.name == name:
                return timing
        names = ", ".join(timing.name for timing in self.timings)
        raise InputError(f"no candidate {name!r} was measured: the known ones are {names}")

    def sentence(self) -> str:
        """In words, for each candidate, whether it is faster than the first."""
        if not self.speedups:
            only = self.timings[0]
            return f"{only.name} runs in {_ms(only.median_ms)}"
        return "; ".join(self._compared(speedup) for speedup in self.speedups)

    def conditions(self) -> str:
        """In words, how it was measured."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            f"median of {self.rounds} interleaved rounds (10-90 %), batch {self.batch}, "
            f"{threads}, {self.provider}, {self.device}, {versions}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, the two sentences among them."""
        return asdict(self) | {"sentence": self.sentence(), "conditions": self.conditions()}

    def _compared(self, speedup: Speedup) -> str:
        slim, dense = self.timing(speedup.name), self.timing(speedup.baseline)
        times = f"{_ms(slim.median_ms)} against {_ms(dense.median_ms)}"
        ratio = f"{speedup.median:.2f}x"
        spread = f"({speedup.low:.2f}-{speedup.high:.2f})"
        if speedup.verdict == "faster":
            return f"{slim.name} runs in {times}: {ratio} faster {spread}"
        hint = _hint(dense, self.batch)
        if speedup.verdict == "slower":
            return f"{slim.name} is slower: {times}, {ratio} the speed {spread}; {hint}"
        return f"{slim.name} is not measurably faster: {times}, {ratio} {spread}; {hint}"


def _ms(milliseconds: float) -> str:
    """Three digits: ``1.92 ms``."""
    places = max(0, 2 - math.floor(math.log10(milliseconds))) if milliseconds > 0 else 2
    return f"{milliseconds:.{places}f} ms"


TINY_MS = 0.5  # below this the fixed cost of a call weighs as much as the arithmetic


def _hint(dense: Timing, batch: int) -> str:
    if dense.median_ms < TINY_MS:
        more = "try a larger batch" if batch == 1 else "measure a larger network"
        return f"the network is so small that the calls themselves cost most of it: {more}"
    return "widths that are multiples of 16 run best (align=16), and a deeper cut shows more"


def measure_latency(
    candidates: Mapping[str, Any],
    example: Example,
    *,
    batch: int = 1,
    threads: int | None = None,
    rounds: int = 30,
    warmup: int = 5,
    min_seconds: float = 0.01,
    backend: str = "onnxruntime",
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> Latency:
    """Time the candidates against each other on inputs like ``example`` at this batch size.

    ``threads=None`` takes torch's own number. A quick candidate runs several times per round, so
    that each reading lasts at least ``min_seconds``. Raises InputError for a candidate that cannot
    be read or run, UnknownNameError for a backend that does not exist.
    """
    _require(candidates, batch=batch, rounds=rounds, warmup=warmup)
    threads = threads or torch.get_num_threads()
    inputs = random_inputs(example, batch, seed)
    with ExitStack() as stack:
        runners = {
            name: stack.enter_context(BACKENDS[backend](candidate, inputs, threads))
            for name, candidate in candidates.items()
        }
        repeats = {
            name: _warm(name, runner, warmup, min_seconds, clock)
            for name, runner in runners.items()
        }
        seconds = _interleaved(runners, repeats, rounds, clock)
    return Latency(
        timings=tuple(_timing(name, times) for name, times in seconds.items()),
        speedups=tuple(_speedups(seconds)),
        backend=backend,
        provider=_joined(runner.provider for runner in runners.values()),
        device=_joined(runner.device for runner in runners.values()),
        threads=threads,
        batch=batch,
        rounds=rounds,
        versions={name: version(name) for name in ("onnxruntime", "onnx", "torch")},
    )


def _require(candidates: Mapping[str, Any], **counts: int) -> None:
    if not candidates:
        raise InputError("there is nothing to measure: name at least one candidate")
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name} is {count}: it must be at least 1")


def _warm(name: str, runner: Runner, warmup: int, min_seconds: float, clock: Clock) -> int:
    """Run without counting; how many runs make one reading long enough."""
    try:
        quickest = min(_seconds(runner, 1, clock) for _ in range(warmup))
    except Exception as error:  # whatever a runtime may raise on inputs that it does not take
        why = first_line(error)
        raise InputError(f"{name} does not run on these inputs: {why}") from error
    return max(1, math.ceil(min_seconds / quickest)) if quickest > 0 else 1


def _interleaved(
    runners: Mapping[str, Runner], repeats: Mapping[str, int], rounds: int, clock: Clock
) -> dict[str, np.ndarray[Any, Any]]:
    """Seconds per run, ``[rounds]`` for each candidate."""
    names = list(runners)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(_seconds(runners[name], repeats[name], clock))
    return {name: np.array(times) for name, times in seconds.items()}


def _seconds(runner: Runner, repeats: int, clock: Clock) -> float:
    start = clock()
    for _ in range(repeats):
        runner.run()
    return (clock() - start) / repeats


def _timing(name: str, seconds: np.ndarray[Any, Any]) -> Timing:
    low, median, high = np.percentile(seconds * 1e3, (10, 50, 90)).tolist()
    return Timing(name, median, low, high)


def _speedups(seconds: Mapping[str, np.ndarray[Any, Any]]) -> Iterator[Speedup]:
    baseline, *others = seconds
    for name in others:
        ratios = seconds[baseline] / seconds[name]
        low, median, high = np.percentile(ratios, (10, 50, 90)).tolist()
        yield Speedup(name, baseline, median, low, high)


def _joined(names: Iterator[str]) -> str:
    return ", ".join(dict.fromkeys(names))
