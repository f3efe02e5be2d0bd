"""Several times to cut to: the metric of each slim network against its measured milliseconds.

Each target is a cut of the dense network, repaired, and trained on where that is asked for; a
target that cannot be had says why. In the end all ONNX files are timed together. Every step is a
line in the journal: the same command goes on where it was stopped, another one may add targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from slimnet.auto.journal import FRONTIER, Done
from slimnet.auto.pieces import Way, begin, cut_to, dense_onnx, slim_onnx, taken, train_on
from slimnet.auto.request import FrontierRequest
from slimnet.auto.steps import look
from slimnet.errors import CertificateError, PruneError
from slimnet.export import Speedup, measure_latency
from slimnet.files.access import Opened
from slimnet.planning.request import TimeTarget
from slimnet.progress import Progress, not_shown
from slimnet.report.frontier import DENSE, Frontier, Point, Time, write_frontier
from slimnet.task import Task, facts_of
from slimnet.text import count


@dataclass(frozen=True)
class Step:
    """One step, and those that are taken anew with it."""

    name: str
    what: str
    run: Callable[[Way[FrontierRequest]], Done]
    then: tuple[str, ...] = ()
    of: Any = None  # what else it depends on, as JSON holds it


def run_frontier(
    opened: Opened,
    example: tuple[Any, ...],
    task: Task,
    request: FrontierRequest,
    folder: Path,
    *,
    title: str,
    command: str,
    device: torch.device,
    watch: Progress = not_shown,
    tell: Callable[[str, Done, bool], None] = lambda what, done, earlier: None,
) -> Frontier:
    """Take every step, keep the page up to date, and give what came of it.

    ``example`` is one sample of the task's inputs; ``tell`` is told (what, what came of it, whether
    an earlier run had done it) after each step. Raises :class:`InputError` for a network that is
    slim already and for a folder of another run, and what a step raises, with its name.
    """
    threads = request.threads or torch.get_num_threads()
    how: dict[str, Any] = {"device": device, "watch": watch, "file": FRONTIER, "threads": threads}
    way = begin(opened, example, task, request, folder, **how)
    write = partial(_write, way, title, command)
    for step in _steps(way):
        earlier = _earlier(way, step)
        done = earlier or _taken(way, step, write)
        write()
        tell(step.what, done, earlier is not None)
    return _found(way, title, command)


def files_of(request: FrontierRequest) -> Iterator[str]:
    """What a run may write."""
    yield from (FRONTIER, "report.html", "dense.onnx")
    for slim, tuned in (_names(str(target)) for target in request.targets):
        yield from (f"{slim}.pt", f"{slim}.json", f"{slim}.onnx")
        yield from (f"{tuned}.pt", f"{tuned}.pt.training", f"{tuned}.onnx")


def _write(way: Way[FrontierRequest], title: str, command: str, stopped: str = "") -> None:
    write_frontier(way.path("report.html"), _found(way, title, command), stopped)


def _steps(way: Way[FrontierRequest]) -> Iterator[Step]:
    """In order; what comes next depends on what came of those before."""
    request, steps, last = way.request, way.journal.steps, "latency"
    yield Step("inspect", "what can be cut", look)
    for target in map(str, request.targets):
        slim, tuned = _names(target)
        yield Step(slim, f"{target}: cut, proven, repaired", partial(_slim, target), (tuned, last))
        if request.trains and steps[slim].metrics:
            how = request.training()
            yield Step(tuned, f"{target}: trained on", partial(_tuned, target), (last,), how)
    yield Step(last, "all measured together", _clock, of=list(_onnx(way)))


def _names(target: str) -> tuple[str, str]:
    point = Point(target)
    return point.slim, point.tuned


def _earlier(way: Way[FrontierRequest], step: Step) -> Done | None:
    """What an earlier run left of the same step."""
    done = way.journal.done(step.name)
    return done if done is not None and done.record.get("of") == step.of else None


def _taken(way: Way[FrontierRequest], step: Step, stop: Callable[[str], None]) -> Done:
    way.journal.forget((step.name, *step.then))

    def run(way: Way[FrontierRequest]) -> Done:
        done = step.run(way)
        return replace(done, record={**done.record, "of": step.of})

    return taken(way, step.name, step.what, run, stop)


def _slim(target: str, way: Way[FrontierRequest]) -> Done:
    """Cut to a time and repaired, and its ONNX; a sentence where that cannot be had."""
    name, _ = _names(target)
    request = way.request.cutting(TimeTarget.of(target))
    try:
        done = cut_to(way, request, f"{name}.pt", f"{name}.json")
    except (PruneError, CertificateError) as why:
        return Done(f"cannot be had: {why}", record={"why": str(why)})
    return _exported(way, name, done)


def _tuned(target: str, way: Way[FrontierRequest]) -> Done:
    """Trained on, and its ONNX; a sentence where there is no time."""
    slim, tuned = _names(target)
    minutes = None if way.request.epochs else way.request.minutes
    done = train_on(way, f"{slim}.pt", f"{tuned}.pt", minutes)
    return _exported(way, tuned, done) if done.metrics else done


def _exported(way: Way[FrontierRequest], name: str, done: Done) -> Done:
    """With its ONNX."""
    slim, onnx = f"{name}.pt", f"{name}.onnx"
    made = slim_onnx(way, slim, onnx)
    export = way.command("export", way.path(slim), way.path(onnx), "--onnx", "--no-latency")
    return replace(
        done,
        files=(*done.files, onnx),
        command=f"{done.command}\n{export}",
        record={**done.record, "onnx": made.to_json()},
    )


def _clock(way: Way[FrontierRequest]) -> Done:
    """How fast all files run, each round all of them."""
    request, files = way.request, {DENSE: dense_onnx(way), **_onnx(way)}
    how: dict[str, Any] = {"batch": request.latency_batch, "threads": request.threads}
    latency = measure_latency(files, way.example, **how)
    typed = ("--batch", str(latency.batch), "--threads", str(latency.threads))
    return Done(
        f"{count(len(files), 'file')} in {latency.rounds} rounds",
        command=way.command("latency", *files.values(), *typed),
        record=latency.to_json(),
    )


def _onnx(way: Way[FrontierRequest]) -> Mapping[str, Path]:
    """The ONNX file of every slim network that was asked for and made."""
    return {
        name: way.path(f"{name}.onnx")
        for target in map(str, way.request.targets)
        for name in _names(target)
        if _metrics(way, name)
    }


def _metrics(way: Way[FrontierRequest], name: str) -> Mapping[str, float]:
    """Of a network that was made; nothing of a trained one where no training is asked for."""
    done = way.journal.steps.get(name)
    asked = way.request.trains or name.startswith("slim")
    return done.metrics if done is not None and asked else {}


def _found(way: Way[FrontierRequest], title: str, command: str) -> Frontier:
    """What the steps that are done came to."""
    steps, targets = way.journal.steps, map(str, way.request.targets)
    latency = steps["latency"].record if "latency" in steps else None
    return Frontier(
        title,
        command,
        way.metric,
        steps["inspect"].metrics if "inspect" in steps else {},
        [_point(way, target) for target in targets if _names(target)[0] in steps],
        way.request.trains,
        {} if latency is None else _times(latency),
        "" if latency is None else latency["conditions"],
        [] if latency is None else latency["remarks"],
        facts_of(way.task).get("test"),
        [steps[name].command for name in _asked(way) if name in steps and steps[name].command],
        way.versions,
    )


def _asked(way: Way[FrontierRequest]) -> Iterator[str]:
    """The names of all steps that the request has."""
    yield "inspect"
    for slim, tuned in (_names(str(target)) for target in way.request.targets):
        yield from (slim, tuned) if way.request.trains else (slim,)
    yield "latency"


def _point(way: Way[FrontierRequest], target: str) -> Point:
    name, other = _names(target)
    slim, tuned = way.journal.steps[name], way.journal.steps.get(other)
    if "why" in slim.record:
        return Point(target, why=slim.record["why"])
    plan, trained = slim.record["plan"], _metrics(way, other)
    macs, params = (plan["after"][x] / (plan["before"][x] or 1) for x in ("macs", "params"))
    why = tuned.record.get("why", "") if tuned and way.request.trains else ""
    return Point(target, macs, params, slim.metrics, trained, why)


def _times(latency: Mapping[str, Any]) -> dict[str, Time]:
    """Of every file that was timed."""
    speeds = {row["name"]: Speedup(**row) for row in latency["speedups"]}
    return {row["name"]: _time(row, speeds.get(row["name"])) for row in latency["timings"]}


def _time(row: Mapping[str, Any], speed: Speedup | None) -> Time:
    fast = () if speed is None else (speed.median, speed.low, speed.high, speed.verdict)
    return Time(row["median_ms"], row["low_ms"], row["high_ms"], *fast)
