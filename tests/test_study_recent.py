"""What a worker has read of a study's files is held by that worker, and by nobody else."""

import pickle

from small_study import SPEC

from slimnet.study.data import keep_data
from slimnet.study.recent import Recent


def test_the_value_not_asked_for_longest_goes_first():
    reads = []

    def read(key):
        return recent.get(key, lambda: [reads.append(key), key][1])

    recent = Recent(2)
    assert [read(key) for key in "abacab"] == [*"abacab"]
    assert reads == [*"abcb"]


def test_a_value_that_cannot_be_read_is_not_held():
    recent = Recent(1)
    for _ in range(2):
        try:
            recent.get("a", lambda: 1 // 0)
        except ZeroDivisionError:
            continue
    assert recent.get("a", lambda: 7) == 7


def test_it_is_empty_in_another_process():
    recent = Recent(1)
    recent.get("a", lambda: 1)
    assert pickle.loads(pickle.dumps(recent)).get("a", lambda: 2) == 2


def test_two_workers_of_one_process_share_no_images(tmp_path):
    kept = pickle.dumps(keep_data(SPEC.load(), SPEC, tmp_path))
    one, other = pickle.loads(kept), pickle.loads(kept)
    assert one.load(tmp_path) is one.load(tmp_path)
    assert one.load(tmp_path) is not other.load(tmp_path)
