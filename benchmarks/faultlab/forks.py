"""Run a piece of work in a fork of this process, watched: its end, streams, memory and time.

Importing torch takes seconds and a fork milliseconds, so a fault costs little more than its
command. The fork is ended where it takes more than the limits; nothing that it does to itself
(limits, streams, folder, environment) reaches this process.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from faultlab import child
from faultlab.fault import PLAIN, Stop, World

MEMORY = 2 * 10**9
"""Bytes that a command on a small network may hold at once."""
SECONDS = 20.0
"""Of processor time, or of doing nothing at all: others may be using this machine."""
PRINTED = 20 * 10**6
"""Bytes on a stream: more is as good as a hang."""
FUSE = 16 * 2**30
"""Bytes of address space: what is not touched costs nothing, and a machine must survive."""
PATIENCE = 900.0
"""Seconds, whatever the processor did meanwhile."""


@dataclass(frozen=True)
class Ran:
    """What one command came to."""

    code: int | None  # exit code; None where a signal ended it
    signal: int | None
    ended: str  # "" where nobody ended it, else hang, memory or stopped
    out: str
    err: str
    seconds: float  # of the processor
    peak: int  # bytes, resident
    notes: tuple[str, ...] = ()  # what the fork told about itself: operations on files, modules …

    def noted(self, word: str) -> list[str]:
        """The notes that begin with a word, without it."""
        return [note.partition(" ")[2] for note in self.notes if note.startswith(f"{word} ")]


def run(
    work: Callable[[], int],
    folder: Path,
    world: World = PLAIN,
    *,
    stop_at: float | None = None,
    fresh: Sequence[str] = (),
) -> Ran:
    """Do ``work``, which gives an exit code, in ``folder``; or ``fresh``, a program of its own.

    ``stop_at`` are the seconds or operations after which the world's signal comes.
    """
    pipes = [os.pipe() for _ in range(3)]
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns where there may be threads
        pid = os.fork()
    if pid == 0:
        _become(work, folder, world, stop_at, fresh, [write for _, write in pipes])
    for _, write in pipes:
        os.close(write)
    if world.stdout == "broken":
        os.close(pipes[0][0])
    reads = [read for read, _ in pipes[world.stdout == "broken" :]]
    timed = world.stop if world.stop is not None and world.stop.measure == "time" else None
    return _watched(pid, reads, began, timed, stop_at)


def _become(
    work: Callable[[], int],
    folder: Path,
    world: World,
    stop_at: float | None,
    fresh: Sequence[str],
    pipes: Sequence[int],
) -> NoReturn:
    """The fork's whole life."""
    code = 70
    try:
        os.setpgid(0, 0)
        child.settle(folder, world, pipes, FUSE)
        if fresh:
            os.execv(sys.executable, [sys.executable, *fresh])
        child.listen(pipes[2], world.stop, stop_at)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                code = code or 120  # as Python itself ends then
        os._exit(code)


def _watched(
    pid: int, reads: Sequence[int], began: float, stop: Stop | None, stop_at: float | None
) -> Ran:
    """Drain the streams and look at the process every few milliseconds until it has ended."""
    streams: dict[int, bytearray] = {read: bytearray() for read in reads}
    guard, stopped = _Guard(pid, began), False
    with selectors.DefaultSelector() as selector:
        for read in reads:
            os.set_blocking(read, False)
            selector.register(read, selectors.EVENT_READ)
        while True:
            _drain(selector, streams)
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                break
            why = guard.look(max(map(len, streams.values())))
            if why:
                _end(pid, signal.SIGKILL)
            elif stop is not None and stop_at is not None and not stopped:
                stopped = guard.seconds >= stop_at
                if stopped:
                    _end(pid, stop.signal)
        _end(pid, signal.SIGKILL)  # whatever it has started
        while _drain(selector, streams, wait=0.0):
            pass
    for read in reads:
        os.close(read)
    *shown, notes = (bytes(stream).decode(errors="replace") for stream in streams.values())
    out, err = shown if len(shown) == 2 else ("", shown[0])
    exited = os.WIFEXITED(status)
    return Ran(
        code=os.WEXITSTATUS(status) if exited else None,
        signal=None if exited else os.WTERMSIG(status),
        ended=guard.why,
        out=out,
        err=err,
        seconds=usage.ru_utime + usage.ru_stime,
        peak=usage.ru_maxrss * 1024,
        notes=tuple(notes.splitlines()),
    )


def _end(pid: int, number: int) -> None:
    """Only what this benchmark has started: the fork's own group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _drain(
    selector: selectors.BaseSelector, streams: dict[int, bytearray], wait: float = 0.01
) -> bool:
    """Read what is there, or wait a moment; whether there was anything."""
    if not selector.get_map():
        time.sleep(wait)
        return False
    ready = selector.select(wait)
    for key, _ in ready:
        found = os.read(key.fd, 1 << 20)
        if found:
            streams[key.fd] += found
        else:
            selector.unregister(key.fileobj)
    return bool(ready)


class _Guard:
    """Says why a process has to be ended."""

    def __init__(self, pid: int, began: float) -> None:
        self.why = ""
        self.seconds = 0.0  # of the processor, so far
        self._pid, self._began = pid, began
        self._active, self._marked = began, 0.0  # when it last did something

    def look(self, printed: int) -> str:
        now = time.monotonic()
        seconds, resident = _usage(self._pid)
        if seconds > self._marked + 0.02:
            self._active, self._marked = now, seconds
        self.seconds = max(seconds, self.seconds)
        idle, waited = now - self._active, now - self._began
        if resident > MEMORY or printed > PRINTED:
            self.why = "memory"
        elif seconds > SECONDS or idle > SECONDS or waited > PATIENCE:
            self.why = "hang"
        return self.why


_TICKS = os.sysconf("SC_CLK_TCK")


def _usage(pid: int) -> tuple[float, int]:
    """Seconds of the processor and resident bytes; nothing where it has just ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0, 0
    return (int(fields[11]) + int(fields[12])) / _TICKS, int(fields[21]) * resource.getpagesize()
