"""What one thread says is dropped, and another thread's words arrive, meanwhile and afterwards."""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest

from slimnet.quiet import quiet, unwarned

LOGGER = logging.getLogger("test_quiet")


class Ear(logging.Handler):
    """Remembers what was logged."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def emit(self, record):
        self.heard.append(record.getMessage())


@contextmanager
def listening():
    """(stderr, stdout, logged): what arrives in each."""
    ear, err, out = Ear(), io.StringIO(), io.StringIO()
    LOGGER.addHandler(ear)
    try:
        with redirect_stderr(err), redirect_stdout(out):
            yield err, out, ear.heard
    finally:
        LOGGER.removeHandler(ear)


def say(text):
    print(text, file=sys.stderr)
    sys.stderr.writelines([f"{text}\n"])
    print(text)
    LOGGER.critical(text)


def in_another_thread(function, *given):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *given).result(timeout=60)


def test_this_thread_is_not_heard_and_another_is():
    with listening() as (err, out, logged), quiet(stdout=True):
        say("mine")
        in_another_thread(say, "theirs")
    assert err.getvalue() == "theirs\ntheirs\n" and out.getvalue() == "theirs\n"
    assert logged == ["theirs"]


def test_afterwards_everybody_is_heard():
    with listening() as (err, out, logged):
        with quiet(stdout=True):
            kept = sys.stderr
            with quiet():
                pass
            say("mine")
        say("again")
        kept.write("kept")
        assert sys.stderr is err
    assert err.getvalue() == "again\nagain\nkept" and out.getvalue() == "again\n"
    assert logged == ["again"]


def test_stdout_speaks_unless_it_is_asked_to_be_quiet():
    with listening() as (_, out, _), quiet():
        print("spoken")
    assert out.getvalue() == "spoken\n"


def test_without_a_stream_nothing_is_written(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with quiet():
        assert sys.stderr.write("nowhere") == 7
        sys.stderr.flush()
    assert sys.stderr is None


@pytest.mark.parametrize("silenced", [unwarned, quiet])
def test_this_threads_warnings_are_dropped_and_anothers_are_as_it_wants_them(silenced):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with silenced():
            warnings.warn("mine", stacklevel=1)
            in_another_thread(lambda: warnings.warn("theirs", stacklevel=1))
            with silenced():
                warnings.warn("mine", stacklevel=1)
            warnings.warn("mine still", stacklevel=1)
        warnings.warn("mine again", stacklevel=1)
    assert [str(w.message) for w in caught] == ["theirs", "mine again"]


def test_what_another_thread_does_to_the_filters_meanwhile_stays():
    before = list(warnings.filters)
    with warnings.catch_warnings():
        with unwarned():
            in_another_thread(lambda: warnings.simplefilter("ignore", ImportWarning))
        assert ("ignore", None, ImportWarning, None, 0) in warnings.filters
        assert len(warnings.filters) <= len(before) + 1
    assert warnings.filters == before


def test_filters_that_end_in_between_leave_nothing_behind():
    before, entered, left = list(warnings.filters), threading.Event(), threading.Event()

    def catching():
        with warnings.catch_warnings():
            entered.set()
            left.wait(60)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(catching)
        entered.wait(60)
        with unwarned():
            left.set()
            other.result(timeout=60)
        assert warnings.filters == before


def test_two_threads_are_quiet_one_after_the_other():
    together = threading.Barrier(2, timeout=60)

    def work():
        together.wait()
        for _ in range(50):
            with quiet():
                say("dropped")

    with listening() as (err, _, _):
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(work) for _ in range(2)]:
                done.result(timeout=60)
        assert sys.stderr is err
    assert err.getvalue() == ""
