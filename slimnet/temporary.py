"""Files and folders that live while they are written, and leave with who writes them.

Takes a place, gives a temporary file or folder beside it, gone after the block. Its writer holds a
lock on it, which the kernel lets go of however the writer ends: what a killed one left is removed
by the next that writes to the same place, and nobody removes what another is still writing.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

if sys.platform != "win32":
    import fcntl


@contextmanager
def temporary_file(place: Path) -> Iterator[Path]:
    """An empty file beside ``place``, with the permissions of any new file; raises OSError."""
    with _held(place, folder=False) as path:
        yield path


@contextmanager
def temporary_folder(place: Path) -> Iterator[Path]:
    """An empty folder beside ``place`` that is the user's alone; raises OSError."""
    with _held(place, folder=True) as path:
        yield path


@contextmanager
def lock_file(path: Path) -> Iterator[bool]:
    """Whether the lock of the file ``path`` is this block's; nobody waits. Raises OSError.

    The file leaves with the block. The kernel lets go of the lock of one who was killed; where the
    file system has no locks, everybody may.
    """
    lock = _taken(path)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            with suppress(OSError):
                path.unlink()
            os.close(lock)


def _taken(path: Path) -> int | None:
    """What holds the lock of a file, which need not be there; None where another has it."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if _lock(lock) is False:
            os.close(lock)
            return None
        if _is_there(path, lock):
            return lock
        os.close(lock)  # who had it removed the file between the two lines above


@contextmanager
def _held(place: Path, *, folder: bool) -> Iterator[Path]:
    stem = _stem(place.name)
    _sweep(place.parent, stem)
    path, lock = place.parent / f"{stem}{secrets.token_hex(8)}.part", None
    try:  # a signal may come between any two lines
        lock = _locked(path, folder=folder)
        yield path
    finally:
        try:
            _remove(path)
        except BaseException as error:
            # a signal may come while a file leaves, too: it comes once, then it ends the program
            with suppress(OSError):  # what cannot be removed now is swept by the next
                _remove(path)
            if not isinstance(error, OSError):
                raise
        if lock is not None:
            os.close(lock)


_LONGEST = 200  # bytes of a name that leave room for what is added; 255 are a usual limit


def _stem(name: str) -> str:
    """How the temporary files of one place begin: hidden, and the same in every process."""
    encoded = os.fsencode(name)
    return f".{name}." if len(encoded) <= _LONGEST else f".{blake2b(encoded).hexdigest()}."


_OURS = re.compile(r"[0-9a-f]{16}\.part")


def _locked(path: Path, *, folder: bool) -> int:
    """What holds the lock of a new file or folder."""
    while True:
        lock = _made(path, folder=folder)
        if _lock(lock) is not False and _is_there(path, lock):
            return lock
        os.close(lock)  # swept between the two lines above


def _made(path: Path, *, folder: bool) -> int:
    """The kernel applies the umask: reading it would change it for all threads."""
    if folder:
        path.mkdir(0o700)
        return os.open(path, os.O_RDONLY)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def _lock(descriptor: int) -> bool | None:
    """Whether the lock is ours now; None where the file system has none."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sweep(parent: Path, stem: str) -> None:
    """Remove what writers left that are no longer there."""
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(stem) and _OURS.fullmatch(entry.name[len(stem) :]):
                _remove_unless_held(Path(entry.path))


def _remove_unless_held(path: Path) -> None:
    with suppress(OSError):
        way = os.O_RDONLY if stat.S_ISDIR(path.lstat().st_mode) else os.O_RDWR
        lock = os.open(path, way | getattr(os, "O_NOFOLLOW", 0))
        try:
            if _lock(lock):
                _remove(path)
        finally:
            os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
