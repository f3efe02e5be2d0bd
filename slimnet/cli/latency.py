"""``slimnet latency``: files timed beside each other, and what may have disturbed it.

Files of several batch sizes are measured one size after the other. The peak memory of each is that
of a process of its own, which opens the file and runs it once.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import nn

from slimnet.cli import commands, console
from slimnet.cli.shared import device_called, inputs_of, on_device, open_any, print_json
from slimnet.errors import InputError
from slimnet.export import BACKENDS, Latency, Timing, measure_latency
from slimnet.export.file_inputs import example_of_file
from slimnet.export.inputs import Example, batch_of, check_batch, random_inputs
from slimnet.export.latency import three_digits
from slimnet.export.weights import denormal_remarks, file_bytes
from slimnet.memory import peak_bytes
from slimnet.text import legible

ONNX = ".onnx"


@dataclass(frozen=True)
class Measured:
    """All files at one batch size."""

    latency: Latency
    peak_bytes: Mapping[str, int | None]  # by the name of the file; None where nobody says


def latency(options: commands.Latency) -> None:
    """Refuse, open, measure, show."""
    backend = _backend(options)
    _ = BACKENDS[backend]
    names = _names(options.file)
    opened = {name: _open(path, options) for name, path in names.items()}
    candidates = {name: candidate for name, (candidate, _) in opened.items()}
    example = next(iter(opened.values()))[1]
    batches = options.batch or (batch_of(example),)
    for batch in batches:
        check_batch(example, batch)
    measured = []
    with console.watching(quiet=options.run.json) as watch:
        for n, batch in enumerate(batches):
            watch(f"measuring batch {batch}", n / len(batches))
            timed = _timed(options, backend, candidates, example, batch)
            watch(f"reading the memory at batch {batch}", (n + 0.7) / len(batches))
            peaks = {name: _peak(options, path, batch) for name, path in names.items()}
            measured.append(Measured(timed, peaks))
    sizes = {name: file_bytes(path) for name, path in names.items()}
    remarks = list(_remarks(measured, candidates))
    if options.run.json:
        print_json(_record(measured, sizes, remarks))
    else:
        _show(measured, sizes, remarks)


def _backend(options: commands.Latency) -> str:
    """The one that was named, or the usual one of such files."""
    kinds = {path.suffix.lower() == ONNX for path in options.file}
    if len(kinds) > 1:
        raise InputError(
            "ONNX files and networks are named together, which run in different runtimes: export "
            "the networks (slimnet export), or time either alone"
        )
    if kinds == {True} and (options.files.example or options.run.device):
        raise InputError("--example and --device are for networks: leave them out for ONNX files")
    return options.backend or ("onnxruntime" if kinds == {True} else "torch")


def _names(files: Sequence[Path]) -> dict[str, Path]:
    """Each file by its path; the second of the same has a number."""
    names: dict[str, Path] = {}
    for path in files:
        again = sum(path == other for other in names.values())
        names[f"{path} ({again + 1})" if again else str(path)] = path
    return names


def _open(path: Path, options: commands.Latency) -> tuple[Path | nn.Module, Example]:
    """What a backend times, and inputs for it."""
    if path.suffix.lower() == ONNX:
        return path, example_of_file(path, options.files.input)
    opened = open_any(path, options.files, program=True)
    example, _ = inputs_of(path, opened, options.files)
    return on_device(device_called(options.run.device), opened.model, example)


def _timed(
    options: commands.Latency,
    backend: str,
    candidates: Mapping[str, Path | nn.Module],
    example: Example,
    batch: int,
) -> Latency:
    return measure_latency(
        candidates,
        example,
        batch=batch,
        threads=options.threads,
        rounds=options.rounds,
        backend=backend,
        seed=options.run.seed,
    )


def _peak(options: commands.Latency, path: Path, batch: int) -> int | None:
    """Bytes of memory that opening a file and one run take, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    deaf = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to both: who began it says so
    with ProcessPoolExecutor(1, context, signal.signal, deaf) as pool, suppress(Exception):
        return pool.submit(own_peak, options, path, batch).result()
    return None  # it ran here, so what failed there is no fault of the file


def own_peak(options: commands.Latency, path: Path, batch: int) -> int | None:
    """The same in this process."""
    torch.set_num_threads(options.threads)
    if path.suffix.lower() != ONNX:
        import torchvision  # noqa: F401  (opening a network imports it, and it is not the network's)

    def once() -> None:
        candidate, example = _open(path, options)
        inputs = random_inputs(example, batch, options.run.seed)
        with BACKENDS[_backend(options)](candidate, inputs, options.threads) as runner:
            runner.run()

    return peak_bytes(once)


def _remarks(
    measured: Sequence[Measured], candidates: Mapping[str, Path | nn.Module]
) -> Iterator[str]:
    """What speaks against the times, each once: that of the last batch, where numbers differ."""
    remarks = (remark for each in measured for remark in each.latency.remarks)
    yield from {remark.partition(":")[0]: remark for remark in remarks}.values()
    for name, candidate in candidates.items():
        yield from denormal_remarks(name, candidate)


def _record(
    measured: Sequence[Measured], sizes: Mapping[str, int], remarks: Sequence[str]
) -> dict[str, Any]:
    batches = [each.latency.to_json() | {"peak_bytes": each.peak_bytes} for each in measured]
    return {"bytes": sizes, "measured": batches, "remarks": remarks}


def _show(measured: Sequence[Measured], sizes: Mapping[str, int], remarks: Sequence[str]) -> None:
    first = measured[0].latency
    several, wide = len(measured) > 1, console.out.width >= _WIDE
    other = "wall" if first.decides == "CPU" else "CPU"
    times = (f"{first.decides} ms (95 %)", "p90", f"{other} ms", "samples/s")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in ("file", *["batch"] * several, "MB", *times, "memory MB", "speed (95 %)"):
        justify: Any = "left" if column in ("file", "speed (95 %)") else "right"
        table.add_column(column, justify=justify, overflow="fold")
    for each in measured:
        batch = [str(each.latency.batch)] * several
        for timing in each.latency.timings:
            size, peak = sizes[timing.name], each.peak_bytes[timing.name]
            speed = _speed(each.latency, timing.name)
            row = (*_times(each.latency, timing), _megabytes(peak), speed)
            row = row if wide else tuple(text.replace(" ", "\n", 1) for text in row)
            table.add_row(legible(timing.name), *batch, _megabytes(size), *row)
    console.show(table)
    console.note(first.conditions([each.latency.batch for each in measured]))
    for remark in remarks:
        console.say(f"note: {remark}")


_WIDE = 120  # columns; where there are fewer, spreads have a line of their own


def _times(latency: Latency, timing: Timing) -> tuple[str, ...]:
    low, high = map(three_digits, timing.interval_ms or (timing.low_ms, timing.high_ms))
    other = timing.wall_ms if latency.decides == "CPU" else timing.cpu_ms
    return (
        f"{three_digits(timing.median_ms)} ({low}–{high})",
        three_digits(timing.high_ms),
        three_digits(other or 0.0),
        three_digits(latency.per_second(timing.name)),
    )


def _speed(latency: Latency, name: str) -> str:
    """Against the first, and what may be said of it."""
    speedup = next((each for each in latency.speedups if each.name == name), None)
    if speedup is None:
        return "–"
    low, high = speedup.interval or (speedup.low, speedup.high)
    return f"{speedup.median:.2f}× ({low:.2f}–{high:.2f}) {_WORDS[speedup.verdict]}"


_WORDS = {"faster": "faster", "slower": "slower", "undecided": "within the noise"}


def _megabytes(number: int | None) -> str:
    return "–" if number is None else f"{number / 1e6:.1f}"
