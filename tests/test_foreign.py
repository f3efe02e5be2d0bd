"""Objects that no network needs are named and not made: no code of a file runs."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import pathlib
import pickle
import types

import numpy as np
import pytest
import torch
from torch import nn

from slimnet.errors import InputError
from slimnet.networks.foreign import Foreign, load_inert
from slimnet.networks.payload import load_payload

STATE = {
    "weight": nn.Parameter(torch.randn(3, 4)),
    "part": torch.arange(6.0).view(2, 3).t()[1:],
    "half": torch.ones(2, dtype=torch.bfloat16),
    "steps": torch.tensor(3),
    "none": torch.empty(0, 5),
}


class Stage(enum.Enum):
    TRAIN = 1


class Config(dict):
    """As EasyDict and yacs: a dict of a class of its own, with attributes."""


class Tuned(list):
    """As ListConfig."""


def config():
    made = Config(lr=0.1, milestones=Tuned([30, 60]))
    made.frozen = True
    return made


BESIDE = {
    "namespace": argparse.Namespace(lr=0.1, out=pathlib.Path("runs/1")),
    "path": pathlib.PurePosixPath("a/b"),
    "number": np.float64(91.2),
    "array": np.ones(3),
    "dtype": np.dtype("f4"),
    "simple": types.SimpleNamespace(a=1),
    "date": datetime.datetime(2024, 5, 1),
    "enum": Stage.TRAIN,
    "config": config(),
    "partial": functools.partial(print, 3),
    "function": getattr,
    "deque": collections.deque([1, 2], 3),
    "keyed": {Stage.TRAIN: {Stage.TRAIN}},
    "tuple": (Stage.TRAIN, [pathlib.PurePosixPath("a")]),
}
FORMATS = [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}]


@pytest.mark.parametrize("options", FORMATS)
@pytest.mark.parametrize("name", BESIDE)
def test_what_lies_beside_the_weights_is_named(tmp_path, name, options):
    torch.save({"model": STATE, name: BESIDE[name], "epoch": 3}, tmp_path / "net.pt", **options)
    found = load_payload(tmp_path / "net.pt", foreign=True)
    assert found["epoch"] == 3 and found.keys() == {"model", name, "epoch"}
    for key, tensor in STATE.items():
        assert type(found["model"][key]) is type(tensor)
        assert torch.equal(found["model"][key], tensor)
    with pytest.raises(InputError, match=r"net\.pt is "):
        load_payload(tmp_path / "net.pt")


def test_a_dict_of_another_class_is_still_a_dict(tmp_path):
    defaults = collections.defaultdict(list, weights=STATE)
    torch.save({"a": defaults, "b": config()}, tmp_path / "net.pt")
    found = load_payload(tmp_path / "net.pt", foreign=True)
    assert type(found["a"]) is dict and torch.equal(found["a"]["weights"]["part"], STATE["part"])
    assert type(found["b"]) is Foreign and found["b"]["lr"] == 0.1
    assert repr(found["b"]).startswith("<") and "Config" in found["b"].kind


class Calls:
    """Writes itself as whatever call it is told."""

    def __init__(self, function, *given, state=None):
        self.made = (function, given) if state is None else (function, given, state)

    def __reduce__(self):
        return self.made


class Hooked:
    def __setstate__(self, state):
        pathlib.Path("sprung").touch()


TRAPS = {
    "call": lambda: Calls(eval, "open('sprung', 'w')"),
    "call of a method": lambda: Calls(getattr, pathlib.Path("sprung"), "touch"),
    "state of a class": lambda: Calls(Hooked, state={"a": 1}),
    "state of a function": lambda: Calls(getattr, "torch", "load", state={"a": 1}),
    "import": lambda: Calls(__import__, "sprung"),
    "rebuilt by a class": lambda: Calls(
        torch._tensor._rebuild_from_type_v2, eval, torch.Tensor, ("open('sprung', 'w')",), {}
    ),
    "a codec": lambda: Calls(
        pickle.loads, b"cbuiltins\nopen\n(X\x06\x00\x00\x00sprungX\x01\x00\x00\x00wtR."
    ),
}


@pytest.mark.parametrize("options", FORMATS)
@pytest.mark.parametrize("trap", TRAPS)
def test_no_trap_springs(tmp_path, monkeypatch, trap, options):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sprung.py").write_text("open('sprung', 'w')")
    torch.save({"model": {"w": torch.ones(2)}, "trap": TRAPS[trap]()}, "net.pt", **options)
    (tmp_path / "sprung").unlink(missing_ok=True)
    found = load_payload("net.pt", foreign=True)
    assert torch.equal(found["model"]["w"], torch.ones(2)) and isinstance(found["trap"], Foreign)
    assert not (tmp_path / "sprung").exists()


def bare(content: bytes, tmp_path):
    """A torch file, zipped by torch, whose pickle is this."""
    module = types.ModuleType("writes")
    module.Pickler = None

    class Pickler:
        def __init__(self, file, protocol):
            self.file = file

        def dump(self, obj):
            self.file.write(content)

    module.Pickler = Pickler
    torch.save({}, tmp_path / "net.pt", pickle_module=module)
    return tmp_path / "net.pt"


BROKEN = {
    "an instance": b"(ios\ngetcwd\n.",
    "an object": b"\x80\x02(cbuiltins\nlist\no.",
    "an extension": b"\x80\x02\x82\x01.",
    "a buffer": b"\x80\x05\x96\xff\xff\xff\xff\x03\x00\x00\x00.",
    "a module": b"\x80\x02X\x06\x00\x00\x00moduleX\x01\x00\x00\x00a\x86Q.",
    "an end": b"\x80\x02}",
    "a stack": b"\x80\x02s.",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_other_opcodes_and_damage_are_refused(tmp_path, kind):
    path = bare(BROKEN[kind], tmp_path)
    with pytest.raises(InputError, match=r"net\.pt is "):
        load_payload(path, foreign=True)


@pytest.mark.parametrize(
    ("size", "stride"), [((10**6,), (1,)), ((3,), (10**6,)), ((-1,), (1,)), ((2, 2), (1,))]
)
def test_a_tensor_stays_inside_what_is_stored(tmp_path, size, stride):
    stored = torch.ones(4).untyped_storage()
    rebuilt = Calls(torch._utils._rebuild_tensor_v2, stored, 0, size, stride, False, {})
    torch.save({"w": rebuilt, "a": argparse.Namespace()}, tmp_path / "net.pt")
    with pytest.raises(pickle.UnpicklingError):
        load_inert(tmp_path / "net.pt", mapped=True)
