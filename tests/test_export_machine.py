"""What disturbs a measurement is noticed and said, and nothing else is."""

import os
import sys
import threading

import pytest

from slimnet.export import machine, pinning
from slimnet.export.machine import (
    Moment,
    frequency_remarks,
    load_remarks,
    others_between,
    wait_remarks,
)
from slimnet.export.pinning import pinned


def test_what_others_computed_is_what_is_left_without_this_process():
    before = Moment(wall=10.0, own=3.0, all=500.0, load=9.0)
    after = Moment(wall=12.0, own=5.0, all=505.0, load=0.0)
    assert others_between(before, after) == pytest.approx(1.5)
    assert others_between(before, Moment(12.0, 9.0, 505.0, 0.0)) == 0.0


def test_where_nobody_counts_the_load_before_stands_for_it():
    before, after = Moment(0.0, 0.0, None, 1.75), Moment(1.0, 1.0, None, 2.5)
    assert others_between(before, after) == 1.75


def test_this_moment_is_read():
    before, after = Moment.now(), Moment.now()
    assert after.wall >= before.wall and after.own >= before.own
    assert before.all is None or after.all >= before.all > 0


@pytest.mark.parametrize("text", [None, "", "cpu", "cpu 0 0 0 0 0 0 0 0 0 0\n", "cpu a b c\n"])
def test_a_system_that_counts_nothing_is_no_error(tmp_path, monkeypatch, text):
    monkeypatch.setattr(machine, "_STAT", tmp_path / "stat")
    if text is not None:
        (tmp_path / "stat").write_text(text)
    assert Moment.now().all is None


def test_time_that_the_host_took_away_counts_as_others(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_STAT", tmp_path / "stat")
    (tmp_path / "stat").write_text("cpu 100 100 100 9999 9999 100 100 300 0 0\ncpu0 1 1\n")
    assert Moment.now().all == 800 / os.sysconf("SC_CLK_TCK")


def test_a_busy_machine_is_said_and_a_free_core_is_not():
    (remark,) = load_remarks(1.6, cores=2, threads=1)
    assert remark == (
        "the machine was busy: others kept 1.6 of its 2 cores occupied while 1 was needed here"
    )
    assert list(load_remarks(1.1, cores=2, threads=1)) == []
    assert list(load_remarks(0.1, cores=2, threads=2)) == []
    (remark,) = load_remarks(0.5, cores=2, threads=2)
    assert remark.endswith(
        "while 2 were needed here; on one thread the CPU time decides, which bears that"
    )


def test_waiting_for_the_core_is_said():
    (remark,) = wait_remarks(9.0, 5.0)
    assert "took 1.8 times its CPU time by the wall" in remark
    assert list(wait_remarks(5.5, 5.0)) == list(wait_remarks(1.0, 0.0)) == []


def test_a_frequency_that_may_change_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CPUS", tmp_path)
    for core, governor in enumerate(["performance", "powersave", "schedutil"]):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
    assert list(frequency_remarks([0, 9])) == []  # of the other nobody knows
    (remark,) = frequency_remarks([0, 1, 2])
    assert "may change (governor powersave, schedutil)" in remark


linux = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two cores"
)


@linux
def test_threads_that_start_meanwhile_are_pinned_and_let_go():
    before, ready, done = os.sched_getaffinity(0), threading.Event(), threading.Event()
    seen = []

    def look():
        seen.append(os.sched_getaffinity(0))
        ready.set()
        done.wait()
        seen.append(os.sched_getaffinity(0))

    with pinned(1) as cores:
        assert os.sched_getaffinity(0) == set(cores) and len(cores) == 1
        thread = threading.Thread(target=look)
        thread.start()
        ready.wait()
    done.set()
    thread.join()
    assert seen == [set(cores), before] and os.sched_getaffinity(0) == before


@linux
def test_it_is_let_go_after_an_error():
    before = os.sched_getaffinity(0)
    with pytest.raises(ValueError, match="boom"), pinned(1):
        raise ValueError("boom")
    assert os.sched_getaffinity(0) == before


def test_more_threads_than_cores_are_left_alone():
    with pinned(4096) as cores:
        assert cores == ()


@linux
def test_a_system_that_does_not_let_it_is_no_error(monkeypatch):
    def refuse(thread, cores):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with pinned(1) as cores:
        assert cores == ()


def test_the_core_in_use_comes_first_and_halves_of_a_core_last(monkeypatch):
    monkeypatch.setattr(pinning, "_current", lambda: 4)
    monkeypatch.setattr(pinning, "_siblings", lambda core: str(core // 2))
    assert pinning._chosen(range(8), 1) == (4,)
    assert pinning._chosen(range(8), 4) == (4, 0, 2, 6)
    assert pinning._chosen(range(8), 6) == (4, 0, 2, 6, 1, 3)
    assert pinning._chosen({3, 5}, 2) == (3, 5)


def test_the_core_in_use_is_one_that_may_be_used():
    assert pinning._current() in {-1, *(range(os.cpu_count() or 1))}
