"""Is a file what was written? Digests over content, and the checksums of zip archives.

torch looks at no checksum: a flipped bit would come in as another weight. What slimnet writes is
sealed with a digest of its content, archives of any origin are held to their own checksums, and
both are checked wherever a file is read. Others' ``.safetensors`` files, and pickles of before
torch 1.6, carry none: nothing can be said of them.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.errors import InputError

SEAL = "digest"
"""The key of the digest beside what it is of."""

DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError),
    *(NotImplementedError, RuntimeError),  # a method or an encryption that nobody asked for
)
"""What :mod:`zipfile` raises on a damaged archive."""


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its digest."""
    return {**content, SEAL: digest(content)}


def unsealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """What was sealed; files of before there were digests pass. Raises :class:`InputError`."""
    found = {name: value for name, value in content.items() if name != SEAL}
    if SEAL in content and content[SEAL] != digest(found):
        raise InputError("its content is not what was written (the digest differs)")
    return found


def sealed_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content as JSON gives it back, with its digest."""
    return sealed(json.loads(json.dumps(content, allow_nan=False)))


def seal_of(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """The digest of tensors by name and texts beside them, in any order and layout."""
    told = sorted((name, text) for name, text in texts.items() if name != SEAL)
    return digest([told, [(name, _of_numbers(tensors[name])) for name in sorted(tensors)]])


def _of_numbers(tensor: Tensor) -> str:
    flat = tensor.detach().reshape(-1).clone(memory_format=torch.contiguous_format)
    return digest([list(tensor.shape), flat])


def digest(value: Any) -> str:
    """32 hexadecimal digits of nested containers of tensors, numbers and texts."""
    found = blake2b(digest_size=16)
    known: dict[tuple[int, int], bytes] = {}
    stack, left = [value], _MOST
    while stack:
        value, left = stack.pop(), left - 1
        if left < 0:
            raise InputError("it nests more values than a file of slimnet holds")
        if isinstance(value, Tensor):
            found.update(_of_tensor(value, known))
        elif isinstance(value, Mapping):
            found.update(f"dict {len(value)};".encode())
            stack += [part for row in value.items() for part in row]
        elif isinstance(value, (list, tuple)):
            found.update(
                f"{'tuple' if isinstance(value, tuple) else 'list'} {len(value)};".encode()
            )
            stack += value
        else:
            found.update(_of_leaf(value))
    return found.hexdigest()


_MOST = 10_000_000  # values: a list that holds one list twice, forty deep, would never end


def _of_leaf(value: Any) -> bytes:
    text = str(value) if isinstance(value, str) else repr(value)
    encoded = text.encode("utf-8", "surrogatepass")
    return f"{type(value).__name__} {len(encoded)};".encode() + encoded


def _of_tensor(tensor: Tensor, known: dict[tuple[int, int], bytes]) -> bytes:
    """How it lies in its storage, and that: as it is stored, however often it is shared."""
    if tensor.layout is not torch.strided:
        return f"tensor {tensor.dtype} {tensor.layout} {tuple(tensor.shape)};".encode()
    form = (tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
    storage = tensor.untyped_storage()
    key = (storage.data_ptr(), storage.nbytes())
    if key not in known:
        known[key] = _of_storage(storage)
    return f"tensor {form};".encode() + known[key]


def _of_storage(storage: torch.UntypedStorage) -> bytes:
    found = blake2b(digest_size=16)
    content = torch.empty(0, dtype=torch.uint8).set_(storage.cpu())
    found.update(content.numpy().data)
    return found.digest()


def weights_digest(model: nn.Module) -> str:
    """A digest of every name, shape and value of the network's state."""
    found = blake2b(digest_size=8)
    for name, value in model.state_dict().items():
        found.update(name.encode())
        if isinstance(value, Tensor):
            found.update(f"{value.dtype}{list(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def is_intact(archive: zipfile.ZipFile) -> bool:
    """Whether every entry has the checksum that stands beside it, read piece by piece.

    Where torch was told to write no checksums, all are zero and nothing can be said.
    """
    stated = any(entry.CRC for entry in archive.infolist() if entry.file_size)
    try:
        return not stated or archive.testzip() is None
    except DAMAGE:
        return False
