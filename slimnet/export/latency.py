"""How long one run takes, and whether the slim network is really faster.

Takes named candidates (ONNX files, or modules for the torch backends), the first being the one that
the others are compared with. All are warmed up, then timed in turn, round by round in one process
that keeps to as many cores as it has threads, each round beginning with another candidate, so that
whatever disturbs the machine disturbs all alike. Each reading is one of two clocks
(:mod:`.clock`), and one of them decides. Times are medians over the rounds; a speed-up is the
median of the rounds' own ratios (:mod:`.readings`). What else the machine did meanwhile is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from os import cpu_count
from typing import Any, TypeAlias

import numpy as np
import torch

import slimnet.export.backends  # noqa: F401  (fills the registry)
from slimnet.errors import InputError
from slimnet.export.clock import Clock, Kind, deciding
from slimnet.export.inputs import Example, random_inputs
from slimnet.export.machine import (
    Moment,
    frequency_remarks,
    load_remarks,
    others_between,
    wait_remarks,
)
from slimnet.export.pinning import Cores, pinned
from slimnet.export.readings import Seconds, Speedup, Timing, speedup_of, timing_of
from slimnet.export.runner import BACKENDS
from slimnet.text import count, first_line


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
    decides: Kind = "wall"  # the clock of the timings and speed-ups
    cores: Cores = ()  # that the process was pinned to
    remarks: tuple[str, ...] = ()  # sentences: what spoke against trusting the times

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

    def per_second(self, name: str) -> float:
        """Samples per second: the batch over the median."""
        return self.batch / self.timing(name).median_ms * 1e3

    def sentence(self) -> str:
        """In words, for each candidate, whether it is faster than the first."""
        if not self.speedups:
            only = self.timings[0]
            return f"{only.name} runs in {_ms(only.median_ms)}"
        return "; ".join(self._compared(speedup) for speedup in self.speedups)

    def conditions(self, batches: Sequence[int] = ()) -> str:
        """In words, how it was measured; ``batches`` are all of them, where there are several."""
        sizes = ", ".join(map(str, batches or (self.batch,)))
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        pinned = f", pinned to {count(len(self.cores), 'core')}" if self.cores else ""
        return (
            f"median {self.decides} time of {self.rounds} interleaved rounds (10-90 %), "
            f"batch {sizes}, {count(self.threads, 'thread')}, {self.provider}, "
            f"{self.device}{pinned}, {versions}"
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
        if speedup.verdict == "undecided" and speedup.high > _FAR * speedup.low:
            hint = "the rounds differ too much to tell: measure again while less else runs"
        if speedup.verdict == "slower":
            return f"{slim.name} is slower: {times}, {ratio} the speed {spread}; {hint}"
        return f"{slim.name} is not measurably faster: {times}, {ratio} {spread}; {hint}"


def three_digits(number: float) -> str:
    """``1.92``, ``0.350``, ``1604``."""
    places = max(0, 2 - math.floor(math.log10(number))) if number > 0 else 2
    return f"{number:.{places}f}"


def _ms(milliseconds: float) -> str:
    return f"{three_digits(milliseconds)} ms"


_FAR = 1.5
"""So many times as high as its low end, a spread is that of a busy machine."""
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
    clock: Clock | None = None,
) -> Latency:
    """Time the candidates against each other on inputs like ``example`` at this batch size.

    ``threads=None`` takes torch's own number. A quick candidate runs several times per round, so
    that each reading lasts at least ``min_seconds``. Raises InputError for a candidate that cannot
    be read or run, UnknownNameError for a backend that does not exist.
    """
    _require(candidates, batch=batch, rounds=rounds, warmup=warmup)
    threads, clock = threads or torch.get_num_threads(), clock or Clock()
    inputs = random_inputs(example, batch, seed)
    with ExitStack() as stack:
        cores = stack.enter_context(pinned(threads))  # before the runtimes start their threads
        runners = {
            name: stack.enter_context(BACKENDS[backend](candidate, inputs, threads))
            for name, candidate in candidates.items()
        }
        readings: dict[str, Reading] = {
            name: partial(clock.timed, runner.run, alone=threads == 1 and runner.in_caller)
            for name, runner in runners.items()
        }
        repeats = {name: _warm(name, read, warmup, min_seconds) for name, read in readings.items()}
        before = Moment.now()
        seconds = _interleaved(readings, repeats, rounds)
        others = others_between(before, Moment.now())
    decides = deciding(threads, on_cpu=all(runner.on_cpu for runner in runners.values()))
    decisive = {name: each[:, _COLUMNS.index(decides)] for name, each in seconds.items()}
    timings = tuple(
        timing_of(name, each[:, 0], each[:, 1], decisive[name]) for name, each in seconds.items()
    )
    first, *rest = decisive
    return Latency(
        timings=timings,
        speedups=tuple(speedup_of(name, first, decisive[name], decisive[first]) for name in rest),
        backend=backend,
        provider=_joined(runner.provider for runner in runners.values()),
        device=_joined(runner.device for runner in runners.values()),
        threads=threads,
        batch=batch,
        rounds=rounds,
        versions={name: version(name) for name in ("onnxruntime", "onnx", "torch")},
        decides=decides,
        cores=cores,
        remarks=tuple(_remarks(timings, decides, others, threads, cores)),
    )


def _require(candidates: Mapping[str, Any], **counts: int) -> None:
    if not candidates:
        raise InputError("there is nothing to measure: name at least one candidate")
    for name, number in counts.items():
        if number < 1:
            raise InputError(f"{name} is {number}: it must be at least 1")


Reading: TypeAlias = Callable[[int], tuple[float, float]]
"""How many runs → wall and CPU seconds of one."""


def _warm(name: str, read: Reading, warmup: int, min_seconds: float) -> int:
    """Run without counting; how many runs make one reading long enough."""
    try:
        quickest = min(read(1)[0] for _ in range(warmup))
    except InputError:
        raise
    except Exception as error:  # whatever a runtime may raise on inputs that it does not take
        why = first_line(error)
        raise InputError(f"{name} does not run on these inputs: {why}") from error
    return max(1, math.ceil(min_seconds / quickest)) if quickest > 0 else 1


_COLUMNS: tuple[Kind, ...] = ("wall", "CPU")


def _interleaved(
    readings: Mapping[str, Reading], repeats: Mapping[str, int], rounds: int
) -> dict[str, Seconds]:
    """Seconds per run, ``[rounds, 2]`` for each candidate: wall and CPU."""
    names = list(readings)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(readings[name](repeats[name]))
    return {name: np.array(times) for name, times in seconds.items()}


def _remarks(
    timings: Sequence[Timing], decides: Kind, others: float, threads: int, cores: Cores
) -> Iterator[str]:
    """What disturbed it, and what may have."""
    yield from load_remarks(others, cpu_count() or 1, threads)
    slowest = max(timings, key=lambda each: (each.wall_ms or 0) / (each.cpu_ms or 1))
    if decides == "CPU" and slowest.wall_ms and slowest.cpu_ms:
        yield from wait_remarks(slowest.wall_ms, slowest.cpu_ms)
    yield from frequency_remarks(cores or range(cpu_count() or 1))


def _joined(names: Iterator[str]) -> str:
    return ", ".join(dict.fromkeys(names))
