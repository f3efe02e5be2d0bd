"""Looking at each epoch changes nothing, and is taken up where a training was stopped."""

import dataclasses

import pytest
from small_study import SPEC, STUDY, net, ran

from slimnet.study.epochs import EachEpoch
from slimnet.train import train

ONE = dataclasses.replace(STUDY, criteria=("l1",), seeds=(0,))


@pytest.fixture(scope="module")
def data():
    return SPEC.load()


def test_a_study_that_looks_gives_the_same_numbers(data, tmp_path):
    plain, watched = (ran(data, tmp_path / str(on), ONE, curves=on) for on in (False, True))
    for one, other in zip(plain.records, watched.records, strict=True):
        assert (one.cell, one.metrics, one.losses) == (other.cell, other.metrics, other.losses)
        assert (one.curve, one.best) == ((), None)
        assert len(one.losses) == len(other.curve) == other.epochs
        if other.epochs:
            assert other.curve[-1] == other.metrics["accuracy"]
            assert other.best == max(other.curve)


def test_it_goes_on_from_a_snapshot(data):
    class Stopped(Exception):
        pass

    def trained(watch, **options):
        return train(net(), data, STUDY.base, seed=0, callbacks=(watch,), device="cpu", **options)

    whole, first, second, snapshots = EachEpoch(data), EachEpoch(data), EachEpoch(data), []

    def keep(snapshot):
        snapshots.append(snapshot)
        if len(snapshots) == 2:
            raise Stopped

    history = trained(whole)
    with pytest.raises(Stopped):
        trained(first, keep=keep)
    again = trained(second, resume=snapshots[-1])
    assert second.ended(again.metrics) == whole.ended(history.metrics)
    assert len(whole.ended(history.metrics)[0]) == STUDY.base.epochs
