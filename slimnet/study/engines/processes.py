"""Several processes on this machine, one cell each at a time.

Every worker is a fresh interpreter that reads what it needs from the study's folder. The cores are
shared out, so that the workers' threads do not fight: numbers are those of one process with as many
threads. Workers end with the process that began them, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from multiprocessing.queues import SimpleQueue
from typing import TypeAlias

import torch

from slimnet.errors import InputError
from slimnet.study.cells import Cell
from slimnet.study.engine import ENGINES, Job, Run
from slimnet.study.results import CellResult

Queue: TypeAlias = "SimpleQueue[tuple[Cell, float]]"


@ENGINES.register("processes")
def processes(cells: Sequence[Cell], run: Run) -> list[CellResult | None]:
    """Several at a time, each in a process of its own."""
    workers = min(run.workers or _cores(), len(cells))
    if not workers:
        return []
    queue: Queue = multiprocessing.get_context("spawn").SimpleQueue()
    with _pool(workers, _threads(run, workers), run.job, queue) as pool:
        futures = [pool.submit(_run, cell) for cell in cells]
        _follow(dict(zip(futures, cells, strict=True)), run, queue)
        return [future.result() for future in futures]


def _threads(run: Run, workers: int) -> int:
    """Of each worker."""
    return run.threads or max(1, _cores() // workers)


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _pool(workers: int, threads: int, job: Job, queue: Queue) -> Iterator[ProcessPoolExecutor]:
    """Workers that end with the block, and with this process."""
    context = multiprocessing.get_context("spawn")
    ended, alive = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _begin, (threads, job, queue, ended))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process was killed (out of memory?): finished cells are kept, and the same "
            "study goes on from there, with fewer workers if need be"
        ) from error
    except BaseException:
        alive.close()  # nobody waits for the cells that still run
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        alive.close()
        ended.close()


def _follow(pending: dict[Future[CellResult | None], Cell], run: Run, queue: Queue) -> None:
    """Pass on what the workers tell until all cells are done; raises what one of them raised."""
    while pending:
        done, _ = wait(pending, timeout=_LOOK, return_when=FIRST_COMPLETED)
        while not queue.empty():
            run.tell(*queue.get())
        for future in done:
            cell, result = pending.pop(future), future.result()
            if result is not None:
                run.tell(cell, 1.0)


_LOOK = 0.2  # seconds between two looks at how far the workers are


_jobs: list[tuple[Job, Queue]] = []
"""Of a worker: what it runs on every cell, and where it says how far it is."""


def _begin(threads: int, job: Job, queue: Queue, ended: Connection) -> None:
    """The first thing that a worker does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all: who began it decides
    torch.set_num_threads(threads)
    _jobs.append((job, queue))
    threading.Thread(target=partial(_end_with, ended), daemon=True).start()


def _end_with(ended: Connection) -> None:
    """Leave, in the middle of a cell, once the other end of the pipe is closed."""
    wait_for([ended])
    os._exit(1)


def _run(cell: Cell) -> CellResult | None:
    """A cell in a worker; says how far it is a few times a second."""
    (job, queue), last = _jobs[0], 0.0

    def tell(part: float) -> None:
        nonlocal last
        if time.monotonic() - last > _LOOK:
            last = time.monotonic()
            queue.put((cell, part))

    return job(cell, tell)
