"""Where results go: refused before the work, written beside their place, moved when complete.

Every file that slimnet writes goes through here. It grows under a temporary name beside its place
(:mod:`slimnet.temporary`) and is moved there whole, so that a kill, a full disk or an error leaves
what was there before. A symbolic link stays: what it names is written.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import torch

from slimnet.errors import InputError
from slimnet.temporary import lock_file, temporary_file, temporary_folder
from slimnet.text import first_line


def check_writable(target: Path) -> None:
    """Raise :class:`InputError` where no file ``target`` could be written."""
    with _refusing(target), temporary_file(_place(target)):
        pass


def make_folder(folder: Path) -> Path:
    """Make the folder if need be; raises :class:`InputError` where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}") from error
    with _refusing(folder), temporary_file(folder / "slimnet"):
        pass
    return folder


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary file beside ``target`` that takes its place once the block is through.

    Raises :class:`InputError` where it cannot be written; ``target`` is whole at any moment.
    """
    place = _place(target)
    with _refusing(target), temporary_file(place) as temporary:
        yield temporary
        _settle(temporary)
        temporary.replace(place)


@contextmanager
def replacing_all(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target``; what the block writes there is moved beside it.

    The file that is called as ``target`` comes last, so that it never stands there without the
    others. Raises :class:`InputError` where they cannot be written.
    """
    place = _place(target)
    with _refusing(target, (OSError,)), temporary_folder(place) as folder:
        yield folder
        parts = sorted(folder.iterdir(), key=lambda part: part.name == target.name)
        for part in parts:
            _settle(part)
        for part in parts:
            name = place.name if part.name == target.name else part.name
            part.replace(place.with_name(name))


@contextmanager
def claimed(target: Path) -> Iterator[bool]:
    """Whether ``target`` is this block's alone: others, in any process, are told no meanwhile.

    Raises :class:`InputError` where no file of this name can be made.
    """
    with ExitStack() as stack:
        with _refusing(target):
            mine = stack.enter_context(lock_file(target))
        yield mine


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what is needed for a while; raises :class:`InputError` where there is none."""
    place = Path(tempfile.gettempdir())
    with ExitStack() as stack:
        with _refusing(place):
            folder = stack.enter_context(temporary_folder(place / f"slimnet-{_user()}"))
        yield folder


def _user() -> int:
    """Other users' files are theirs, wherever all of them write."""
    return os.getuid() if hasattr(os, "getuid") else 0


def write_bytes(target: Path, content: bytes | memoryview) -> None:
    """Write a file of these bytes; raises :class:`InputError`."""
    with replacing(target) as temporary:
        temporary.write_bytes(content)


def write_text(target: Path, text: str) -> None:
    """Write a text file; what no encoding knows is spelled out. Raises :class:`InputError`."""
    write_bytes(target, text.encode("utf-8", "backslashreplace"))


def write_json(target: Path, value: Any) -> None:
    """Write plain values, without NaN; raises :class:`InputError`."""
    write_text(target, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_torch(target: Path, payload: Any) -> None:
    """Write what :func:`torch.load` reads; raises :class:`InputError`."""
    with replacing(target) as temporary, _Patient(temporary) as stream:
        torch.save(payload, stream)
        stream.complain()


def in_memory(write: Callable[[BinaryIO], object]) -> memoryview:
    """What ``write`` writes into a file: for writers that end the process on a full disk."""
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getbuffer()


def set_aside(path: Path, kind: str) -> Path:
    """Rename a file that cannot be used, ``FILE.kind``; gives the new name.

    Nothing is lost, and no later run meets it. Raises :class:`InputError`.
    """
    names = (path.with_name(f"{path.name}.{kind}{n or ''}") for n in range(10**6))
    aside = next(name for name in names if not os.path.lexists(name))
    with _refusing(aside):
        path.replace(aside)
    return aside


class _Patient(io.FileIO):
    """A file that keeps its error until it is asked: torch's writer would hide what it was."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "wb")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Everything, however little the system takes at a time."""
        left = memoryview(data).cast("B")
        size = len(left)
        while self.error is None and len(left):
            try:
                left = left[super().write(left) :]
            except OSError as error:
                self.error = error
        return size

    def complain(self) -> None:
        """Raise what went wrong."""
        if self.error is not None:
            raise self.error


def _place(target: Path) -> Path:
    """Where a file of this name lies, behind symbolic links; refused where none could."""
    with _refusing(target):
        real = Path(os.path.realpath(target))
        for parent in (target.parent, real.parent):
            if not parent.is_dir():
                raise InputError(f"{target} cannot be written: there is no folder {parent}")
        if str(target) == "-" or any(map(_is_system, (target.parent, real.parent))):
            raise InputError(f"{target} is a stream or a device of the system: name a file")
        with suppress(FileNotFoundError):
            kind = stat.S_IFMT(real.stat().st_mode)
            if kind != stat.S_IFREG:
                raise InputError(f"{target} is a {_KINDS.get(kind, 'device')}: name a file")
    return real


_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}


def _is_system(folder: Path) -> bool:
    """``/dev/stdout`` and the like; ``/dev/shm`` holds files."""
    parts = Path(os.path.realpath(folder)).parts[1:]
    return parts[:1] in (("proc",), ("sys",)) or parts == ("dev",) or parts[:2] == ("dev", "fd")


def _settle(path: Path) -> None:
    """Wait until the disk has it: some file systems say only then that they are full."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


Kinds: TypeAlias = tuple[type[Exception], ...]


@contextmanager
def _refusing(target: Path, kinds: Kinds = (OSError, RuntimeError)) -> Iterator[None]:
    try:
        yield
    except kinds as error:  # torch's writers raise RuntimeErrors
        stopped = error.__context__
        if stopped is not None and not isinstance(stopped, Exception):
            raise stopped from None  # a signal: the writer fell over what it had not written
        raise InputError(f"{target} cannot be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError):
        return first_line(error)
    if error.errno is None:  # numpy's word for a disk that took only a part
        return f"no space left ({error})"
    return _FULL.get(error.errno) or os.strerror(error.errno)


_FULL = {
    errno.ENOSPC: "no space left on its disk; make room, or name a file elsewhere",
    errno.EDQUOT: "no space left in your quota; make room, or name a file elsewhere",
    errno.EFBIG: "no space left for a file of this size; name a file elsewhere",
}
