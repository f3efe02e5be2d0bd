"""Where results go: refused before the work, written beside their place, moved when complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimnet.errors import InputError


def check_writable(target: Path) -> None:
    """Raise :class:`InputError` where no file ``target`` could be written."""
    if target.is_dir():
        raise InputError(f"{target} is a folder: name a file")
    if not target.parent.is_dir():
        raise InputError(f"{target} cannot be written: there is no folder {target.parent}")
    _try(target.parent, target)


def make_folder(folder: Path) -> Path:
    """Make the folder if need be; raises :class:`InputError` where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}") from error
    _try(folder, folder)
    return folder


def _try(folder: Path, named: Path) -> None:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".slimnet-"):
            pass
    except OSError as error:
        raise InputError(f"{named} cannot be written: {error.strerror}") from error


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary file beside ``target`` that takes its place once the block is through.

    Raises :class:`InputError` where it cannot be written; ``target`` is whole at any moment.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError of torch's writer
        reason = error.strerror if isinstance(error, OSError) else str(error).split("\n")[0]
        raise InputError(f"{target} cannot be written: {reason}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
