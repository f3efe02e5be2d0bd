"""What came of a fault: nothing but exit codes, streams, memory, time and files is looked at.

A violation has a kind, counted against a bar of zero, and a sentence. The judge never asks slimnet
whether something went wrong; it opens results as a user would, in a fork of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from faultlab.child import HOME, TEMPORARY, slimnet_command
from faultlab.fault import CANARY, PLAIN, Fault
from faultlab.forks import MEMORY, Ran, run
from faultlab.shelf import Shelf

KINDS = {
    "lost": "a file lost, half written, changed or left behind",
    "traceback": "an exception that nobody caught",
    "hang": "more than 20 s",
    "memory": "more than 2 GB",
    "crash": "ended by a signal of its own",
    "code": "code from a file ran, or it reached the network or another file",
    "numbers": "silently other numbers",
    "unclear": "not one clean sentence with exit code 2, or done what must be refused",
    "broken": "a fault that the benchmark itself could not plant or judge",
}
SENTENCE = 2000
"""Characters: a longer refusal is no sentence."""


@dataclass(frozen=True)
class Violation:
    """One thing that must not happen."""

    kind: str
    what: str


@dataclass(frozen=True)
class Verdict:
    """How a fault ended, and what was wrong with that."""

    end: str  # refused, done, same, stopped, or the kind of the first violation
    violations: tuple[Violation, ...]
    told: str  # the last line on stderr
    detail: str  # what was planted, exactly
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Course:
    """The planted folder, and a command that ran in it."""

    fault: Fault
    folder: Path
    before: Mapping[str, str]
    ran: Ran

    def after(self) -> dict[str, str]:
        return snapshot(self.folder) if self.folder.exists() else {}


Perform = Callable[[tuple[str, ...]], Callable[[], int]]
"""What a command line stands for: work that gives an exit code."""


def judge(fault: Fault, shelf: Shelf, perform: Perform = slimnet_command) -> Verdict:
    """Plant it, run it, look."""
    undisturbed = _undisturbed(fault, shelf, perform) if _is_compared(fault) else {}
    outer = Path(tempfile.mkdtemp(prefix="fault-", dir=shelf.folder))
    folder = outer / "here"  # what goes wrong above it is removed, too
    folder.mkdir()
    try:
        shelf.put(fault.needs, folder)
        detail = fault.plant(folder) or ""
        before = snapshot(folder)
        ran = _ran(perform, fault, folder, _moment(fault, undisturbed))
        course = _Course(fault, folder, before, ran)
        violations = list(_violations(course, undisturbed))
        end = _end(ran)
        if fault.again and not violations:
            again = replace(fault, allows=frozenset({"same"}), world=PLAIN, keeps=())
            second = _Course(again, folder, before, _ran(perform, again, folder))
            violations += [
                replace(found, what=f"run again: {found.what}")
                for found in _violations(second, undisturbed)
            ]
        if not violations and end == "done" and "same" in fault.allows:
            end = "same"
        told = next((line for line in reversed(ran.err.splitlines()) if line.strip()), "")
        return Verdict(
            violations[0].kind if violations else end,
            tuple(violations),
            told[:300],
            detail,
            ran.seconds,
        )
    finally:
        _remove(outer)


def _is_compared(fault: Fault) -> bool:
    return "same" in fault.allows or fault.world.stop is not None or fault.again


def _ran(perform: Perform, fault: Fault, folder: Path, moment: float | None = None) -> Ran:
    fresh = ("-m", "slimnet", *fault.command) if fault.world.fresh else ()
    return run(perform(fault.command), folder, fault.world, stop_at=moment, fresh=fresh)


def _undisturbed(fault: Fault, shelf: Shelf, perform: Perform) -> dict[str, Any]:
    """What the command comes to where nothing is planted, found out once."""

    def find() -> dict[str, Any]:
        folder = Path(tempfile.mkdtemp(prefix="plain-", dir=shelf.folder))
        try:
            shelf.put(fault.needs, folder)
            made = shelf.run(perform(fault.command), folder)
            if made.code == 0:  # now that everything is imported
                made = _ran(perform, replace(fault, world=PLAIN), folder)
            if made.code:
                raise RuntimeError(f"{fault}: does not work undisturbed:\n{made.err}")
            results = {name: _opened(name, folder)[1] for name in fault.results}
            return {
                "results": results,
                "out": made.out,
                "seconds": made.seconds,
                "operations": made.notes.count("operation"),
            }
        finally:
            _remove(folder)

    return shelf.kept(json.dumps([fault.command, fault.needs, fault.results]), find)


def _moment(fault: Fault, undisturbed: Mapping[str, Any]) -> float | None:
    stop = fault.world.stop
    if stop is None:
        return None
    whole: float = undisturbed["seconds" if stop.measure == "time" else "operations"]
    return stop.after * whole


def _end(ran: Ran) -> str:
    if ran.code == 0:
        return "done"
    if ran.code == 2:
        return "refused"
    return "stopped"


def _violations(course: _Course, undisturbed: Mapping[str, Any]) -> Iterator[Violation]:
    yield from _of_process(course)
    yield from _of_words(course)
    yield from _of_payloads(course)
    yield from _of_files(course)
    if course.ran.code == 0:
        yield from _of_results(course, undisturbed)


def _of_process(course: _Course) -> Iterator[Violation]:
    """How it ended."""
    ran, fault = course.ran, course.fault
    if ran.ended == "hang":
        yield Violation("hang", f"still at it after {ran.seconds:.0f} s of the processor")
        return
    if ran.ended == "memory" or ran.peak > MEMORY:
        yield Violation("memory", f"{ran.peak / 1e9:.1f} GB, or endless output")
        if ran.ended:
            return
    if "Traceback (most recent call last)" in ran.err + ran.out:
        yield Violation("traceback", _raised(ran.err))
        return
    sent = fault.world.stop.signal if fault.world.stop is not None else None
    if ran.signal is not None and ran.signal != sent:
        yield Violation("crash", f"ended by {signal.Signals(ran.signal).name}: {_last(ran.err)}")
        return
    end = _end(ran)
    known = (
        ran.code in (0, 2) or _is_stopped(ran, sent) or ran.code in _GOES_WITH[fault.world.stdout]
    )
    if not known:
        yield Violation("unclear", f"exit code {ran.code}: {_last(ran.err)}")
    elif end == "done" and not fault.allows & {"done", "same"}:
        yield Violation("unclear", "it was done, and had to be refused")
    elif end == "refused" and "refused" not in fault.allows:
        yield Violation("unclear", f"refused, and had to be done: {_last(ran.err)}")


_GOES_WITH: Mapping[str, frozenset[int | None]] = {
    "pipe": frozenset(),
    "closed": frozenset({120}),
    "broken": frozenset({141}),
    "full": frozenset({120, 74}),  # 74: EX_IOERR
}
"""Exit codes for an output that nobody can read."""


def _is_stopped(ran: Ran, sent: signal.Signals | None) -> bool:
    return sent is not None and (ran.signal == sent or ran.code == 128 + sent)


def _raised(err: str) -> str:
    """What was raised, and slimnet's own line that it passed last."""
    lines = err.rstrip().splitlines()
    own = [line for line in lines if re.search(r'File ".*[/\\]slimnet[/\\]', line)]
    where = re.search(r'slimnet[/\\]([^"]+)", line (\d+)', own[-1]) if own else None
    return f"{lines[-1][:300]}" + (f" ({where[1]}:{where[2]})" if where else "")


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no word")[:300]


def _of_words(course: _Course) -> Iterator[Violation]:
    """What it said."""
    ran, stop = course.ran, course.fault.world.stop
    if course.fault.world.stderr == "closed" or ran.ended:
        return
    if ran.code == 2:
        yield from _of_sentence(ran.err, course.fault)
    told = stop is not None and stop.signal != signal.SIGKILL and _is_stopped(ran, stop.signal)
    if stop is not None and told and "slimnet: " not in ran.err:
        yield Violation("unclear", f"stopped by {stop.signal.name} without a word")
    control = re.search(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", ran.out + ran.err
    )
    if control and "Traceback" not in ran.err:
        yield Violation("unclear", f"the control character {control[0]!r} on a stream")
    if "--json" in course.fault.command and ran.code == 0:
        try:
            json.loads(ran.out)
        except ValueError:
            yield Violation("unclear", f"--json printed no JSON: {ran.out[:60]!r}")


def _of_sentence(err: str, fault: Fault) -> Iterator[Violation]:
    full = fault.world.largest_file is not None
    if full and not re.search("space|too large|room|full", err):
        yield Violation("unclear", f"not a word about the disk: {_last(err)}")
    said = [line for line in err.splitlines() if line.startswith("slimnet: ")]
    if len(said) != 1 or _last(err) != said[0][:300]:
        yield Violation("unclear", f"exit code 2 without one sentence: {_last(err)}")
    elif len(said[0]) > SENTENCE:
        yield Violation("unclear", f"a refusal of {len(said[0])} characters")


def _of_payloads(course: _Course) -> Iterator[Violation]:
    """Whether code ran, or something was reached for."""
    if (course.folder / CANARY).exists():
        yield Violation("code", "the payload ran")
    for reached in course.ran.noted("reached")[:1]:
        yield Violation("code", f"reached for {reached}")


def _of_files(course: _Course) -> Iterator[Violation]:
    """What lies there now."""
    fault, ran, after = course.fault, course.ran, course.after()
    if fault.world.gone:
        return
    done = ran.code == 0 or ran.code in _GOES_WITH[fault.world.stdout]
    for name in sorted(course.before.keys() | after.keys()):
        old, new = course.before.get(name), after.get(name)
        if old == new or name == CANARY:
            continue
        result = _is_told(name, (*fault.results, *(f"{r}.json" for r in fault.results)))
        kept = any(fnmatch(name, glob) for glob in fault.keeps)
        if new is None:
            allowed = done and kept
        elif not result and _is_litter(name):
            allowed = _is_killed(ran, fault)
        else:
            stopped = _is_stopped_at_all(ran, fault)
            allowed = kept or (result and (done or (stopped and _whole(name, course))))
        if not allowed:
            yield Violation("lost", _lost(name, old, new, ran))
    yield from _of_temporary(course)


def _is_told(name: str, told: tuple[str, ...]) -> bool:
    return any(name == other or name.startswith(f"{other}/") for other in told)


def _is_litter(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)


def _is_killed(ran: Ran, fault: Fault) -> bool:
    """Nobody can clean up after a SIGKILL but the next run."""
    return ran.signal == signal.SIGKILL and fault.world.stop is not None


def _is_stopped_at_all(ran: Ran, fault: Fault) -> bool:
    sent = fault.world.stop.signal if fault.world.stop is not None else None
    return _is_stopped(ran, sent)


def _whole(name: str, course: _Course) -> bool:
    return name.endswith(".json") or not _opened(name, course.folder)[0]


def _lost(name: str, old: str | None, new: str | None, ran: Ran) -> str:
    how = "left behind" if old is None else "gone" if new is None else "changed"
    return f"{name!r} is {how} after exit code {ran.code if ran.code is not None else -9}"


def _of_temporary(course: _Course) -> Iterator[Violation]:
    """A folder of temporary files that a kill has left is the system's to clean up."""
    stop = course.fault.world.stop
    killed = course.fault.again or (stop is not None and stop.signal == signal.SIGKILL)
    folder = course.folder / TEMPORARY
    if folder.is_dir() and not killed:
        for path in sorted(p for p in folder.iterdir() if p.name != _OF_ONNXRUNTIME)[:1]:
            yield Violation("lost", f"the temporary {path.name!r} is left behind")


_OF_ONNXRUNTIME = ".ses"
"""It notes its session there as soon as it is imported."""


def _of_results(course: _Course, undisturbed: Mapping[str, Any]) -> Iterator[Violation]:
    """Whether what was written is there, whole, finite and, where it must be, the same."""
    fault = course.fault
    if fault.world.gone:
        return
    must_be_same = bool(undisturbed) and "same" in fault.allows and "done" not in fault.allows
    if not fault.results and must_be_same and _told(course.ran.out) != _told(undisturbed["out"]):
        yield Violation("numbers", f"it says {_difference(undisturbed['out'], course.ran.out)}")
    if not fault.results and fault.command[:1] == ("load",) and '"finite": false' in course.ran.out:
        yield Violation("numbers", "the network's outputs are not finite, and it was accepted")
    for name in fault.results:
        trouble, found = _opened(name, course.folder)
        if trouble:
            yield trouble
        elif must_be_same and found["numbers"] != undisturbed["results"][name]["numbers"]:
            yield Violation("numbers", f"{name} holds other numbers than undisturbed")
        elif not found["finite"]:
            yield Violation("numbers", f"what {name} computes is not finite")
        yield from _of_modes(course.folder / name, fault.world.umask)


def _of_modes(path: Path, umask: int) -> Iterator[Violation]:
    """The user's umask, and nothing else, says who may read a result."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        mode = file.stat().st_mode if file.exists() else 0
        if stat.S_ISREG(mode) and stat.S_IMODE(mode) != 0o666 & ~umask:
            yield Violation("unclear", f"{file.name} has the mode {stat.S_IMODE(mode):03o}")
            return


def _told(out: str) -> str:
    """Times differ from run to run."""
    return re.sub(r"[\d.]+ ?(ms|s|min)\b", "", out)


def _difference(expected: str, found: str) -> str:
    pairs = zip(expected.splitlines(), found.splitlines(), strict=False)
    return next((f"{b.strip()!r:.150}" for a, b in pairs if a != b), "more or less")


def _opened(name: str, folder: Path) -> tuple[Violation | None, dict[str, Any]]:
    """Open a result as a user would."""
    path = folder / os.fsdecode(name)
    if not path.exists() or not (path.is_dir() or stat.S_ISREG(path.stat().st_mode)):
        there = path.exists() or path.is_symlink()
        return (None if there else Violation("lost", f"{name!r} is not there")), _NOTHING
    ran = run(slimnet_command(("load", str(path))), folder)
    if ran.code == 0:
        return None, json.loads(ran.out)
    if ran.signal is not None:
        why = ran.ended or f"ended by {signal.Signals(ran.signal).name}"
        return Violation("crash" if not ran.ended else ran.ended, f"opening {name}: {why}"), {}
    return Violation("lost", f"{name!r} cannot be opened: {_last(ran.err)}"), {}


_NOTHING = {"numbers": "", "finite": True}


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below a folder, and what tells its content apart."""
    found = {}
    for path in sorted(Path(os.fsdecode(folder)).rglob("*")):
        name = str(path.relative_to(folder))
        if name.split("/")[0] in (TEMPORARY, HOME):
            continue
        found[name] = _content(path)
    return found


def _content(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"link to {path.readlink()}"
    if not stat.S_ISREG(mode):
        return stat.filemode(mode)[0]
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.blake2b(file.read(10**8), digest_size=12).hexdigest()
    return f"{size} bytes {digest}"


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
