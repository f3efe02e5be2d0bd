"""How faults are planted: bytes, zip members, nested values and pickles, changed in place.

Every function takes the folder of a fault, or a path in it; nothing outside is touched.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

Place = tuple[Any, ...]
"""Keys and indices, from the root of a nested value to a part of it."""

# ---------------------------------------------------------------------------------------- bytes


def truncate(path: Path, share: float) -> str:
    """Keep this share of a file."""
    content = path.read_bytes()
    kept = min(int(len(content) * share), len(content) - 1)
    path.write_bytes(content[:kept])
    return f"{kept} of {len(content)} bytes"


def flip(path: Path, offset: int, bit: int) -> str:
    """Turn one bit over."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {offset} of {len(content)}"


def flip_anywhere(path: Path, random: Random, start: float = 0.0, stop: float = 1.0) -> str:
    """One bit between two shares of a file."""
    size = path.stat().st_size
    first = int(size * start)
    return flip(
        path, random.randrange(first, max(int(size * stop), first + 1)), random.randrange(8)
    )


ZIP_PARTS = ("local header", "content", "central directory", "end of central directory")


def flip_in_zip(path: Path, random: Random, part: str) -> str:
    """One bit of a part of a zip archive, in a member drawn at random."""
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = [row for row in archive.infolist() if row.file_size or part != "content"]
        row = random.choice(members)
        directory = archive.start_dir
    end = content.rindex(b"PK\x05\x06")
    names, extra = struct.unpack_from("<HH", content, row.header_offset + 26)
    data = row.header_offset + 30 + names + extra
    first, last = {
        "local header": (row.header_offset, data),
        "content": (data, data + row.compress_size),
        "central directory": (directory, end),
        "end of central directory": (end, len(content)),
    }[part]
    where = flip(path, random.randrange(first, last), random.randrange(8))
    return f"{where}: {part} of {row.filename}"


# ------------------------------------------------------------------------------------ zip members


def change_members(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write the archive again, with checksums that fit; ``None`` leaves a member out."""
    with zipfile.ZipFile(path) as old:
        members = [(row.filename, old.read(row)) for row in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members:
            changed = change(name, content)
            if changed is not None:
                new.writestr(_aligned(new, name), changed)


def _aligned(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """As torch writes it: contents begin at multiples of 64 bytes, so that they can be mapped."""
    row = zipfile.ZipInfo(name)
    end = archive.fp.tell() + 30 + len(name.encode())  # type: ignore[union-attr]
    gap = -(end + 4) % 64
    row.extra = struct.pack("<HH", 0x4246, gap) + b"Z" * gap  # "FB", torch's own mark
    return row


def change_member(path: Path, ending: str, change: Callable[[bytes], bytes]) -> None:
    """One member; raises ``ValueError`` where no name has this ending."""
    found = []

    def each(name: str, content: bytes) -> bytes:
        if not name.endswith(ending):
            return content
        found.append(name)
        return change(content)

    change_members(path, each)
    if not found:
        raise ValueError(f"no member ends with {ending}")


def change_json(path: Path, ending: str, change: Callable[[Any], Any]) -> None:
    """A member in JSON; ``change`` edits in place, or returns another value."""

    def edited(content: bytes) -> bytes:
        data = json.loads(content)
        if isinstance(data, dict):
            data.pop(SEAL, None)
        changed = change(data)
        return json.dumps(data if changed is None else changed).encode()

    change_member(path, ending, edited)


SEAL = "digest"
"""What slimnet writes beside a content; an attacker would leave it out, or compute it anew."""


def change_payload(path: Path, change: Callable[[Any], Any], *, damage: bool = False) -> None:
    """What ``torch.load`` gives, saved again; ``change`` edits in place, or returns another.

    ``damage`` leaves the digest as it was: nobody meant it.
    """
    import torch

    payload = torch.load(path, weights_only=True)
    if not damage and isinstance(payload, dict):
        payload.pop(SEAL, None)
    changed = change(payload)
    torch.save(payload if changed is None else changed, path)


def change_file(path: Path, change: Callable[[Any], Any]) -> None:
    """A file in JSON."""
    data = json.loads(path.read_text())
    changed = change(data)
    path.write_text(json.dumps(data if changed is None else changed))


@cache
def bomb(megabytes: int) -> tuple[bytes, int, int]:
    """Zeros, deflated: the stream, its checksum and its length unpacked."""
    block = bytes(1 << 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)  # each block by itself
    crc = 0
    for _ in range(megabytes):
        crc = zlib.crc32(block, crc)
    return piece * megabytes + packer.flush(), crc, megabytes << 20


def add_bomb(path: Path, name: str, megabytes: int) -> None:
    """A member of a few kilobytes that unpacks to this much."""
    stream, crc, size = bomb(megabytes)
    with zipfile.ZipFile(path, "a") as archive:
        offset = archive.start_dir
        row = zipfile.ZipInfo(name)
        row.compress_type = zipfile.ZIP_DEFLATED
        row.CRC, row.compress_size, row.file_size, row.header_offset = (
            crc,
            len(stream),
            size,
            offset,
        )
        archive.fp.seek(offset)  # type: ignore[union-attr]
        archive.fp.write(row.FileHeader(zip64=False) + stream)  # type: ignore[union-attr]
        archive.start_dir = archive.fp.tell()  # type: ignore[union-attr]
        archive.filelist.append(row)
        archive.NameToInfo[name] = row
        archive._didModify = True  # type: ignore[attr-defined]


def replace_with_bomb(path: Path, ending: str, megabytes: int) -> None:
    """In place of a member."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith(ending))
    change_members(path, lambda other, content: None if other == name else content)
    add_bomb(path, name, megabytes)


# --------------------------------------------------------------------------------- nested values


def drawn_place(tree: Any, random: Random, stop: float = 0.15) -> Place:
    """Some part of a nested value, from the root down: as many from its top as from its bulk."""
    place: Place = ()
    while _is_container(tree) and len(tree) and (not place or random.random() > stop):
        key = random.choice(sorted(tree, key=str) if isinstance(tree, dict) else range(len(tree)))
        place, tree = (*place, key), tree[key]
    return place


def _is_container(tree: Any) -> bool:
    return isinstance(tree, (dict, list, tuple))


def with_part(tree: Any, place: Place, value: Any) -> Any:
    """The same with another part at a place."""
    if not place:
        return value
    key, *rest = place
    changed = with_part(tree[key], tuple(rest), value)
    if isinstance(tree, dict):
        return {k: changed if k == key else v for k, v in tree.items()}
    return type(tree)(changed if k == key else v for k, v in enumerate(tree))


def renamed(tree: Any, old: str, new: str) -> Any:
    """The same with a string replaced wherever it stands, as a key too."""
    if isinstance(tree, dict):
        return {renamed(k, old, new): renamed(v, old, new) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(renamed(v, old, new) for v in tree)
    return new if isinstance(tree, str) and tree == old else tree


def strings(tree: Any) -> Iterator[tuple[Place, str]]:
    """Every string in a nested value and where it stands; keys are not listed."""
    pairs: Any = ()
    if isinstance(tree, dict):
        pairs = tree.items()
    elif isinstance(tree, (list, tuple)):
        pairs = enumerate(tree)
    for key, part in pairs:
        if isinstance(part, str):
            yield (key,), part
        for place, text in strings(part):
            yield (key, *place), text


def laughs(levels: int = 9, width: int = 10) -> list[Any]:
    """Lists of one list each time: a billion entries, and a few hundred bytes in a pickle."""
    tree: list[Any] = ["ha"] * width
    for _ in range(levels - 1):
        tree = [tree] * width
    return tree


def nested_json(depth: int = 5000) -> str:
    """Lists in lists."""
    return "[" * depth + "]" * depth


def nested_pickle(depth: int = 5000) -> bytes:
    """The same as a pickle; pickling such a list is beyond Python's own recursion."""
    return pickle.PROTO + b"\x02" + pickle.EMPTY_LIST * depth + pickle.APPEND * (depth - 1) + b"."


def pickled_call(path: str, argument: str) -> bytes:
    """A pickle that calls a function of one argument when it is loaded: ``os.system`` …"""
    module, _, name = path.rpartition(".")
    call = f"c{module}\n{name}\n(V{argument}\ntR.".encode()
    return pickle.PROTO + b"\x02" + call


def spliced_call(content: bytes, path: str, argument: str) -> bytes:
    """A pickle that first calls, and then gives what it gave before."""
    module, _, name = path.rpartition(".")
    call = f"c{module}\n{name}\n(V{argument}\ntR0".encode()  # 0: the result is dropped
    return content[:2] + call + content[2:]


def copied(tree: Any) -> Any:
    """A deep copy, shared parts still shared."""
    return copy.deepcopy(tree)


def torch_bytes(value: Any) -> bytes:
    """As ``torch.save`` writes it."""
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
