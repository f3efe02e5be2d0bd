"""What lies in a ``.pt2`` file, without unpickling more than plain tensors.

``torch.export.load`` unpickles sample inputs and constants, which can run code. Here the archive is
read as what it is: a zip with a graph in JSON, tensors as raw bytes and, in few places, files that
``torch.load(weights_only=True)`` reads. Both layouts of torch are known: the archive that it writes
since 2.8, and the four files of before.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimnet import limits
from slimnet.digest import DAMAGE
from slimnet.errors import InputError
from slimnet.pickles import foreign_call

MAJOR = 8
"""The version of the graph's schema that torch 2.5 to 2.15 write."""

DTYPES = {
    number: getattr(torch, name)
    for number, name in enumerate(
        (
            *("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"),
            *("complex32", "complex64", "complex128", "bool", "bfloat16"),
        ),
        start=1,
    )
}
"""The schema's numbers of types (float8 and wide unsigned ones are not computed with)."""


@dataclass(frozen=True, eq=False)
class Archive:
    """The parts of an exported program as they are stored."""

    graph: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    frozen: frozenset[str]  # parameters that were exported without a gradient
    sample: Any | None  # (positional inputs, inputs by name), where they could be read
    extra: Mapping[str, str]


def read_archive(path: str | Path) -> Archive:
    """Read the file; raises :class:`InputError` for one that is damaged or not a program."""
    with reading(path), zipfile.ZipFile(path) as opened:
        size = Path(path).stat().st_size
        limits.check_stored(opened.infolist(), size, "it")
        return _within(_read(_Files(opened)), size)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Name the file in every refusal; refuse it where the block fails on something damaged."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise InputError(
            f"{path} is a damaged torch.export program ({type(error).__name__}: {error}): export "
            "it again"
        ) from error


_DAMAGE = (*DAMAGE, KeyError, TypeError, AttributeError, IndexError, OverflowError)


def _within(archive: Archive, size: int) -> Archive:
    """The archive, if it shows no more numbers than a file of this size may."""
    for name in archive.tensors:
        limits.checked_path(name)
    limits.check_tensors([archive.tensors, archive.sample], "it", size)
    return archive


def holds_text(path: str | Path, name: str) -> bool:
    """Whether a text of this name lies beside the program."""
    with zipfile.ZipFile(path) as opened:
        return f"extra/{name}" in _Files(opened).names


class _Files:
    """The zip's members, without the folder that all of them share."""

    def __init__(self, opened: zipfile.ZipFile) -> None:
        self._opened = opened
        names = opened.namelist()
        roots = {name.partition("/")[0] for name in names}
        root = f"{roots.pop()}/" if len(roots) == 1 and len(names) > 1 else ""
        self.names = {name.removeprefix(root): name for name in names}

    def read(self, name: str) -> bytes:
        """One member; zipfile compares its checksum."""
        return self._opened.read(self.names[name])

    def json(self, name: str) -> Any:
        """A member in JSON."""
        return limits.from_json(self.read(name), f"its member {name}")


def _read(files: _Files) -> Archive:
    if "serialized_exported_program.json" in files.names:
        return _read_four_files(files)
    models = [n[7:-5] for n in files.names if n.startswith("models/") and n.endswith(".json")]
    if len(models) != 1:
        raise InputError(f"it holds {len(models)} programs, and exactly one can be read")
    if files.names.get("byteorder") and files.read("byteorder").strip() != b"little":
        raise InputError("it was written on a big-endian machine: export it again on another one")
    name = models[0]
    stored = {
        **_tensors(files, f"data/weights/{name}", "weights"),
        **_tensors(files, f"data/constants/{name}", "constants"),
    }
    return Archive(
        graph=_checked(files.json(f"models/{name}.json")),
        tensors={key: tensor for key, (tensor, _) in stored.items()},
        frozen=frozenset(key for key, (_, frozen) in stored.items() if frozen),
        sample=_sample(files, f"data/sample_inputs/{name}.pt"),
        extra={n[6:]: files.read(n).decode() for n in files.names if n.startswith("extra/")},
    )


def _read_four_files(files: _Files) -> Archive:
    stored: dict[str, Any] = {}
    for part in ("state_dict", "constants"):
        stored.update(_loaded(files.read(f"serialized_{part}.pt"), part))
    frozen = {k for k, t in stored.items() if isinstance(t, torch.nn.Parameter)}
    return Archive(
        graph=_checked(files.json("serialized_exported_program.json")),
        tensors={name: t.detach() for name, t in stored.items() if isinstance(t, Tensor)},
        frozen=frozenset(k for k in frozen if not stored[k].requires_grad),
        sample=_sample(files, "serialized_example_inputs.pt"),
        extra={},
    )


def _checked(graph: Any) -> Mapping[str, Any]:
    major = graph["schema_version"]["major"]
    if major != MAJOR:
        raise InputError(
            f"its format is version {major} (torch {graph.get('torch_version', 'unknown')}), and "
            f"version {MAJOR} can be read: export it again with another torch"
        )
    return graph["graph_module"]  # type: ignore[no-any-return]


def _tensors(files: _Files, stem: str, kind: str) -> dict[str, tuple[Tensor, bool]]:
    """By name: each tensor, and whether it is a parameter without a gradient."""
    if f"{stem}.pt" in files.names:  # as torch 2.8 and 2.9 write it
        loaded = _loaded(files.read(f"{stem}.pt"), kind)
        return {name: (t.detach(), _is_frozen(t)) for name, t in loaded.items()}
    folder, _, model = stem.rpartition("/")
    rows = files.json(f"{folder}/{model}_{kind}_config.json")["config"]
    stored: dict[str, Tensor] = {}  # tensors of one storage stay tensors of one storage
    tensors = {}
    for name, row in rows.items():
        path = f"{folder}/{row['path_name']}"
        meta = row["tensor_meta"]
        if meta is None:
            raise InputError(f"{name} is no tensor but an object of a class, which is not read")
        if path not in stored:
            raw = files.read(path)
            stored[path] = _loaded(raw, name) if row["use_pickle"] else _flat(raw, meta)
        tensor = stored[path] if row["use_pickle"] else _view(stored[path], meta)
        tensors[name] = (tensor.detach(), row["is_param"] and not meta["requires_grad"])
    return tensors


def _is_frozen(tensor: Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad


def _flat(raw: bytes, meta: Mapping[str, Any]) -> Tensor:
    kind = DTYPES[meta["dtype"]]
    return torch.frombuffer(bytearray(raw), dtype=kind) if raw else torch.empty(0, dtype=kind)


def _view(flat: Tensor, meta: Mapping[str, Any]) -> Tensor:
    sizes, strides = ([n["as_int"] for n in meta[key]] for key in ("sizes", "strides"))
    return torch.as_strided(flat, sizes, strides, meta["storage_offset"]["as_int"])


def _loaded(raw: bytes, what: str) -> Any:
    try:
        stream = io.BytesIO(raw)
        if foreign_call(stream, len(raw), f"its member {what}") is not None:
            raise ValueError("it is no file of tensors")
        loaded = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling raises
        raise InputError(
            f"its {what} would run code when they are loaded, or are damaged: export the network "
            "with plain tensors"
        ) from error
    limits.check_plain(loaded, f"its member {what}")
    limits.check_tensors(loaded, f"its member {what}", len(raw))
    return loaded


def _sample(files: _Files, name: str) -> Any | None:
    """The inputs that the program was exported with; None where they are of other classes."""
    try:
        return _loaded(files.read(name), "sample")
    except (InputError, KeyError):  # then the graph's own description of its inputs has to do
        return None
