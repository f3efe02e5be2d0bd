"""A store's claims are held by one worker at a time, and die with it."""

import signal
import threading
import time
from contextlib import ExitStack

import pytest
from small_study import process

from slimnet.errors import InputError
from slimnet.study import STORES, FolderStore
from slimnet.study.store import turn

HOLD = """
import sys, time
from pathlib import Path
from slimnet.study import FolderStore
with FolderStore(Path(sys.argv[1])).claim("one") as mine:
    print(mine, flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("name", list(STORES))
def test_a_claim_is_held_by_one(name, tmp_path):
    store, other = STORES[name](tmp_path), STORES[name](tmp_path)
    for _ in range(2):
        with store.claim("one") as mine, other.claim("one") as also, other.claim("two") as another:
            assert (mine, also, another) == (True, False, True)


def test_a_claim_leaves_nothing_behind(tmp_path):
    store = FolderStore(tmp_path)
    with pytest.raises(KeyError), store.claim("one"):
        raise KeyError
    with store.claim("one") as mine:
        assert mine
    assert list((tmp_path / "cells").iterdir()) == []


def test_the_claim_of_a_killed_worker_is_free(tmp_path):
    child, store = process(HOLD, tmp_path), FolderStore(tmp_path)
    assert child.stdout.readline() == "True\n"
    with store.claim("one") as mine:
        assert not mine
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert (tmp_path / "cells" / "one.claim").exists()
    with store.claim("one") as mine:
        assert mine
    assert not (tmp_path / "cells" / "one.claim").exists()


def test_many_that_want_one_claim_take_turns(tmp_path):
    store, inside, most = FolderStore(tmp_path), [], []

    def work():
        for _ in range(20):
            with store.claim("one") as mine:
                if mine:
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.001)
                    inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}


def test_a_turn_waits_for_who_holds_it(tmp_path):
    store, order = FolderStore(tmp_path), []
    held = ExitStack()
    held.enter_context(turn(store, "one"))

    def wait():
        with turn(store, "one"):
            order.append("second")

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    order.append("first")
    held.close()
    thread.join()
    assert order == ["first", "second"]


def test_a_claim_that_cannot_be_written_is_refused(tmp_path):
    store = FolderStore(tmp_path)
    (tmp_path / "cells").rmdir()
    with pytest.raises(InputError, match=r"one\.claim cannot be written"), store.claim("one"):
        pass
