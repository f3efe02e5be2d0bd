import pytest

from slimnet.errors import InputError
from slimnet.plain import decode, encode


def test_containers_keep_their_kind_and_order():
    value = {"b": [1, (2, None)], "a": ("x", {"y": 3})}
    again = decode(encode(value, lambda leaf: leaf), lambda leaf: leaf)
    assert again == value
    assert list(again) == ["b", "a"]
    assert type(again["b"][1]) is tuple


@pytest.mark.parametrize("data", [3, {}, {"list": [], "tuple": []}, {"set": []}, [1]])
def test_anything_else_is_refused(data):
    with pytest.raises(InputError, match="not a described value"):
        decode(data, lambda leaf: leaf)
