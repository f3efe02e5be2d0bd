"""Small files that ask for much: long runs, wide shapes, bombs, nesting, shared references."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from faultlab.fault import SAFE, Fault, command, family
from faultlab.planting import (
    change_file,
    change_json,
    change_member,
    change_payload,
    copied,
    laughs,
    nested_json,
    nested_pickle,
    replace_with_bomb,
)
from faultlab.shelf import COMPARE, OWN, PRUNE, SPARSIFY

HUGE = 10**10
EXABYTE = 10**18
BOMB = 3000
"""Megabytes that a few kilobytes unpack to."""


def _set(*path: Any) -> Callable[[Any], Callable[[Any], None]]:
    """An edit that puts a value at a place."""

    def with_value(value: Any) -> Callable[[Any], None]:
        def change(tree: Any) -> None:
            for key in path[:-1]:
                tree = tree[key]
            tree[path[-1]] = copied(value)

        return change

    return with_value


SLIM: dict[str, Callable[[Any], Any]] = {
    "removes ten thousand million channels": _set("plan", "removed", "first.bias", "0")(
        [[0, HUGE]]
    ),
    "removes channels of an axis that is not there": _set("plan", "removed", "first.bias")(
        {"9": [[0, 3]]}
    ),
    "removes channels from behind": _set("plan", "removed", "first.bias", "0")([[-5, -1]]),
    "removes channels twice": _set("plan", "removed", "first.bias", "0")([[0, 9], [2, 11]]),
    "removes backwards": _set("plan", "removed", "first.bias", "0")([[9, 0]]),
    "removes of an axis from behind": _set("plan", "removed", "first.bias")({"-1": [[0, 3]]}),
    "scales ten thousand million channels": _set("plan", "scaled")(
        {"first.bias": [[0, [[0, HUGE]], 2.0]]}
    ),
    "moves an index far away": _set("plan", "remapped")({"first.bias": [EXABYTE] * 32}),
    "changes an attribute to 10**18": _set("plan", "changes")(
        [{"module": "first", "attribute": "out_channels", "path": [], "old": 32, "new": EXABYTE}]
    ),
    "changes __class__": _set("plan", "changes")(
        [{"module": "first", "attribute": "__class__", "path": [], "old": 32, "new": 16}]
    ),
    "changes a long path": _set("plan", "changes")(
        [{"module": "", "attribute": "training", "path": [0] * 9999, "old": 1, "new": 0}]
    ),
    "has an example of a thousand million numbers": _set("example")(
        {"tuple": [{"leaf": {"shape": [1, 10**9], "dtype": "float32"}}]}
    ),
    "has an example of 10**18 numbers": _set("example")(
        {"tuple": [{"leaf": {"shape": [EXABYTE], "dtype": "float32"}}]}
    ),
    "has an example of a negative length": _set("example")(
        {"tuple": [{"leaf": {"shape": [-1], "dtype": "float32"}}]}
    ),
    "has an example of another type": _set("example")(
        {"tuple": [{"leaf": {"shape": [1, 1, 8, 8], "dtype": "__doc__"}}]}
    ),
    "has an example of a function's type": _set("example")(
        {"tuple": [{"leaf": {"shape": [1, 1, 8, 8], "dtype": "load"}}]}
    ),
    "has an example of 10**6 inputs": _set("example")({"tuple": [{"leaf": {"value": 1}}] * 10**6}),
    "has a program of 10**5 calls": lambda payload: payload["program"].update(
        calls=payload["program"]["calls"] * 12_000
    ),
    "laughs in its notes": _set("plan", "notes")(laughs()),
    "laughs in its versions": _set("versions")(laughs()),
    "laughs in its example": _set("example")(laughs()),
    "laughs in a leaf of its example": _set("example")({"tuple": [{"leaf": laughs()}]}),
    "laughs as its format": _set("slimnet_artifact")(laughs()),
    "laughs in a call": lambda payload: payload["program"]["calls"][0].update(args=laughs()),
    "laughs in its output": lambda payload: payload["program"].update(output=laughs()),
    "laughs in its options": _set("arch")(
        {"source": "slimnet", "name": "digits_vgg", "options": {"num_classes": laughs()}}
    ),
    "laughs in its class": _set("class")(laughs()),
    "laughs in what was removed": _set("plan", "removed", "first.bias", "0")(laughs()),
    "laughs in the certificate": _set("certificate", "checks")(laughs()),
    "laughs in a name": _set("plan", "untouched")([[laughs(), "why"]]),
    "is asked for 10**9 classes": _set("arch")(
        {"source": "slimnet", "name": "digits_vgg", "options": {"num_classes": 10**9}}
    ),
    "is asked for -1 classes": _set("arch")(
        {"source": "slimnet", "name": "digits_vgg", "options": {"num_classes": -1}}
    ),
}


@family("crafted")
def much_in_slim_files(random: Random) -> Iterator[Fault]:
    meets = ("load slimown.pt", "verify slimown.pt --against own.pt --arch net.py:make_model")
    for what, change in SLIM.items():
        yield Fault(
            name=f"a slim.pt {what}",
            command=command(random.choices(meets, (2, 1))[0]),
            needs=("slimown.pt", "own.pt", "net.py"),
            plant=lambda folder, change=change: change_payload(folder / "slimown.pt", change),
            allows=SAFE,
        )


def _weight(name: str, value: Any) -> Callable[[Any], None]:
    """What the configuration says of the first weight."""

    def change(tree: Any) -> None:
        row = next(iter(tree["config"].values()))
        row["tensor_meta"][name] = value

    return change


def _ints(*numbers: int) -> list[dict[str, int]]:
    return [{"as_int": number} for number in numbers]


WEIGHTS: dict[str, Callable[[Any], None]] = {
    "10**12 elements": _weight("sizes", _ints(10**6, 10**6, 1, 1)),
    "strides beyond its storage": _weight("strides", _ints(10**9, 9, 3, 1)),
    "negative strides": _weight("strides", _ints(-9, 9, 3, 1)),
    "an offset beyond its storage": _weight("storage_offset", {"as_int": 10**9}),
    "a negative offset": _weight("storage_offset", {"as_int": -8}),
    "a negative size": _weight("sizes", _ints(-1, 1, 3, 3)),
    "another type": _weight("dtype", 12),
    "no such type": _weight("dtype", 99),
    "sizes by name": _weight("sizes", [{"as_expr": {"expr_str": "s0", "hint": None}}]),
    "nesting": _weight("sizes", json.loads("[" * 900 + "]" * 900)),
}


def _overlapping(tree: Any) -> None:
    meta = next(iter(tree["config"].values()))["tensor_meta"]
    meta.update(sizes=_ints(10**6, 10**6, 1, 1), strides=_ints(0, 0, 0, 0))


WEIGHTS["10**12 elements in one number's place"] = _overlapping


@family("crafted")
def much_in_weights(random: Random) -> Iterator[Fault]:
    meets = ("load program.pt2", "inspect program.pt2", "prune program.pt2 --ratio 0.5 -o out.pt2")
    for what, change in WEIGHTS.items():
        yield Fault(
            name=f"a weight of a .pt2 has {what}",
            command=command(random.choice(meets)),
            needs=("program.pt2",),
            plant=lambda folder, change=change: change_json(
                folder / "program.pt2", "_weights_config.json", change
            ),
            allows=SAFE,
        )


BOMBS = (
    ("program.pt2", "models/model.json", "inspect program.pt2"),
    ("program.pt2", "weights/weight_0", "load program.pt2"),
    ("program.pt2", "_weights_config.json", "prune program.pt2 --ratio 0.5 -o out.pt2"),
    ("program.pt2", "sample_inputs/model.pt", "load program.pt2"),
    ("program.pt2", "byteorder", "load program.pt2"),
    ("slim.pt2", "extra/slimnet.json", "load slim.pt2"),
    ("old.pt2", "serialized_exported_program.json", "load old.pt2"),
    ("old.pt2", "serialized_state_dict.pt", "load old.pt2"),
    ("dense.pt", "data.pkl", "load dense.pt"),
    ("dense.pt", "data/0", "load dense.pt"),
    ("dense.pt", "version", "load dense.pt"),
    ("slim.pt", "data.pkl", "load slim.pt"),
    ("slim.pt", "data/0", "verify slim.pt --against dense.pt"),
    ("data.npz", "x_train.npy", "load data.npz"),
    ("data.npz", "y_test.npy", f"{PRUNE} --criterion taylor --data npz:data.npz -o out.pt"),
    ("sparse.pt.training", "data.pkl", SPARSIFY),
)


@family("crafted")
def bombs(random: Random) -> Iterator[Fault]:
    """A few kilobytes of zip that unpack to three gigabytes."""
    for file, member, met in BOMBS:
        yield Fault(
            name=f"{member} of {file} unpacks to {BOMB / 1000:.0f} GB",
            command=command(met),
            needs=tuple({file: 0, "dense.pt": 0, "data.npz": 0}),
            plant=lambda folder, file=file, member=member: replace_with_bomb(
                folder / file, member, BOMB
            ),
            allows=SAFE,
            keeps=("sparse.pt.training*",),
        )


def _npz_header(folder: Path) -> None:
    """The header of an array says that it has 10**15 images."""

    def change(content: bytes) -> bytes:
        start = content.index(b"{")
        header = content[start : content.index(b"}") + 1]
        length = struct.unpack_from("<H", content, 8)[0]
        wide = header.replace(b"(96, 8, 8, 1)", b"(%d, 8, 8, 1)" % 10**15)
        return content[:start] + wide.ljust(length - 1) + b"\n" + content[start + length :]

    change_member(folder / "data.npz", "x_train.npy", change)


def _safetensors_header(length: int, text: bytes = b"{}") -> Callable[[Path], None]:
    return lambda folder: _written(folder / "dense.safetensors", struct.pack("<Q", length) + text)


def _written(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _sparse(name: str) -> Callable[[Path], None]:
    """A hole of 100 GB behind the file's own content."""

    def plant(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.truncate(100 * 10**9)

    return plant


_DEEP = nested_json()
_TENSOR = b'{"a":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}'

DEEP: tuple[tuple[str, str, tuple[str, ...], Callable[[Path], Any]], ...] = (
    (
        "model.json of a .pt2 is nested 5 000 deep",
        "load program.pt2",
        ("program.pt2",),
        lambda f: change_member(f / "program.pt2", "models/model.json", lambda _: _DEEP.encode()),
    ),
    (
        "an argument in a .pt2 is nested 5 000 deep",
        "inspect program.pt2",
        ("program.pt2",),
        lambda f: change_member(
            f / "program.pt2",
            "models/model.json",
            lambda old: old.replace(b'{"as_ints": [1, 1]}', b'{"as_ints": %s}' % _DEEP.encode(), 1),
        ),
    ),
    (
        "the inputs' containers in a .pt2 are nested 5 000 deep",
        "load program.pt2",
        ("program.pt2",),
        lambda f: change_json(
            f / "program.pt2",
            "models/model.json",
            _set("graph_module", "module_call_graph", 0, "signature", "in_spec")(_DEEP),
        ),
    ),
    (
        "slimnet.json of a .pt2 is nested 5 000 deep",
        "load slim.pt2",
        ("slim.pt2",),
        lambda f: change_member(f / "slim.pt2", "slimnet.json", lambda _: _DEEP.encode()),
    ),
    (
        "slimnet.json of a .pt2 holds a key twice",
        "load slim.pt2",
        ("slim.pt2",),
        lambda f: change_member(
            f / "slim.pt2", "slimnet.json", lambda old: b'{"plan": 3, ' + old.lstrip()[1:]
        ),
    ),
    (
        "slimnet.json of a .pt2 holds a number of 10 000 digits",
        "load slim.pt2",
        ("slim.pt2",),
        lambda f: change_member(
            f / "slim.pt2",
            "slimnet.json",
            lambda old: old.replace(b'"format": 1', b'"format": ' + b"9" * 10_000),
        ),
    ),
    (
        "slimnet.json of a .pt2 is no UTF-8",
        "load slim.pt2",
        ("slim.pt2",),
        lambda f: change_member(f / "slim.pt2", "slimnet.json", lambda old: b"\xff\xfe" + old),
    ),
    (
        "the pickle of a slim.pt is nested 5 000 deep",
        "load slim.pt",
        ("slim.pt",),
        lambda f: change_member(f / "slim.pt", "data.pkl", lambda _: nested_pickle()),
    ),
    (
        "the pickle of a state dict is nested 10**6 deep",
        "inspect dense.pt",
        ("dense.pt",),
        lambda f: change_member(f / "dense.pt", "data.pkl", lambda _: nested_pickle(10**6)),
    ),
    (
        "a cell is nested 5 000 deep",
        COMPARE,
        ("study", "dense.pt", "data.npz"),
        lambda f: _written(min((f / "study" / "cells").iterdir()), _DEEP.encode()),
    ),
    (
        "a cell holds a list",
        COMPARE,
        ("study", "dense.pt", "data.npz"),
        lambda f: change_file(min((f / "study" / "cells").iterdir()), lambda _: [1, 2]),
    ),
    (
        "a user's file is nested 5 000 deep",
        f"inspect own.pt {OWN}",
        ("own.pt",),
        lambda f: _written(f / "net.py", b"x = " + _DEEP.encode()),
    ),
    (
        "an array of an .npz says that it has 10**15 images",
        "load data.npz",
        ("data.npz",),
        _npz_header,
    ),
    (
        "the header of a .safetensors is 2**60 bytes long",
        "load dense.safetensors",
        ("dense.safetensors",),
        _safetensors_header(2**60),
    ),
    (
        "a tensor of a .safetensors has 10**15 numbers",
        "load dense.safetensors",
        ("dense.safetensors",),
        _safetensors_header(len(_TENSOR % (10**15, 4 * 10**15)), _TENSOR % (10**15, 4 * 10**15)),
    ),
    (
        "the header of a .safetensors is nested 5 000 deep",
        "load dense.safetensors",
        ("dense.safetensors",),
        _safetensors_header(len(_DEEP), _DEEP.encode()),
    ),
    ("a state dict is 100 GB of nothing", "load dense.pt", ("dense.pt",), _sparse("dense.pt")),
    ("an old state dict is 100 GB long", "load legacy.pt", ("legacy.pt",), _sparse("legacy.pt")),
    (
        "a .safetensors is 100 GB of nothing",
        "load dense.safetensors",
        ("dense.safetensors",),
        _sparse("dense.safetensors"),
    ),
    ("an .npz is 100 GB of nothing", "load data.npz", ("data.npz",), _sparse("data.npz")),
    (
        "a user's file is 100 GB of nothing",
        f"inspect own.pt {OWN}",
        ("own.pt", "net.py"),
        _sparse("net.py"),
    ),
    ("a slim.pt is 100 GB of nothing", "load slim.pt", ("slim.pt",), _sparse("slim.pt")),
    (
        "a .pt2 is 100 GB of nothing",
        "inspect program.pt2",
        ("program.pt2",),
        _sparse("program.pt2"),
    ),
)


@family("crafted")
def much_elsewhere(random: Random) -> Iterator[Fault]:
    for name, met, needs, plant in DEEP:
        yield Fault(name, command(met), needs, plant, SAFE)


@family("crafted")
def many_members(random: Random) -> Iterator[Fault]:
    """A zip of 100 000 empty members."""
    for file, met in (("program.pt2", "inspect program.pt2"), ("dense.pt", "inspect dense.pt")):
        yield Fault(
            name=f"{file} holds 50 000 empty members more",
            command=command(met),
            needs=(file,),
            plant=lambda folder, file=file: _crowded(folder / file),
            allows=SAFE,
        )


def _crowded(path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        for number in range(50_000):
            archive.writestr(f"{root}/{number}", b"")
