"""The judge of benchmarks/faults.py notices what it is there for; a short form of it runs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slimnet import cli
from slimnet.registry import import_all

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from faultlab import forks, judge, shelf
from faultlab.fault import CANARY, DAMAGED, DONE, REFUSED, STOPPED, Fault, Stop, World, plan
from faultlab.judge import KINDS
from faultlab.table import table, trouble

import_all(cli.__name__, list(cli.__path__))  # for all forks


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A shelf with one file."""
    monkeypatch.setitem(shelf.RECIPES, "a.json", shelf.Recipe(lambda: write("a.json", "[1]")))
    return shelf.Shelf(tmp_path)


def write(name, text):
    Path(name).write_text(text)


def say(text):
    sys.stderr.write(f"{text}\n")


def refuse(*lines):
    for line in lines or ("slimnet: no",):
        say(line)
    return 2


def verdict(kept, work, **fault):
    """What the judge makes of a piece of work that stands for a command."""
    planted = {"command": ("copy", "-o", "out.json"), "needs": ("a.json",), "name": "x", **fault}
    return judge.judge(Fault(**planted), kept, lambda _: lambda: work() or 0)


def kinds(kept, work, **fault):
    return {violation.kind for violation in verdict(kept, work, **fault).violations}


def copy():
    write("out.json", Path("a.json").read_text())


def halve():
    write("out.json", "[1")


def raise_():
    raise KeyError("x")


def overwrite():
    copy()
    write("a.json", "[2]")


def litter():
    copy()
    write(".out.json.x", "")


def forget_temporary():
    copy()
    write(f"{os.environ['TMPDIR']}/x", "")


def spin():
    while True:
        pass


def sleep():
    time.sleep(60)


def eat():
    return len(bytearray(10**8) * 9) and copy()


def print_for_ever():
    while True:
        print("ha" * 10_000)


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def run_code():
    os.system(f"touch {CANARY}")
    copy()


def fetch():
    import socket

    with socket.socket() as made:
        made.settimeout(0.01)
        made.connect_ex(("127.0.0.1", 9))
    copy()


def refuse_with_half():
    halve()
    return refuse()


def escape():
    return refuse("slimnet: \x1b[2J no")


def private():
    os.umask(0o077)
    copy()


def test_a_good_command_is_no_violation(kept):
    assert verdict(kept, copy, allows=DONE).end == "done"
    assert verdict(kept, copy).end == "same"
    assert verdict(kept, refuse, allows=REFUSED).end == "refused"
    assert not verdict(kept, refuse, allows=REFUSED).violations


@pytest.mark.parametrize(
    ("work", "kind"),
    [
        (halve, "lost"),
        (lambda: None, "lost"),
        (overwrite, "lost"),
        (litter, "lost"),
        (forget_temporary, "lost"),
        (refuse_with_half, "lost"),
        (lambda: Path("a.json").unlink(), "lost"),
        (raise_, "traceback"),
        (crash, "crash"),
        (run_code, "code"),
        (fetch, "code"),
        (escape, "unclear"),
        (lambda: refuse("no"), "unclear"),
        (lambda: refuse("slimnet: a", "slimnet: b"), "unclear"),
        (lambda: refuse("slimnet: " + "a" * 9999), "unclear"),
        (lambda: 1, "unclear"),
        (private, "unclear"),
    ],
)
def test_what_must_not_be_is_counted(kept, work, kind):
    assert kind in kinds(kept, work, allows=DONE | REFUSED)


@pytest.mark.parametrize("work", [spin, sleep])
def test_a_hang_is_counted(kept, work, monkeypatch):
    monkeypatch.setattr(forks, "SECONDS", 0.3)
    assert kinds(kept, work, allows=DONE) == {"hang"}


def test_memory_is_counted(kept, monkeypatch):
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    monkeypatch.setattr(forks, "MEMORY", resident + 4 * 10**8)
    assert "memory" in kinds(kept, eat, allows=DONE)
    monkeypatch.setattr(forks, "PRINTED", 10**6)
    assert kinds(kept, print_for_ever, allows=DONE) == {"memory"}


def test_a_refusal_that_had_to_be_done_and_the_reverse_are_counted(kept):
    assert kinds(kept, refuse, allows=DONE) == {"unclear"}
    assert kinds(kept, copy, allows=REFUSED) == {"unclear"}


def test_other_numbers_are_counted(kept, monkeypatch):
    def numbers(path):
        return {"numbers": path.read_text(), "finite": "NaN" not in path.read_text()}

    from faultlab import child

    monkeypatch.setitem(child._READERS, ".json", numbers)

    def plant(text):
        return lambda folder: write(folder / "a.json", text)

    assert kinds(kept, copy, allows=DAMAGED, plant=plant("[2]")) == {"numbers"}
    assert kinds(kept, copy, allows=DONE, plant=plant("[NaN]")) == {"numbers"}
    assert verdict(kept, copy, allows=DAMAGED, plant=plant("[1]")).end == "same"


def test_json_must_stay_json(kept):
    def chat():
        print("hello\n[1]")
        copy()

    assert kinds(kept, chat, command=("x", "--json", "-o", "out.json"), allows=DONE) == {"unclear"}


def slowly():
    """Writes beside its result, and cleans up what an earlier run has left."""
    for path in Path().glob(".out*"):
        path.unlink()
    write(".out.json", "[1]")
    Path(".out.json").rename("out.json")


def carelessly():
    write(f".out{os.getpid()}", "[1]")
    Path(f".out{os.getpid()}").rename("out.json")


def stopped(number, after=1.0):
    stop = Stop(number, after, "operations")
    return {"allows": STOPPED, "world": World(stop=stop), "again": True}


def test_a_kill_must_leave_nothing_for_the_run_after(kept):
    assert verdict(kept, slowly, **stopped(signal.SIGKILL)).end == "stopped"
    assert not kinds(kept, slowly, **stopped(signal.SIGKILL))
    assert kinds(kept, carelessly, **stopped(signal.SIGKILL)) == {"lost"}


def test_a_signal_is_answered(kept):
    assert kinds(kept, slowly, **stopped(signal.SIGTERM)) == {"lost", "unclear"}


def test_a_full_disk_is_said(kept):
    world = World(largest_file=0)
    assert kinds(kept, refuse, allows=REFUSED, world=world) == {"unclear"}

    def told():
        try:
            copy()
        except OSError as error:
            Path("out.json").unlink()
            return refuse(f"slimnet: {error.strerror}")

    assert not kinds(kept, told, allows=REFUSED, world=world)


def test_a_seed_plans_the_same_faults_in_every_process():
    one, two = ([(row.id, str(row.fault)) for row in plan(0)] for _ in range(2))
    assert one == two
    assert len(dict(one)) == len(one) >= 600
    assert one != [(row.id, str(row.fault)) for row in plan(1)]
    assert {row.kind for row in plan(0)} == {
        *("truncation", "flips", "crafted", "numbers", "paths", "disk", "kill", "signals"),
        "environment",
    }
    assert {need for row in plan(0) for need in row.fault.needs} <= shelf.RECIPES.keys()


def test_the_table_counts_a_fault_once_for_each_kind():
    row = {"id": "a/b/0", "kind": "a", "family": "b", "name": "x", "detail": "y", "end": "lost"}
    row["violations"] = [{"kind": "lost", "what": "p"}, {"kind": "lost", "what": "q"}]
    good = {**row, "violations": [], "end": "refused"}
    last = table([row, good]).splitlines()[-1].split()
    assert last == ["all", "2", "1", *"–––", "1", *"–" * (len(KINDS) - 1)]
    assert trouble(row) == "a/b/0: x (y)\n    LOST p\n    LOST q"


BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "faults.py"
SHORT = ("truncation/cut_others", "crafted/pickles_that_call", "crafted/plain_pickles")


def test_a_short_form_holds():
    done = subprocess.run(
        [sys.executable, BENCHMARK, "--jobs", "1", "--limit", "2", "--only", *SHORT],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
