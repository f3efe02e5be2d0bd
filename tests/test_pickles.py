"""A torch file is followed before it is read: what it calls, what it hashes, how deep it goes."""

import collections
import io
import pickletools
import zipfile

import pytest
import torch

from slimnet.errors import InputError
from slimnet.networks.foreign import _InertUnpickler
from slimnet.pickles import _STEPS, foreign_call


def torch_file(pickle=None, *, zipped=True, content=None):
    """A file of torch's with this pickle in place of its own."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    if pickle is None:
        return file.getvalue()
    made = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle if name.endswith("data.pkl") else old.read(name))
    return made.getvalue()


def check(raw):
    return foreign_call(io.BytesIO(raw), len(raw), "it")


def called(module, name, number):
    return b"\x80\x02c%s\n%s\nJ" % (module, name) + number.to_bytes(4, "little") + b"\x85R."


@pytest.mark.parametrize(
    "function",
    [
        (b"torch", b"Tensor"),
        (b"torch", b"FloatTensor"),
        (b"torch.storage", b"UntypedStorage"),
        (b"__builtin__", b"bytearray"),
        (b"os", b"system"),
    ],
)
def test_what_does_not_put_tensors_together_is_named(function):
    assert function[1].decode() in check(torch_file(called(*function, 10**9)))


def test_every_operation_that_is_carried_out_is_followed():
    carried = {pickletools.code2op[chr(code)].name for code in _InertUnpickler.dispatch}
    assert carried == _STEPS.keys()


def test_a_mark_that_is_popped_is_gone():
    hidden = tuples(5, b"0((00")  # a tuple below; two marks come and go
    check(torch_file(hidden + b"K\x01s."))


def tuples(depth, last=b"s."):
    """A dict of which one key is a tuple of two tuples, each the same, and so on."""
    made = b"\x80\x02})q\x00"
    for level in range(depth):
        made += b"h%c\x86q%c" % (level, level + 1)
    return made + b"K\x01" + last


def test_a_key_of_tuples_that_share_tuples_is_no_key():
    check(torch_file(tuples(20)))
    with pytest.raises(InputError, match=r"keys that are made of|tuples inside tuples"):
        check(torch_file(tuples(28)))
    with pytest.raises(InputError, match="tuples inside tuples"):
        check(torch_file(tuples(200)))
    with pytest.raises(InputError, match="tuples inside tuples"):
        check(torch_file(b"\x80\x02})" + b"\x85" * 10**5 + b"K\x01s."))


def test_one_large_key_many_times_is_too_much():
    many = b"".join(b"h%cK\x01s" % 20 for _ in range(100))
    with pytest.raises(InputError, match="keys that are made of"):
        check(torch_file(tuples(20, b"s") + many + b"."))


@pytest.mark.parametrize("raw", [b"\x80\x02", b"\x80\x02R.", b"\x80\x02h\x07.", b"\x80\x02t.", b""])
def test_a_damaged_pickle_is_refused(raw):
    with pytest.raises(InputError, match="damaged"):
        check(torch_file(raw))


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_passes(zipped):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    marked = torch.zeros(2)
    marked.note = "kept"
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameter": model[0].weight,
        "marked": marked,
        "sparse": torch.eye(3).to_sparse(),
        "others": [torch.Size([1]), torch.float16, {1, 2}, 1j, b"raw", torch.device("cpu")],
        "counted": collections.Counter("abc"),
        (1, "key"): None,
    }
    assert check(torch_file(zipped=zipped, content=content)) is None
