"""What two detectors find is compared as a set, free only where rounding decides."""

import numpy as np
import pytest

from slimnet.export.detections import difference, tables

TOLERANCE = 1e-4


def table(scores, shift=0.0):
    scores = np.array(scores, np.float32)
    places = np.arange(len(scores), dtype=np.float32)
    boxes = np.stack([places, places, places + 10, places + 10], 1) + shift
    return {"boxes": boxes, "labels": places.astype(np.int64), "scores": scores}


def reordered(some, order):
    return {name: column[list(order)] for name, column in some.items()}


def test_a_table_is_what_lies_beside_scores_of_the_same_length():
    names = ["0.boxes", "0.labels", "0.scores", "features", "head.scores", "head.other"]
    one = table([0.9, 0.8])
    arrays = [*one.values(), np.zeros((1, 8)), np.zeros(3), np.zeros(4)]
    found = tables(names, arrays)
    assert found.keys() == {"0"}
    assert all(found["0"][name] is one[name] for name in one)


def test_rows_in_another_order_are_the_same_rows():
    one = table([0.9, 0.7, 0.7])
    assert difference(one, reordered(one, (0, 2, 1)), TOLERANCE) == (0.0, 3)


@pytest.mark.parametrize("wrong", [table([0.9, 0.6, 0.5]), table([0.9, 0.7, 0.5], shift=1.0)])
def test_another_score_or_place_is_seen(wrong):
    error, _ = difference(table([0.9, 0.7, 0.5]), wrong, TOLERANCE)
    assert error > TOLERANCE


def test_another_class_is_seen():
    one = table([0.9, 0.7, 0.5])
    error, _ = difference(one, one | {"labels": np.array([0, 2, 2])}, TOLERANCE)
    assert error > TOLERANCE


def test_which_of_those_that_score_like_the_last_are_kept_is_free():
    many = table([0.9, 0.7, 0.5, 0.5, 0.5])
    one, other = reordered(many, (0, 1, 2)), reordered(many, (0, 1, 4))
    assert difference(one, other, TOLERANCE) == (0.0, 2)


def test_a_find_that_is_missing_is_seen():
    one = table([0.9, 0.7, 0.5])
    error, _ = difference(one, reordered(one, (0, 2)), TOLERANCE)
    assert error == np.inf
    nothing = reordered(one, ())
    assert (
        difference(one, nothing, TOLERANCE)[0] == difference(nothing, one, TOLERANCE)[0] == np.inf
    )
    assert difference(nothing, nothing, TOLERANCE) == (0.0, 0)


def test_what_is_no_number_matches_nothing():
    one = table([0.9, 0.7, 0.5])
    boxes = one["boxes"].copy()
    boxes[0] = np.nan
    assert difference(one, one | {"boxes": boxes}, TOLERANCE)[0] == np.inf
