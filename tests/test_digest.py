"""A digest tells every change of a content, and nothing else; archives keep their checksums."""

import io
import json
import zipfile

import pytest
import torch
from torch import nn

from slimnet.digest import SEAL, digest, is_intact, sealed, sealed_json, unsealed, weights_digest
from slimnet.errors import InputError


def content():
    shared = torch.arange(12.0)
    return {
        "weight": torch.arange(6.0).view(2, 3),
        "views": [shared[2:6], shared.view(3, 4).t(), shared],
        "half": torch.ones(3, dtype=torch.bfloat16),
        "flag": torch.tensor(True),
        "empty": torch.zeros(0, 4),
        "spread": torch.zeros(1).expand(10**9),
        "plain": {"a": [1, 1.5, None, True, "é\udcff"], 7: (2, 1j)},
    }


def through_torch(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_what_is_written_and_read_again_is_the_same():
    value = content()
    assert digest(value) == digest(content()) == digest(through_torch(value))
    twice = {"a": torch.ones(2), "b": torch.ones(2)}
    assert digest({"a": twice["a"], "b": twice["a"]}) == digest(twice)  # sharing is no content
    read = unsealed(through_torch(sealed(value)))
    assert read.keys() == value.keys()


CHANGES = {
    "a weight": lambda c: c["weight"].view(-1)[5].fill_(5.0000005),
    "a type": lambda c: c.update(half=c["half"].half()),
    "a shape": lambda c: c.update(weight=c["weight"].view(3, 2)),
    "an order": lambda c: c.update(views=[*reversed(c["views"])]),
    "a view": lambda c: c["views"].__setitem__(0, c["views"][2][3:7]),
    "a sign of zero": lambda c: c["weight"].view(-1)[0].fill_(-0.0),
    "a flag": lambda c: c["flag"].fill_(False),
    "a number": lambda c: c["plain"]["a"].__setitem__(0, 2),
    "a kind of number": lambda c: c["plain"]["a"].__setitem__(0, 1.0),
    "a kind of container": lambda c: c["plain"].update({7: [2, 1j]}),
    "a key": lambda c: c.update(flog=c.pop("flag")),
    "a nesting": lambda c: c["plain"].update({7: ((2,), 1j)}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_noticed(change):
    value = sealed(content())
    assert unsealed(value)
    CHANGES[change](value)
    with pytest.raises(InputError, match="not what was written"):
        unsealed(value)


def test_what_was_written_before_there_were_digests_passes():
    assert unsealed({"a": 1}) == {"a": 1}


def test_json_is_sealed_as_it_comes_back():
    value = {"a": (1, 2.5), "b": {3: None}, "c": 0.1 + 0.2}
    assert sealed_json(value).keys() == {"a", "b", "c", SEAL}
    assert unsealed(json.loads(json.dumps(sealed_json(value), indent=1)))["a"] == [1, 2.5]


def test_what_never_ends_is_refused(monkeypatch):
    monkeypatch.setattr("slimnet.digest._MOST", 1000)
    value = []
    for _ in range(60):
        value = [value, value]
    with pytest.raises(InputError, match="nests more values"):
        digest(value)


def archive(value, tmp_path, **options):
    torch.save(value, tmp_path / "x.pt")
    return tmp_path / "x.pt"


def test_a_flipped_bit_breaks_an_archive_and_no_checksum_breaks_none(tmp_path):
    path = archive({"a": torch.randn(100)}, tmp_path)
    with zipfile.ZipFile(path) as opened:
        assert is_intact(opened)
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        with zipfile.ZipFile(archive({"a": torch.randn(100)}, tmp_path)) as opened:
            assert is_intact(opened)
    finally:
        torch.serialization.set_crc32_options(before)
    path = archive({"a": torch.ones(100)}, tmp_path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(torch.ones(4).numpy().tobytes()) + 2] ^= 1
    path.write_bytes(raw)
    assert torch.load(path, weights_only=True)["a"].ne(1).any()  # torch does not mind
    with zipfile.ZipFile(path) as opened:
        assert not is_intact(opened)


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_the_weights_digest_sees_values_names_and_shapes():
    assert weights_digest(linear()) == weights_digest(linear())
    changed = linear()
    changed[1].weight.data[3, 5] += 1e-3
    assert weights_digest(changed) != weights_digest(linear())
    assert weights_digest(nn.BatchNorm1d(2)) != weights_digest(nn.BatchNorm1d(2, affine=False))
