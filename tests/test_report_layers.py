"""Where the milliseconds go: the longest layers first, and nothing lost."""

from slimnet.report.layers import MOST, layer_times


def test_what_takes_the_dense_network_longest_stands_first():
    found = layer_times({"dense": {"a": 1.0, "b": 3.0}, "slim": {"b": 0.5, "Reorder": 0.25}})
    assert found.networks == ["dense", "slim"]
    assert found.rows == [("b", [3.0, 0.5]), ("a", [1.0, 0.0]), ("Reorder", [0.0, 0.25])]


def test_the_rest_is_one_row_and_the_sums_stay():
    times = {f"layer{n}": float(n) for n in range(MOST + 6)}
    found = layer_times({"dense": times, "slim": {name: ms / 2 for name, ms in times.items()}})
    assert len(found.rows) == MOST + 1 and found.rows[-1][0] == "6 others"
    assert [sum(column) for column in zip(*(ms for _, ms in found.rows), strict=True)] == [
        sum(times.values()),
        sum(times.values()) / 2,
    ]


def test_of_nothing_there_is_nothing():
    assert layer_times({}).rows == []
