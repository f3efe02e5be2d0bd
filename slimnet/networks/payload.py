"""From a file to whatever torch.save put into it, without running code from the file.

Everything that is not such a file is refused with what it seems to be. Weights stay mapped from
the file where its format allows that, so that they cost no memory until they are read.
"""

from __future__ import annotations

import io
import pickle
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from slimnet import limits
from slimnet.digest import DAMAGE, SEAL, is_intact, seal_of
from slimnet.errors import InputError
from slimnet.networks.foreign import load_inert
from slimnet.pickles import foreign_call
from slimnet.quiet import unwarned
from slimnet.text import first_line_with_kind

WANTED = "give a state dict, saved with torch.save(model.state_dict(), FILE)"


def load_payload(path: str | Path, *, allow_pickle: bool = False, foreign: bool = False) -> Any:
    """Read whatever a file made by torch.save (or safetensors) holds, on the CPU.

    Only ``allow_pickle`` lets a file run code. With ``foreign``, objects of other classes do not
    refuse the file: they are named, and not made. Raises InputError for any other kind of file.
    """
    file = Path(path)
    check_file(file)
    if file.suffix.lower() == ".safetensors":
        return _read_safetensors(file)
    mapped = _check_kind(file)
    payload = _torch_payload(file, mapped=mapped, allow_pickle=allow_pickle, foreign=foreign)
    limits.check_plain(payload, str(file))
    limits.check_tensors(payload, str(file), file.stat().st_size)
    return payload


def _torch_payload(file: Path, *, mapped: bool, allow_pickle: bool, foreign: bool) -> Any:
    try:
        if not allow_pickle:
            _check_calls(file)
        return _torch_load(file, mapped=mapped, allow_pickle=allow_pickle)
    except InputError as refusal:
        if not foreign or allow_pickle or not isinstance(refusal.__cause__, pickle.UnpicklingError):
            raise
        return _inert(file, refusal, mapped=mapped)


def _inert(file: Path, refusal: InputError, *, mapped: bool) -> Any:
    """What the strict reading refused, other objects named in place of made."""
    try:
        if not mapped and tarfile.is_tarfile(file):  # torch's format of 2016, which it unpacks
            raise refusal
        return load_inert(file, mapped=mapped)
    except Exception:  # a damaged pickle raises anything, and the strict reading has said why
        raise refusal from refusal.__cause__


def check_file(file: Path) -> None:
    """Raise :class:`InputError` unless there is a file that has content, and ends."""
    try:
        if file.is_dir():
            raise InputError(f"{file} is a folder, not a file")
        if not file.exists():
            raise InputError(f"there is no file {file}")
        if not file.is_file():
            raise InputError(f"{file} is a device or a pipe, and no file that ends")
        with file.open("rb") as opened:
            empty = not opened.read(1)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    if empty:
        raise InputError(f"{file} is empty")


def _check_kind(file: Path) -> bool:
    """Return whether the file can be memory-mapped (torch's zip format); refuse other kinds."""
    with file.open("rb") as opened:
        start = opened.read(4)
    if start == b"PK\x03\x04":
        _check_archive(file)
        return True
    if start[:1] != b"\x80":  # how every pickle begins, and so torch's old format
        raise InputError(f"{file} is no torch file (it begins with {start!r}): {WANTED}")
    return False


def _check_archive(file: Path) -> None:
    """What kind of archive it is, then whether it unpacks to what it holds, undamaged."""
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(file, {n.partition("/")[2] or n for n in archive.namelist()})
            limits.check_stored(archive.infolist(), file.stat().st_size, str(file))
            intact = is_intact(archive)
    except InputError:
        raise
    except DAMAGE:
        intact = False
    if not intact:
        raise InputError(f"{file} is truncated or damaged: get the file again")


def _check_members(file: Path, names: set[str]) -> None:
    if "constants.pkl" in names:
        raise InputError(f"{file} is a TorchScript archive, which is not read: {WANTED}")
    if _lists_program(names):
        raise InputError(f"{file} is a torch.export program (.pt2), not a checkpoint: {WANTED}")
    if "data.pkl" not in names:
        raise InputError(f"{file} is a zip archive but no torch file: {WANTED}")


def _check_calls(file: Path) -> None:
    """Refuse what would call anything but torch's makers of tensors, before torch does."""
    with file.open("rb") as opened:
        called = foreign_call(opened, file.stat().st_size, str(file))
    if called is not None:
        raise pickled(file, called) from pickle.UnpicklingError(called)


def is_program_file(path: str | Path) -> bool:
    """Whether a file is what ``torch.export.save`` writes, whatever its name."""
    check_file(Path(path))
    try:
        with zipfile.ZipFile(path) as archive:
            return _lists_program({n.partition("/")[2] or n for n in archive.namelist()})
    except DAMAGE:
        return False


def _lists_program(names: set[str]) -> bool:
    """Whether these are the members of an archive that torch.export wrote."""
    return bool(names & {"archive_format", "models/model.json", "serialized_exported_program.json"})


def _torch_load(file: Path, *, mapped: bool, allow_pickle: bool) -> Any:
    try:
        with unwarned():  # of protocols of pickle that torch does not expect
            source = file if _is_text(file) else io.BytesIO(file.read_bytes())
            mapped = mapped and source is file
            return torch.load(
                source, map_location="cpu", weights_only=not allow_pickle, mmap=mapped
            )
    except Exception as error:  # unpickling raises whatever the file's code raises
        if allow_pickle:
            raise InputError(f"{file} does not unpickle: {first_line_with_kind(error)}") from error
        raise _refusal(file, error) from error


def _is_text(file: Path) -> bool:
    """Whether torch can open a file of this name: it takes the bytes of UTF-8 only."""
    try:
        return bool(str(file).encode())
    except UnicodeEncodeError:
        return False


def _refusal(file: Path, error: Exception) -> InputError:
    match = re.search(r"GLOBAL ([\w.]*\w) (?:was not|whose)", str(error))
    if not isinstance(error, pickle.UnpicklingError) or match is None:
        return InputError(f"{file} is no torch file, or a damaged one: {WANTED}")
    return pickled(file, match[1])


def pickled(file: str | Path, kind: str) -> InputError:
    """The refusal of what only running a file's code would give."""
    return InputError(
        f"{file} is a pickled Python object ({kind}); loading one runs its code: save its "
        "state_dict() instead, or pass --allow-pickle if you trust it"
    )


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(file)
    except Exception as error:  # its error type differs between versions of the package
        raise InputError(f"{file} is no safetensors file: {first_line_with_kind(error)}") from error
    texts = read_metadata(file)
    if SEAL in texts and texts[SEAL] != seal_of(tensors, texts):
        raise InputError(f"{file} is damaged: its content is not what was written")
    return tensors


def read_metadata(path: str | Path) -> dict[str, str]:
    """The texts that a ``.safetensors`` file carries; raises InputError for another file."""
    from safetensors import safe_open

    file = Path(path)
    check_file(file)
    try:
        with safe_open(file, "pt") as opened:
            return dict(opened.metadata() or {})
    except Exception as error:  # its error type differs between versions of the package
        raise InputError(f"{file} is no safetensors file: {first_line_with_kind(error)}") from error
