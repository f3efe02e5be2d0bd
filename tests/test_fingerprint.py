import pytest

from slimnet.models.fingerprint import (
    Fingerprint,
    Freedom,
    fingerprint,
    freedom,
    matching,
    similarity,
    sketch,
)

NET = {
    "conv.weight": (8, 3, 3, 3),
    "bn.num_batches_tracked": (),
    "fc.weight": (10, 8),
    "fc.bias": (10,),
}
CLASSES = Freedom(10, (("fc.bias", 0, 1), ("fc.weight", 0, 1)))


def row():
    return fingerprint("slimnet:net", {}, NET, {"num_classes": CLASSES})


def with_classes(weight, bias):
    return {**NET, "fc.weight": (weight, 8), "fc.bias": (bias,)}


def test_freedom_is_found_where_two_builds_differ():
    assert freedom((10, 7), NET, with_classes(7, 7)) == CLASSES


def test_free_axes_match_any_length_and_give_it_back():
    found = matching([row()], with_classes(3, 3))
    assert found == [row()]
    assert found[0].read(with_classes(3, 3)) == {"num_classes": 3}
    assert row().read(NET) == {}


def test_free_axes_must_agree():
    assert matching([row()], with_classes(3, 4)) == []
    assert row().read(with_classes(3, 4)) == {}


@pytest.mark.parametrize(
    "other",
    [
        {**NET, "conv.weight": (8, 4, 3, 3)},
        {**NET, "fc.weight": (10, 9)},
        {**NET, "extra": (1,)},
        {name: shape for name, shape in NET.items() if name != "fc.bias"},
        {**NET, "fc.weight": ()},
    ],
)
def test_any_other_difference_is_no_match(other):
    assert matching([row()], other) == []


def test_counters_of_batch_norms_do_not_count():
    without = {name: shape for name, shape in NET.items() if name != "bn.num_batches_tracked"}
    assert matching([row()], without) == [row()]


def test_json_there_and_back():
    assert Fingerprint.from_json(row().to_json()) == row()


def test_similarity_estimates_the_share_in_common():
    half = {f"layer{i}": (i, 1) for i in range(1000)}
    other = {f"layer{i}": (i, 1) for i in range(500)}
    assert similarity(sketch(half), sketch(half)) == 1.0
    assert similarity(sketch(half), sketch(other)) == pytest.approx(0.5, abs=0.2)
    assert similarity(sketch(half), sketch({"x": (1,)})) < 0.05
