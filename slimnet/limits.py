"""What a file may hold, whoever wrote it: which names, how deep, how many, how large.

Whatever slimnet reads passes here before anything is done with it. A name is written into nothing
that is executed, by slimnet; yet torch builds Python source from names of modules, so a name that
could end a string there is refused where it is read. Every limit is a constant with its reason.
Everything here raises :class:`~slimnet.errors.InputError`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from slimnet.errors import InputError

MARKS = frozenset("_.-+/:@#=,()[]<> ")
"""What names may hold beside letters and digits of any script: no quote, backslash or control."""

LONGEST = 1000
"""Characters of a name: the longest in timm and transformers have 150."""

DEEPEST_NAME = 50
"""Modules inside modules; the deepest in timm has 12, and code that walks them is recursive."""

DEEPEST = 60
"""Containers inside containers: a program has 20 at most, a training state 6."""

MOST = 30_000_000
"""Values in all, a shared list counted wherever it stands: one of 30 million takes a second."""

EXAMPLE_BYTES = 2**27
"""Inputs of which a file tells shapes only: 222 images of 224x224."""

REPEATED_BYTES = 2**28
"""Numbers that a file's tensors may show beyond those it stores: zero strides, shared storages."""

REPEATED = 4
"""… or so many times those that it stores: tied weights, views of one buffer."""

UNPACKED_BYTES = 2**30
"""What a compressed archive may unpack to, however small it is."""

PACKED = 20
"""… or so many times its own size: photographs shrink by a half, drawn images tenfold."""


def checked_name(text: Any, what: str = "name") -> str:
    """A name from a file, if it is one."""
    if not isinstance(text, str):
        raise InputError(f"a {what} is a {type(text).__name__}, and must be a text")
    if len(text) > LONGEST:
        raise InputError(f"a {what} has {len(text):,} characters, and {LONGEST:,} are allowed")
    strange = next((mark for mark in text if not mark.isalnum() and mark not in MARKS), None)
    if strange is not None:
        raise InputError(
            f"the {what} {shown(text)} holds {shown(strange)}, and names may hold letters, digits "
            f"and {''.join(sorted(MARKS)).strip()} only: rename it and save the file again"
        )
    return text


def checked_path(text: Any, what: str = "tensor") -> str:
    """The name of a tensor or module: parts with dots between them."""
    parts = checked_name(text, f"{what}'s name").split(".")
    if len(parts) > DEEPEST_NAME:
        raise InputError(f"a {what} lies in {len(parts)} modules, and {DEEPEST_NAME} are allowed")
    if not all(parts) and text:
        raise InputError(f"the {what}'s name {shown(text)} has an empty part")
    return str(text)


def whole_number(value: Any) -> int:
    """The number itself; raises ``TypeError`` for what is no whole one."""
    if type(value) is not int:
        raise TypeError(f"{value!r:.40} is no whole number")
    return value


def checked_key(value: Any) -> Any:
    """A key of a container that a network takes or returns: a name or a number."""
    if value is None or type(value) in (bool, int, float):
        return value
    return checked_name(value, "key")


def shown(text: str, most: int = 60) -> str:
    """A text of a file as a refusal may quote it: escaped, and not at any length."""
    return ascii(text if len(text) <= most else f"{text[:most]}…").replace("\\u2026", "…")


def from_json(text: str | bytes, what: str) -> Any:
    """What a text in JSON says; nothing of it is nested too deep."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise InputError(f"{what} is nested more than {DEEPEST} deep") from None
    except ValueError as error:
        raise InputError(f"{what} is no JSON: {error}") from error
    check_plain(value, what)
    return value


def check_plain(value: Any, what: str) -> None:
    """Refuse containers that are nested too deep, or that unfold to too many values.

    Lists that share lists are counted as if each were written out: 30 of them, each with the next
    one twice, are a billion values for everyone who walks them.
    """
    _unfolded(value, what, DEEPEST, {})


def _unfolded(
    value: Any, what: str, left: int, known: dict[int, tuple[int, int]]
) -> tuple[int, int]:
    """How many values a container holds in all, and how deep they go."""
    entries = _entries(value)
    if entries is None:
        return 1, 0
    if id(value) not in known:
        _check_depth(left, what)
        count, depth = 1, 0
        for entry in entries:
            inner = _unfolded(entry, what, left - 1, known)
            count, depth = count + inner[0], max(depth, inner[1])
        known[id(value)] = count, depth + 1
    count, depth = known[id(value)]
    _check_depth(left - depth, what)
    if count > MOST:
        raise InputError(f"{what} holds more than {MOST:,} values")
    return count, depth


def _check_depth(left: int, what: str) -> None:
    if left < 0:
        raise InputError(f"{what} is nested more than {DEEPEST} deep")


def _entries(value: Any) -> Iterable[Any] | None:
    if isinstance(value, Mapping):
        return _pairs(value)
    return value if isinstance(value, (list, tuple, set, frozenset)) else None


def _pairs(value: Mapping[Any, Any]) -> Iterator[Any]:
    for key, entry in value.items():
        yield key
        yield entry


def check_tensors(value: Any, what: str, size: int) -> None:
    """Refuse tensors that show far more numbers than a file of ``size`` bytes stores.

    Zero strides make 10^12 numbers of one, and views of one storage as many as there are names.
    """
    shown_bytes: dict[Any, int] = {}
    stored: dict[int, int] = {}
    for tensor in _tensors(value, set()):
        if tensor.layout is not torch.strided or tensor.is_quantized:
            continue  # where one is a weight, that is refused by its name
        _check_kind(tensor, what)
        storage = tensor.untyped_storage()
        stored[storage._cdata] = storage.nbytes()
        place = (storage._cdata, tensor.storage_offset(), tensor.shape, tensor.stride())
        shown_bytes[place] = tensor.numel() * tensor.element_size()
    if sum(stored.values()) > size:
        raise InputError(f"{what} holds fewer numbers than its tensors are said to have")
    if sum(shown_bytes.values()) > max(REPEATED * size, REPEATED_BYTES):
        raise InputError(
            f"{what} repeats the numbers that it stores too often: its tensors have "
            f"{sum(shown_bytes.values()):,} bytes, and it {size:,}; save them with .clone()"
        )


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor inside containers; what stands in several places once."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    for entry in _entries(value) or ():
        yield from _tensors(entry, seen)


def _check_kind(tensor: Tensor, what: str) -> None:
    if tensor.device.type != "cpu":
        raise InputError(f"{what} holds a tensor without numbers (on {tensor.device.type})")
    if tensor.dtype is torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
        raise InputError(f"{what} holds a truth value that is neither true nor false")


def check_example(shapes: Iterable[tuple[Iterable[int | None], torch.dtype]]) -> None:
    """Refuse described inputs that would need too much memory."""
    needed = 0
    for shape, dtype in shapes:
        count = dtype.itemsize
        for length in shape:
            if type(length) is not int or length < 0:
                raise InputError(f"an input's length is {length!r:.40}, and must be a number")
            count *= length
        needed += count
    if needed > EXAMPLE_BYTES:
        raise InputError(
            f"its inputs have {needed:,} bytes, and a file may describe {EXAMPLE_BYTES:,}: "
            "record the network with a smaller batch"
        )


def check_stored(members: Iterable[zipfile.ZipInfo], size: int, what: str) -> None:
    """Refuse a zip of torch's kind that unpacks to more than it is: torch compresses nothing."""
    rows = list(members)
    packed = next((row for row in rows if row.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise InputError(
            f"{what}: its member {shown(packed.filename)} is compressed, which torch never does: "
            "save it again"
        )
    if len({row.filename.lower() for row in rows}) < len(rows):
        raise InputError(f"{what}: two of its members have one name")
    if sum(row.file_size for row in rows) > size:
        raise InputError(f"{what}: its members overlap, so it is no archive of torch's")


def check_packed(members: Iterable[zipfile.ZipInfo], size: int, what: str) -> None:
    """Refuse a compressed zip that unpacks to very much more than it is."""
    unpacked = sum(row.file_size for row in members)
    if unpacked > max(UNPACKED_BYTES, PACKED * size):
        raise InputError(
            f"{what}: it would unpack from {size:,} to {unpacked:,} bytes, which no images do: "
            "save it with numpy.savez, uncompressed"
        )
