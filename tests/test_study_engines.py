"""Cells in several processes: the same numbers, progress, and nothing left running."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from small_study import SPEC, STUDY, cells_of, process, ran

from slimnet.errors import InputError
from slimnet.study import ENGINES, Run
from slimnet.study.engines import processes


def seen(cell, progress):
    progress(0.25)
    return cell, os.getpid(), torch.get_num_threads()


def test_processes_give_the_files_of_one_process(tmp_path):
    data = SPEC.load()
    told = []
    for name in ("local", "processes"):
        options = {"workers": 2, "threads": 1} if name == "processes" else {}
        ran(data, tmp_path / name, engine=name, progress=told.append, spec=SPEC, **options)
    assert cells_of(tmp_path / "local") == cells_of(tmp_path / "processes")
    together = told[len(told) // 2 :]
    assert together[-1].done == together[-1].total
    assert all(0 <= status.share <= 1 for status in told)


def test_workers_have_their_threads_and_are_not_this_process():
    cells = ENGINES["processes"]([1, 2], Run(seen, workers=2, threads=3))
    assert [(cell, threads) for cell, _, threads in cells] == [(1, 3), (2, 3)]
    assert all(pid != os.getpid() for _, pid, _ in cells)


class Counting:
    """A job that holds how many cells it has run."""

    def __init__(self):
        self.count = 0

    def __call__(self, cell, progress):
        self.count += 1
        return self.count


def test_a_worker_holds_its_job_from_cell_to_cell():
    """So that it need not read the study's files anew for each."""
    assert ENGINES["processes"]([*"abc"], Run(Counting(), workers=1)) == [1, 2, 3]


@pytest.mark.parametrize(("cores", "workers", "threads"), [(8, 2, 4), (8, 3, 2), (2, 4, 1)])
def test_workers_share_the_cores(cores, workers, threads, monkeypatch):
    monkeypatch.setattr(processes, "_cores", lambda: cores)
    assert processes._threads(Run(seen), workers) == threads
    assert processes._threads(Run(seen, threads=5), workers) == 5


def ending(cell, progress):
    os.kill(os.getpid(), signal.SIGKILL)


def refusing(cell, progress):
    raise InputError(f"{cell} cannot be run")


def forever(cell, progress):
    progress(0.5)
    Path(cell).write_text(str(os.getpid()))
    time.sleep(100)


def test_a_killed_worker_is_one_sentence():
    with pytest.raises(InputError, match="a worker process was killed"):
        ENGINES["processes"]([1], Run(ending, workers=1))


def test_what_a_worker_refuses_is_refused():
    with pytest.raises(InputError, match=r"^1 cannot be run$"):
        ENGINES["processes"]([1], Run(refusing, workers=1))


def test_workers_end_in_the_middle_of_a_cell_with_who_began_them(tmp_path):
    file = tmp_path / "pid"

    def stop(cell, part):
        while not file.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ENGINES["processes"]([str(file)], Run(forever, stop, workers=1))
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


PARENT = """
import sys
from slimnet.study import ENGINES, Run
from slimnet.study.engines import processes
from test_study_engines import forever
if __name__ == "__main__":
    ENGINES["processes"]([sys.argv[1]], Run(forever, workers=1))
"""


def test_workers_end_with_a_killed_parent(tmp_path):
    file = tmp_path / "pid"
    parent = process(PARENT, file)
    while not (file.exists() and file.read_text()):
        assert parent.poll() is None
        time.sleep(0.01)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 60
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(int(file.read_text()), 0)
            time.sleep(0.05)


def test_local_takes_one_worker():
    assert ENGINES["local"]([], Run(seen, workers=1)) == []
    with pytest.raises(InputError, match="local runs one cell at a time, and 2 workers"):
        ENGINES["local"]([], Run(seen, workers=2))


def test_an_engine_that_loses_cells_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(ENGINES._entries, "losing", lambda cells, run: [])
    with pytest.raises(ValueError, match="shorter"):
        ran(SPEC.load(), tmp_path, STUDY, engine="losing")
